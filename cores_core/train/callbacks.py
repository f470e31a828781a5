"""What happens beside a training: callbacks, and the logs that are written by them.

<output>/metrics.jsonl      a row a step          <output>/validation.jsonl   a row a validation
<output>/tensorboard/       the same, for TensorBoard
"""

import json
from collections.abc import Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from cores_core.config import TrainConfig
from cores_core.evaluate.results import Evaluation
from cores_core.files import save_text
from cores_core.train.loop import StepReport


class Callback:
    """Hooks of a run, called in rank 0 between steps. All of them do nothing unless overridden."""

    def on_start(self, first_step: int, steps: int) -> None:
        """Training begins, or continues after `first_step` steps, of `steps` in all."""

    def on_changes(self, changes: Sequence[str]) -> None:
        """The run was resumed with changed settings or data; `changes` is not empty."""

    def on_step(self, report: StepReport) -> None:
        """A step is finished."""

    def on_validation(self, step: int, result: Evaluation) -> None:
        """A validation is finished."""

    def on_save(self, step: int, folder: str) -> None:
        """A checkpoint was written."""

    def on_death(self, message: str) -> None:
        """Another rank died; this process ends next."""

    def should_stop(self) -> bool:
        """Whether to save and stop after this step."""
        return False

    def close(self) -> None:
        """The run ends, also by an error."""


class JsonlLog(Callback):
    """Rows of all steps and validations. Those after the checkpoint from which a run continues are dropped."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._changes: tuple[str, ...] = ()  # not yet in a row

    def on_start(self, first_step: int, steps: int) -> None:
        """Drop rows of steps that are trained again."""
        for name in ("metrics", "validation"):
            _drop_rows_after(self._output / f"{name}.jsonl", first_step)

    def on_changes(self, changes: Sequence[str]) -> None:
        """Keep the changes for the row of the next step."""
        self._changes = tuple(changes)

    def on_step(self, report: StepReport) -> None:
        """Append a row."""
        changed = {"changes": list(self._changes)} if self._changes else {}
        append_row(self._output / "metrics.jsonl", {**report.row(), **changed})
        self._changes = ()

    def on_validation(self, step: int, result: Evaluation) -> None:
        """Append a row."""
        append_row(self._output / "validation.jsonl", {"step": step, **result.to_json()})


class TensorBoard(Callback):
    """The board of a run, also at Weights & Biases if `train.wandb` names a project."""

    def __init__(self, output: Path, train: TrainConfig) -> None:
        self._output = output
        self._train = train
        self._writer: SummaryWriter | None = None

    def on_start(self, first_step: int, steps: int) -> None:
        """Open the board; points of steps that are trained again are hidden."""
        if self._train.wandb is not None:
            _mirror_board(self._train.wandb, self._output)
        self._writer = SummaryWriter(str(self._output / "tensorboard"), purge_step=first_step + 1)

    def on_step(self, report: StepReport) -> None:
        """Add a point for each metric, every `train.log_every` steps."""
        if report.step % self._train.log_every == 0:
            for name, value in report.row().items():
                if name != "step":
                    self._add(f"train/{name}", value, report.step)

    def on_validation(self, step: int, result: Evaluation) -> None:
        """Add a point for each of the main scores."""
        for name in ("giou", "ciou", "coarse_giou"):
            self._add(f"validation/{name}", result.scores.values[name] or 0.0, step)

    def close(self) -> None:
        """Write what is buffered."""
        if self._writer is not None:
            self._writer.close()

    def _add(self, name: str, value: float, step: int) -> None:
        assert self._writer is not None
        self._writer.add_scalar(name, value, step)


def append_row(path: Path, row: dict[str, object]) -> None:
    """Append a row to a JSONL file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _drop_rows_after(path: Path, step: int) -> None:
    """Keep the rows up to a step and drop a truncated last row."""
    if not path.is_file():
        return
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                rows.append(line)
        except json.JSONDecodeError:
            break
    save_text("".join(f"{row}\n" for row in rows), path)


def _mirror_board(project: str, output: Path) -> None:
    """Mirror the TensorBoard log to Weights & Biases; a resumed run continues its W&B run."""
    import wandb

    name = output.resolve().name
    wandb.init(project=project, name=name, id=name, resume="allow", dir=output, sync_tensorboard=True)
