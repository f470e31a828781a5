"""`cores predict`: ask images questions, get masks."""

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from cores_cli import console
from cores_cli.commands.predict_many import Sources, Workers, choose_workers, predict_many, predict_stream
from cores_cli.interrupts import interrupts
from cores_cli.options import (
    EMBEDDED_MODEL,
    PARTWORLD_ONLY,
    PHOTO_MODEL,
    ConversationOption,
    DtypeOption,
    LoadInOption,
    ModelDeviceOption,
    ModelOption,
    ProtocolOption,
)
from cores_core.choices import Dtype, Engine, Format, ModelDevice, Quantization

if TYPE_CHECKING:
    from cores_core.predict import Prediction, SavedFiles
    from cores_core.predict_job import PredictJob
    from cores_core.sample import Query

QuestionsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="QUESTION...", help="One or more questions. Required, except with --plan.", show_default=False
    ),
]


def _parse_format(text: str) -> str:
    if text not in get_args(Format):
        raise typer.BadParameter(f"{text!r} is not one of {', '.join(get_args(Format))}")
    return text


_INPUT_HELP = "An image, a folder, a quoted glob, a .jsonl, a video, or - for JSONL. Required, except with --plan."
_FORMAT_HELP = f"What to write, repeatable: {', '.join(get_args(Format))}. Default: files (mask, overlay, JSON)."
InputArgument = Annotated[str | None, typer.Argument(metavar="INPUT", help=_INPUT_HELP, show_default=False)]
QuestionOption = Annotated[
    list[str] | None,
    typer.Option("--question", "-q", metavar="TEXT", help="A question; then all arguments are inputs."),
]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Output folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object for each question on stdout.")]
PhraseOption = Annotated[bool, typer.Option("--phrase", help="The questions are phrases, such as: tail of the fish.")]
FormatOption = Annotated[  # typer knows no list of a Literal
    list[str] | None, typer.Option("--format", "-f", parser=_parse_format, metavar="FORMAT", help=_FORMAT_HELP)
]
InstancesOption = Annotated[bool, typer.Option("--instances", help="Divide each mask into connected objects.")]
MinAreaOption = Annotated[int, typer.Option("--min-area", min=0, help="Remove regions with fewer pixels.")]
MaxHoleOption = Annotated[int, typer.Option("--max-hole", min=0, help="Fill holes of at most this many pixels.")]
MinScoreOption = Annotated[float, typer.Option("--min-score", min=0, max=1, help="Empty masks with a lower score.")]
EveryOption = Annotated[int, typer.Option("--every", min=1, help="Of videos, use each n-th frame.")]
GpusOption = Annotated[int, typer.Option("--gpus", min=0, help="For many images: GPUs that share them.")]
ProcessesOption = Annotated[int, typer.Option("--processes", min=1, help="For many images: CPU processes.")]
EngineOption = Annotated[
    Engine, typer.Option("--engine", help="For many images: what runs the workers; ray: a Ray cluster (cores[ray]).")
]
RayAddressOption = Annotated[
    str | None,
    typer.Option("--ray-address", metavar="HOST:PORT", help="Cluster. Default: RAY_ADDRESS, else one started here."),
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Continue an interrupted job in --output.")]
PlanOption = Annotated[bool, typer.Option("--plan", help="Show the model's parts and memory, load nothing.")]


def predict(
    image: InputArgument = None,
    questions: QuestionsArgument = None,
    more_questions: QuestionOption = None,
    model: ModelOption = EMBEDDED_MODEL,
    output: OutputOption = Path(),
    as_json: JsonOption = False,
    phrase: PhraseOption = False,
    protocol: ProtocolOption = "generate",
    device: ModelDeviceOption = "auto",
    dtype: DtypeOption = "auto",
    load_in: LoadInOption = None,
    conversation: ConversationOption = None,
    formats: FormatOption = None,
    instances: InstancesOption = False,
    min_area: MinAreaOption = 0,
    max_hole: MaxHoleOption = 0,
    min_score: MinScoreOption = 0.0,
    every: EveryOption = 1,
    gpus: GpusOption = 0,
    processes: ProcessesOption = 1,
    engine: EngineOption = "local",
    ray_address: RayAddressOption = None,
    resume: ResumeOption = False,
    plan: PlanOption = False,
) -> None:
    """Segment what a question about an image, or about each of many, asks for.

    Writes NAME.mask.png (0 or 255, the size of the image), NAME.overlay.png (the masks drawn on the image) and
    NAME.json; several questions give NAME.1.mask.png, NAME.2.mask.png and so on. For folders, lists and videos also
    predictions.jsonl, a row per question; an interrupted job continues with --resume.

    Example: cores predict fish.jpg "Which part steers the fish?"
    """
    if plan:
        return _show_plan(model, device, dtype, load_in, len(questions or ()) or 1)
    if image is None:
        raise typer.BadParameter("give an image and a question", param_hint="INPUT")
    from cores_core.instances import MaskCleaning
    from cores_core.model.source import ModelSource
    from cores_core.predict_job import PredictJob
    from cores_core.runtime import set_up_cpu
    from cores_core.sample import Query

    set_up_cpu()
    names = [image, *(questions or ())] if more_questions else [image]
    queries = [Query(question, is_sentence=not phrase) for question in more_questions or questions or ()]
    source = ModelSource(model, device, dtype, load_in, conversation)
    cleaning = MaskCleaning(min_area, max_hole, min_score, instances)
    job = PredictJob(source, output, protocol, cast(tuple[Format, ...], tuple(formats or ("files",))), cleaning)
    devices = [f"cuda:{rank}" for rank in range(gpus)] or [device] * processes
    workers = choose_workers(engine, ray_address, devices)
    _predict_inputs(job, Sources(names, queries, every), workers, resume, as_json)
    if model == EMBEDDED_MODEL:
        _recommend_photo_model(names, [query.text for query in queries], phrase)


def _predict_inputs(job: "PredictJob", sources: Sources, workers: Workers, resume: bool, as_json: bool) -> None:
    """One image is shown as it is answered, lines of standard input are streamed, all else is a job."""
    from cores_core.inputs import STDIN, is_single_image

    image, *others = sources.names
    if STDIN in sources.names:
        if workers.engine != "local":
            raise typer.BadParameter("standard input needs --engine local", param_hint="--engine")
        predict_stream(job, sources)
    elif others or not is_single_image(image) or job.formats != ("files",) or workers.engine != "local":
        predict_many(job, sources, workers, resume)
    elif sources.queries:
        _predict_one(job, image, sources.queries, as_json)
    else:
        raise typer.BadParameter("give at least one question", param_hint="QUESTION")


def _predict_one(job: "PredictJob", image: str, queries: Sequence["Query"], as_json: bool) -> None:
    """Answer questions about one image, and show each answer."""
    from cores_core.inputs import list_requests
    from cores_core.predict import Predictor, save_prediction
    from cores_core.predict_job import prediction_row

    started = time.perf_counter()
    (request,) = list_requests([image], queries)
    pixels = request.load()
    predictions = Predictor(job.source.load()).set_image(pixels, job.cleaning).ask(queries, job.protocol)
    seconds = (time.perf_counter() - started) / len(queries)
    for number, query in enumerate(queries, start=1):
        prediction = predictions.pop(0)  # its full-size logits are freed before the next are computed
        row = prediction_row(job, request, query, prediction, seconds)
        with interrupts.unwinding():
            files = save_prediction(prediction, pixels, job.output / request.output_name(number), row)
        if as_json:
            console.show_json(row)
        else:
            _show(prediction, files)


def _recommend_photo_model(names: Sequence[str], questions: Sequence[str], phrase: bool) -> None:
    """One line after every answer of the embedded model.

    It is not limited to photographs, because no simple statistic separates them from PartWorld's renderings: shares of
    distinct colours (0.13-0.22 against 0.001-0.51) and noise levels overlap.
    """
    asked = questions if len(names) == 1 else [part for question in questions for part in ("-q", question)]
    arguments = ["cores", "predict", *names, *asked, *(["--phrase"] if phrase else []), "--model", PHOTO_MODEL]
    command = shlex.join([*arguments, "--dtype", "bfloat16"])
    console.say(f"{PARTWORLD_ONLY}: {command}", "yellow")


def _show_plan(model: str, device: ModelDevice, dtype: Dtype, load_in: Quantization | None, questions: int) -> None:
    from cores_core.model.checkpoint import inspect_checkpoint
    from cores_core.model.plan import plan_prediction
    from cores_core.runtime import resolve_device, resolve_dtype

    place = resolve_device("cuda" if device == "spread" else device)
    precision = resolve_dtype(dtype, place)
    checkpoint, on_cpu = inspect_checkpoint(model), place.type == "cpu"
    memory = plan_prediction(checkpoint, precision, quantization=load_in, questions=questions, on_cpu=on_cpu)
    name = f"{load_in}, " if load_in else ""
    console.show_memory(f"{model}: {name}{str(precision).removeprefix('torch.')} on {place}", memory)


def _show(prediction: "Prediction", files: "SavedFiles") -> None:
    console.say(prediction.question, style="bold")
    console.say(prediction.answer)
    segmentation = prediction.segmentation
    if segmentation.rejected:
        doubt = "" if segmentation.predicted_iou is None else f" (predicted IoU {segmentation.predicted_iou:.2f})"
        console.say(f"rejected: the image shows no such thing{doubt}; the mask is empty", style="yellow")
    elif not prediction.mask.any():
        console.say("nothing found: the mask is empty", style="yellow")
    share = console.percent(float(prediction.mask.mean()))
    console.say(f"score {prediction.score:.2f}, {share} % of the image")
    console.out.print(f"mask     {files.mask}\noverlay  {files.overlay}")
