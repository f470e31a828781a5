"""`cores predict`: ask an image questions, get masks."""

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cores_cli import console
from cores_cli.interrupts import interrupts
from cores_cli.options import (
    EMBEDDED_MODEL,
    PHOTO_MODEL,
    ConversationOption,
    DtypeOption,
    LoadInOption,
    ModelDeviceOption,
    ModelOption,
    ProtocolOption,
)
from cores_core.choices import Dtype, ModelDevice, Quantization

if TYPE_CHECKING:
    from cores_core.predict import Prediction, SavedFiles

QuestionsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="QUESTION...", help="One or more questions. Required, except with --plan.", show_default=False
    ),
]


def predict(
    image: Annotated[
        str | None,
        typer.Argument(metavar="IMAGE", help="An image file. Required, except with --plan.", show_default=False),
    ] = None,
    questions: QuestionsArgument = None,
    model: ModelOption = EMBEDDED_MODEL,
    output: Annotated[Path, typer.Option("--output", "-o", help="Output folder.")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each question on stdout.")] = False,
    phrase: Annotated[
        bool, typer.Option("--phrase", help="The questions are phrases, such as: tail of the fish.")
    ] = False,
    protocol: ProtocolOption = "generated",
    device: ModelDeviceOption = "auto",
    dtype: DtypeOption = "auto",
    load_in: LoadInOption = None,
    conversation: ConversationOption = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show the model's parts and memory, load nothing.")] = False,
) -> None:
    """Segment what a question about an image asks for.

    Writes NAME.mask.png (0 or 255, the size of the image), NAME.overlay.png (the masks drawn on the image) and
    NAME.json; several questions give NAME.1.mask.png, NAME.2.mask.png and so on.

    Example: cores predict fish.jpg "Which part steers the fish?"
    """
    if plan:
        return _show_plan(model, device, dtype, load_in, len(questions or ()) or 1)
    if image is None:
        raise typer.BadParameter("give an image and a question", param_hint="IMAGE")
    if not questions:
        raise typer.BadParameter("give at least one question", param_hint="QUESTION")
    from cores_core.images import load_image
    from cores_core.predict import Predictor, save_prediction
    from cores_core.sample import Query

    started = time.perf_counter()
    pixels = load_image(image)
    predictor = Predictor.from_checkpoint(model, device, dtype, load_in, conversation)
    queries = [Query(question, is_sentence=not phrase) for question in questions]
    predictions = predictor.predict_many(pixels, queries, protocol=protocol)
    seconds = (time.perf_counter() - started) / len(questions)
    path, count = Path(image), len(predictions)
    for number in range(1, count + 1):
        prediction = predictions.pop(0)  # its full-size logits are not kept while the next are made
        about: dict[str, Any] = {"image": str(path), **prediction.to_json()}
        about |= {"model": model, "protocol": protocol, "seconds": round(seconds, 3)}
        name = path.stem if count == 1 else f"{path.stem}.{number}"
        with interrupts.unwinding():
            files = save_prediction(prediction, pixels, output / name, about)
        if as_json:
            console.show_json(about)
        else:
            _show(prediction, files)
    if model == EMBEDDED_MODEL:
        _recommend_photo_model(image, questions, phrase)


def _recommend_photo_model(image: str, questions: Sequence[str], phrase: bool) -> None:
    """One line after every answer of the embedded model.

    It is not limited to photographs, because no simple statistic tells them from PartWorld's renderings: shares of
    distinct colours (0.13-0.22 against 0.001-0.51) and noise levels overlap.
    """
    arguments = ["cores", "predict", image, *questions, *(["--phrase"] if phrase else []), "--model", PHOTO_MODEL]
    command = shlex.join([*arguments, "--dtype", "bfloat16"])
    console.say(f"note: `{EMBEDDED_MODEL}` knows drawn PartWorld scenes only; for photographs: {command}", "yellow")


def _show_plan(model: str, device: ModelDevice, dtype: Dtype, load_in: Quantization | None, questions: int) -> None:
    from cores_core.model.checkpoint import inspect_checkpoint
    from cores_core.model.plan import plan_prediction
    from cores_core.runtime import resolve_device, resolve_dtype

    place = resolve_device("cuda" if device == "spread" else device)
    precision = resolve_dtype(dtype, place)
    memory = plan_prediction(inspect_checkpoint(model), precision, quantization=load_in, questions=questions)
    name = f"{load_in}, " if load_in else ""
    console.show_memory(f"{model}: {name}{str(precision).removeprefix('torch.')} on {place}", memory)


def _show(prediction: "Prediction", files: "SavedFiles") -> None:
    console.say(prediction.question, style="bold")
    console.say(prediction.answer)
    if not prediction.mask.any():
        console.say("nothing found: the mask is empty", style="yellow")
    share = console.percent(float(prediction.mask.mean()))
    console.say(f"score {prediction.score:.2f}, {share} % of the image")
    console.out.print(f"mask     {files.mask}\noverlay  {files.overlay}")
