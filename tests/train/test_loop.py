"""Each step's batch is a pure function of its number, and no image is skipped or shown twice."""

from typing import Any

from cores_core.config import TrainConfig
from cores_core.runtime import Group
from cores_core.train.loop import Steps

CONFIG = TrainConfig(steps=5, pretrain_steps=2, pretrain_images=3, pretrain_queries=4, images_per_step=2)
ALONE = Group()
PICTURES, WHOLE = [[(0, 4), (1, 4), (2, 4)], [(3, 4), (4, 4), (5, 4)]], [[6, 7], [8, 9], [10, 11]]


class _Positions:
    """A mixture whose samples are their own positions, and a processor that leaves them as they are."""

    def __getitem__(self, position: int) -> int:
        return position

    def draw(self, position: int, queries: int) -> tuple[int, int]:
        return position, queries

    def collate(self, samples: list[int]) -> list[int]:
        return samples

    collate_pictures = collate


def test_steps_take_the_images_in_order_and_other_batches_of_pictures_while_pretraining() -> None:
    assert _batches(first=0) == [*PICTURES, *WHOLE]


def test_steps_from_any_step_on_are_the_rest() -> None:
    for first in range(6):
        assert _batches(first) == [*PICTURES, *WHOLE][first:]


def test_a_group_shares_the_images_of_each_step() -> None:
    first, second = (_batches(0, Group(rank, size=2)) for rank in range(2))
    assert first[2:] == [[6], [8], [10]]
    assert second[2:] == [[7], [9], [11]]
    assert [sorted(ours + theirs) for ours, theirs in zip(first, second, strict=True)] == [*PICTURES, *WHOLE]


def test_there_is_no_step_after_the_last() -> None:
    assert _batches(first=9) == []


def test_a_step_may_be_read_in_smaller_batches() -> None:
    source: Any = _Positions()
    config = TrainConfig(steps=2, images_per_step=5, images_at_once=2)
    steps = [Steps(source, source, config, 0, group)[1] for group in (ALONE, Group(0, size=2), Group(1, size=2))]
    assert steps == [[[5, 6], [7, 8], [9]], [[5, 7], [9]], [[6, 8]]]


def _batches(first: int, group: Group = ALONE) -> list[Any]:
    source: Any = _Positions()
    steps = Steps(source, source, CONFIG, first, group)
    return [[image for batch in steps[index] for image in batch] for index in range(len(steps))]
