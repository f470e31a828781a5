"""Each step's batch is a pure function of its number, and no image is skipped or shown twice."""

from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from cores_core.config import Config, TrainConfig
from cores_core.data.mixture import Mixture, SampleOptions
from cores_core.data.store import Store
from cores_core.errors import DataError
from cores_core.model.checkpoint import Checkpoint
from cores_core.model.families.llava_prompts import LlavaPrompts
from cores_core.model.processor import Processor
from cores_core.runtime import Group
from cores_core.train.loop import DETOUR, Steps
from cores_core.train.recipe import Recipe

RECIPE = Recipe(Config(train=TrainConfig(steps=3, global_batch_size=2)))
ALONE = Group()
BATCHES = [[(0, 3), (1, 3)], [(2, 3), (3, 3)], [(4, 3), (5, 3)]]


class _Positions:
    """A mixture whose samples are their own position_ids, and a processor that leaves them as they are."""

    def __init__(self, damaged: Container[int] = ()) -> None:
        self.damaged = damaged

    def draw(self, position: int, queries: int) -> tuple[int, int]:
        if position in self.damaged:
            raise DataError(f"cannot read image {position}")
        return position, queries

    def tokenize(self, sample: Any) -> Any:
        return sample

    def collate_tokenized(self, samples: Sequence[int], rows: Sequence[int]) -> list[int]:
        assert samples == rows
        return list(samples)


def test_steps_take_the_images_in_order() -> None:
    assert _batches(first=0) == BATCHES


def test_steps_from_any_step_on_are_the_rest() -> None:
    for first in range(4):
        assert _batches(first) == BATCHES[first:]


def test_a_group_shares_the_images_of_each_step() -> None:
    first, second = (_batches(0, Group(rank, size=2)) for rank in range(2))
    assert first == [[(0, 3)], [(2, 3)], [(4, 3)]]
    assert second == [[(1, 3)], [(3, 3)], [(5, 3)]]


def test_there_is_no_step_after_the_last() -> None:
    assert _batches(first=9) == []


def test_a_step_may_be_read_in_smaller_batches() -> None:
    source: Any = _Positions()
    recipe = Recipe(Config(train=TrainConfig(steps=2, global_batch_size=5, micro_batch_size=2)))
    steps = [
        Steps(source, source, recipe, 0, group)[1].batches for group in (ALONE, Group(0, size=2), Group(1, size=2))
    ]
    position_ids = [[[position for position, _ in batch] for batch in batches] for batches in steps]
    assert position_ids == [[[5, 6], [7, 8], [9]], [[5, 7], [9]], [[6, 8]]]


def test_a_sample_that_cannot_be_used_gives_its_place_to_another_and_is_named() -> None:
    source: Any = _Positions(damaged={3, 3 + DETOUR})
    data = Steps(source, source, RECIPE, 0, ALONE)[1]
    assert data.batches == [[(2, 3), (3 + 2 * DETOUR, 3)]]
    assert data.skipped == ["cannot read image 3", f"cannot read image {3 + DETOUR}"]


def test_when_nothing_can_be_used_the_run_ends() -> None:
    source: Any = _Positions(damaged=range(10**9))
    with pytest.raises(DataError, match="5 samples in a row"):
        Steps(source, source, RECIPE, 0, ALONE)[0]


def _batches(first: int, group: Group = ALONE) -> list[Any]:
    source: Any = _Positions()
    steps = Steps(source, source, RECIPE, first, group)
    return [[image for batch in steps[index].batches for image in batch] for index in range(len(steps))]


def test_the_answers_of_a_step_are_tokenized_once(checkpoint: Checkpoint, partworld_root: Path) -> None:
    texts: list[str] = []

    class Counting:
        """The model's tokenizer, with a list of what it encoded."""

        def __getattr__(self, name: str) -> Any:
            return getattr(checkpoint.processor.tokenizer, name)

        def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
            texts.append(text)
            return list(checkpoint.processor.tokenizer.encode(text, add_special_tokens=add_special_tokens))

    source: Any = Counting()
    ours = checkpoint.processor
    own = ours.mllm
    assert isinstance(own, LlavaPrompts)
    processor = Processor(LlavaPrompts(source, ours.prompt, own.square, own.max_tokens), ours.prompt, ours.frame)
    mixture = Mixture([Store(partworld_root, "partworld", "train")], ours.prompt, SampleOptions(queries=2), seed=0)
    recipe = Recipe(Config(train=TrainConfig(steps=1, global_batch_size=3)))
    (batch,) = Steps(mixture, processor, recipe, 0, ALONE)[0].batches
    samples = [mixture.draw(position, recipe.config.train.queries_per_image) for position in range(3)]
    turns = sum(len(sample.turns) for sample in samples)
    assert len(texts) == 2 * turns + 1  # question and answer of each turn, and the prefix that all share
    expected = ours.collate(samples)
    for name in ("input_ids", "position_ids", "sequence_ids", "labels", "sam_pixels"):
        assert torch.equal(getattr(batch, name), getattr(expected, name))
