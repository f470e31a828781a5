"""`cores predict`: ask an image questions, get masks."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cores_cli import console
from cores_cli.options import DeviceName, DeviceOption, ModelOption, ProtocolName, ProtocolOption

if TYPE_CHECKING:
    from cores_core.predict import Prediction, SavedFiles


def predict(
    image: Annotated[Path, typer.Argument(help="The image: JPEG, PNG, WebP, BMP or TIFF.", show_default=False)],
    questions: Annotated[list[str], typer.Argument(metavar="QUESTION...", help="One or more questions.")],
    model: ModelOption = "tiny",
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the files.")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per question on stdout.")] = False,
    phrase: Annotated[
        bool, typer.Option("--phrase", help="The questions are bare phrases, such as: tail of the fish.")
    ] = False,
    protocol: ProtocolOption = ProtocolName.generated,
    device: DeviceOption = DeviceName.auto,
) -> None:
    """Segment what a question asks about.

    Writes NAME.mask.png (0 or 255, the image's own size), NAME.overlay.png (a picture to look at) and NAME.json into
    the output folder; several questions give NAME.1.mask.png, NAME.2.mask.png and so on.

    Example: cores predict fish.jpg "Which part steers the fish?"
    """
    from cores_core.images import load_image
    from cores_core.predict import Predictor, save_prediction
    from cores_core.sample import Query

    started = time.perf_counter()
    pixels = load_image(image)
    predictor = Predictor.from_checkpoint(model, device=device.value)
    queries = [Query(question, is_sentence=not phrase) for question in questions]
    predictions = predictor.predict_many(pixels, queries, protocol=protocol.value)
    seconds = (time.perf_counter() - started) / len(questions)
    for number, prediction in enumerate(predictions, start=1):
        about: dict[str, Any] = {"image": str(image), **prediction.to_json()}
        about |= {"model": model, "protocol": protocol.value, "seconds": round(seconds, 3)}
        name = image.stem if len(predictions) == 1 else f"{image.stem}.{number}"
        files = save_prediction(prediction, pixels, output / name, about)
        if as_json:
            console.show_json(about)
        else:
            _show(prediction, files)


def _show(prediction: "Prediction", files: "SavedFiles") -> None:
    console.say(prediction.question, style="bold")
    console.say(prediction.answer)
    if not prediction.mask.any():
        console.say("nothing was found: the mask is empty", style="yellow")
    share = console.percent(float(prediction.mask.mean()))
    console.say(f"score {prediction.score:.2f}, {share} % of the image")
    console.out.print(f"mask     {files.mask}\noverlay  {files.overlay}")
