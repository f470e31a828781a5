"""`cores train`: train a model from a preset, interrupted and resumed at will."""

import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress, TaskID

from cores_cli import console
from cores_cli.options import DataRootOption, DeviceName, DeviceOption

if TYPE_CHECKING:
    from cores_core.evaluate.results import Evaluation
    from cores_core.train.loop import StepReport

INTERRUPTED = 130


def train(
    preset: Annotated[str, typer.Option("--preset", help="A preset by name, or a YAML file.")] = "tiny",
    data_root: DataRootOption = Path("data"),
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of this run.")] = Path("runs/tiny"),
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --output.")] = False,
    start_from: Annotated[
        str | None, typer.Option("--from", metavar="MODEL", help="Start from this model's weights, not at random.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting: train.steps=2000.")
    ] = None,
    processes: Annotated[
        int, typer.Option("--processes", min=1, help="Processes on this CPU that share the images of each step.")
    ] = 1,
    device: DeviceOption = DeviceName.auto,
    plan: Annotated[bool, typer.Option("--plan", help="Only show what would train, and the memory it takes.")] = False,
) -> None:
    """Train a model.

    Ctrl-C saves a checkpoint and exits with code 130; `--resume` continues exactly where it stopped. With --resume the
    run's own config.yaml is read; --set still applies.
    """
    from cores_core.runtime import resolve_device
    from cores_core.settings import load_config
    from cores_core.train.launch import launch_training
    from cores_core.train.start import TrainJob, plan_memory

    source = output / "config.yaml" if resume and (output / "config.yaml").is_file() else preset
    starts = () if start_from is None else (f"train.start_from={start_from}",)
    config = load_config(source, (*starts, *(settings or ())))
    job = TrainJob(config=config, data_root=data_root, output=output, device=resolve_device(device))
    if plan:
        return console.show_memory(f"training {preset}", plan_memory(job)[1])
    with console.progress_bar() as progress, _StopOnSignal() as stop:
        reporter = _TerminalReporter(progress, stop, config.train.log_every)
        steps = launch_training(job, reporter, resume, processes)
    if steps < config.train.steps:
        console.say(f"stopped after step {steps}; continue with: cores train --resume --output {output}")
        raise typer.Exit(INTERRUPTED)
    console.say(f"done after {steps} steps: {output}")


class _StopOnSignal:
    """Turns the first SIGINT or SIGTERM into a wish to stop; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "_StopOnSignal":
        self._previous = {number: signal.signal(number, self._request) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, _: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
        console.say("saving and stopping after this step ...")


class _TerminalReporter:
    """Shows a run: a bar on a terminal, plain lines elsewhere."""

    def __init__(self, progress: Progress, stop: _StopOnSignal, log_every: int) -> None:
        self._progress = progress
        self._stop = stop
        self._log_every = log_every
        self._task = TaskID(0)
        self._steps = 0

    def on_start(self, first_step: int, steps: int) -> None:
        self._steps = steps
        self._task = self._progress.add_task("training", total=steps, completed=first_step)

    def on_step(self, report: "StepReport") -> None:
        line = f"loss {report.loss:.3f}  text {report.text:.3f}  bce {report.bce:.3f}  dice {report.dice:.3f}"
        self._progress.update(self._task, completed=report.step, description=line)
        if not console.talk.is_terminal and report.step % self._log_every == 0:
            console.say(f"step {report.step}/{self._steps}  {line}  {report.seconds:.2f} s")

    def on_validation(self, step: int, result: "Evaluation") -> None:
        values = result.scores.values
        scores = f"gIoU {console.percent(values['giou'])}  C1 {console.percent(values['coarse_giou'])}"
        console.say(f"validation after step {step}: {scores}  ({result.scores.count} queries, protocol given)")

    def on_save(self, step: int, folder: str) -> None:
        console.say(f"saved {folder}")

    def on_death(self, message: str) -> None:
        console.say(f"error: {message}", style="bold red")

    def should_stop(self) -> bool:
        return self._stop.requested
