"""Each step's batch is a pure function of its number, and no image is skipped or shown twice."""

from typing import Any

from cores_core.config import TrainConfig
from cores_core.train.loop import Steps

CONFIG = TrainConfig(steps=5, pretrain_steps=2, pretrain_images=3, images_per_step=2)
POSITIONS = [[0, 1, 2], [3, 4, 5], [6, 7], [8, 9], [10, 11]]


class _Positions:
    """A mixture whose samples are their own positions, and a processor that leaves them as they are."""

    def __getitem__(self, position: int) -> int:
        return position

    def collate(self, samples: list[int]) -> list[int]:
        return samples


def test_steps_take_the_images_in_order_larger_batches_while_pretraining() -> None:
    assert _batches(first=0) == POSITIONS


def test_steps_from_any_step_on_are_the_rest() -> None:
    for first in range(6):
        assert _batches(first) == POSITIONS[first:]


def test_there_is_no_step_after_the_last() -> None:
    assert _batches(first=9) == []


def _batches(first: int) -> list[Any]:
    source: Any = _Positions()
    steps = Steps(source, source, CONFIG, first)
    return [steps[index] for index in range(len(steps))]
