"""`cores predict`: ask an image questions, get masks."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cores_cli import console
from cores_cli.interrupts import interrupts
from cores_cli.options import (
    ConversationOption,
    DtypeName,
    DtypeOption,
    LoadInOption,
    ModelOption,
    PlaceName,
    PlaceOption,
    ProtocolName,
    ProtocolOption,
    QuantizationName,
    load_predictor,
)

if TYPE_CHECKING:
    from cores_core.predict import Prediction, SavedFiles

QuestionsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="QUESTION...", help="Required, but for --plan: one or more.", show_default=False),
]


def predict(
    image: Annotated[
        str | None,
        typer.Argument(metavar="IMAGE", help="Required, but for --plan: an image file.", show_default=False),
    ] = None,
    questions: QuestionsArgument = None,
    model: ModelOption = "tiny",
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the files.")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per question on stdout.")] = False,
    phrase: Annotated[
        bool, typer.Option("--phrase", help="The questions are bare phrases, such as: tail of the fish.")
    ] = False,
    protocol: ProtocolOption = ProtocolName.generated,
    device: PlaceOption = PlaceName.auto,
    dtype: DtypeOption = DtypeName.auto,
    load_in: LoadInOption = None,
    conversation: ConversationOption = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only show what would be loaded, and its memory.")] = False,
) -> None:
    """Segment what a question asks about.

    Writes NAME.mask.png (0 or 255, the image's own size), NAME.overlay.png (a picture to look at) and NAME.json into
    the output folder; several questions give NAME.1.mask.png, NAME.2.mask.png and so on.

    Example: cores predict fish.jpg "Which part steers the fish?"
    """
    if plan:
        return _show_plan(model, device, dtype, load_in, len(questions or ()) or 1)
    if image is None:
        raise typer.BadParameter("give an image and a question", param_hint="IMAGE")
    if not questions:
        raise typer.BadParameter("give at least one question", param_hint="QUESTION")
    from cores_core.images import load_image
    from cores_core.predict import save_prediction
    from cores_core.sample import Query

    started = time.perf_counter()
    pixels = load_image(image)
    predictor = load_predictor(model, device, dtype, load_in, conversation)
    queries = [Query(question, is_sentence=not phrase) for question in questions]
    predictions = predictor.predict_many(pixels, queries, protocol=protocol.value)
    seconds = (time.perf_counter() - started) / len(questions)
    path, count = Path(image), len(predictions)
    for number in range(1, count + 1):
        prediction = predictions.pop(0)  # its full-size logits are not kept while the next are made
        about: dict[str, Any] = {"image": str(path), **prediction.to_json()}
        about |= {"model": model, "protocol": protocol.value, "seconds": round(seconds, 3)}
        name = path.stem if count == 1 else f"{path.stem}.{number}"
        with interrupts.unwinding():
            files = save_prediction(prediction, pixels, output / name, about)
        if as_json:
            console.show_json(about)
        else:
            _show(prediction, files)


def _show_plan(
    model: str, device: PlaceName, dtype: DtypeName, load_in: QuantizationName | None, questions: int
) -> None:
    from cores_core.model.checkpoint import inspect_checkpoint
    from cores_core.model.plan import plan_prediction
    from cores_core.runtime import resolve_device, resolve_dtype

    place = resolve_device("cuda" if device is PlaceName.spread else device.value)
    precision = resolve_dtype(dtype.value, place)
    memory = plan_prediction(
        inspect_checkpoint(model), precision, quantization=load_in.value if load_in else None, questions=questions
    )
    name = f"{load_in.value}, " if load_in else ""
    console.show_memory(f"{model}: {name}{str(precision).removeprefix('torch.')} on {place}", memory)


def _show(prediction: "Prediction", files: "SavedFiles") -> None:
    console.say(prediction.question, style="bold")
    console.say(prediction.answer)
    if not prediction.mask.any():
        console.say("nothing was found: the mask is empty", style="yellow")
    share = console.percent(float(prediction.mask.mean()))
    console.say(f"score {prediction.score:.2f}, {share} % of the image")
    console.out.print(f"mask     {files.mask}\noverlay  {files.overlay}")
