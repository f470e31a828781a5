"""Show a training run on the terminal. It imports torch, so commands import it only when training starts."""

from collections.abc import Sequence

from rich.progress import Progress, TaskID

from cores_cli import console
from cores_cli.interrupts import interrupts
from cores_core.evaluate.results import Evaluation
from cores_core.train.callbacks import Callback
from cores_core.train.loop import StepReport


class TerminalCallback(Callback):
    """Shows a progress bar on a terminal; where output is redirected, a line every `log_every` steps."""

    def __init__(self, progress: Progress, log_every: int) -> None:
        self._progress = progress
        self._log_every = log_every
        self._task = TaskID(0)
        self._steps = 0

    def on_start(self, first_step: int, steps: int) -> None:
        """Add the bar; `first_step` of `steps` steps are done."""
        self._steps = steps
        self._task = self._progress.add_task("training", total=steps, completed=first_step)

    def on_step(self, report: StepReport) -> None:
        """Update the bar; without a terminal, print a line every `log_every` steps."""
        line = f"loss {report.loss:.3f}  text {report.text:.3f}  bce {report.bce:.3f}  dice {report.dice:.3f}"
        self._progress.update(self._task, completed=report.step, description=line)
        if report.skipped:
            console.say(
                f"step {report.step}: {report.skipped} samples of this step skipped, see skipped-*.jsonl",
                style="yellow",
            )
        if not console.talk.is_terminal and report.step % self._log_every == 0:
            console.say(f"step {report.step}/{self._steps}  {line}  {report.seconds:.2f} s")

    def on_validation(self, step: int, result: Evaluation) -> None:
        """Print gIoU of the final mask and of the coarse mask (C1), in percent."""
        values = result.scores.values
        scores = f"gIoU {console.percent(values['giou'])}  C1 {console.percent(values['coarse_giou'])}"
        console.say(f"validation after step {step}: {scores}  ({result.scores.count} queries, protocol teacher_forced)")

    def on_save(self, step: int, folder: str) -> None:
        """Print the folder of the checkpoint."""
        console.say(f"saved {folder}")

    def on_changes(self, changes: Sequence[str]) -> None:
        """Print how settings and data of a resumed run differ from those before."""
        console.say("note: the run is resumed with changes, recorded in its config.yaml and metrics.jsonl:", "yellow")
        for change in changes:
            console.say(f"    {change}")

    def on_death(self, message: str) -> None:
        """Print the error."""
        console.say(f"error: {message}", style="bold red")

    def should_stop(self) -> bool:
        """Whether the user has interrupted the run, which is then saved."""
        interrupts.check()
        return interrupts.number is not None
