"""What tests of training runs share: someone who listens to a run, and what a run wrote."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cores_core.evaluate.results import Evaluation
from cores_core.train.callbacks import Callback
from cores_core.train.loop import StepReport


@dataclass
class Listener(Callback):
    """Hears everything; stops, or dies, after a step if told so."""

    stop_after: int | None = None
    die_after: int | None = None
    started: list[tuple[int, int]] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    validations: list[int] = field(default_factory=list)
    saves: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)

    def on_start(self, first_step: int, steps: int) -> None:
        self.started.append((first_step, steps))

    def on_step(self, report: StepReport) -> None:
        self.steps.append(report.step)
        if report.step == self.die_after:
            raise KeyboardInterrupt

    def on_changes(self, changes: Sequence[str]) -> None:
        self.changes = list(changes)

    def on_validation(self, step: int, result: Evaluation) -> None:
        assert result.items
        self.validations.append(step)

    def on_save(self, step: int, folder: str) -> None:
        self.saves.append(Path(folder).name)

    def on_death(self, message: str) -> None:
        raise AssertionError(message)

    def should_stop(self) -> bool:
        return self.steps[-1] == self.stop_after


def read_rows(output: Path, name: str = "metrics") -> list[dict[str, Any]]:
    """A row a step, or a row a validation."""
    return [json.loads(line) for line in (output / f"{name}.jsonl").read_text().splitlines()]


def read_trajectory(output: Path) -> list[dict[str, Any]]:
    """All that a run logged but how long it took, and what was changed when it was resumed."""
    left_out = ("seconds", "changes")
    return [{name: value for name, value in row.items() if name not in left_out} for row in read_rows(output)]
