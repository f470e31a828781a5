"""Prototypes: pixels agree with what is shown, prompts with what is asked."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from cores_core.config import Config
from cores_core.model.cores import TextOutput
from cores_core.model.segmenter import DECODER_SCALE
from cores_core.train.scratch.objective import SHARPNESS, ScratchObjective, _shares

CATEGORIES = {"Fish": "object", "Fish Head": "part", "Fish Tail": "part"}


@pytest.fixture
def head() -> ScratchObjective:
    """Prototypes that are easy to tell apart: axis 0-2 for the categories, 3 and 4 for the backgrounds.

    The fine cells look like the coarse cell they lie in.
    """
    head = ScratchObjective(Config(), CATEGORIES, width=5)
    with torch.no_grad():
        head.prototypes.copy_(20 * torch.eye(5)[:3])
        head.backgrounds.copy_(20 * torch.eye(5)[3:])
        head.detail.weight.copy_(torch.eye(5)[:, :, None, None].expand(5, 5, 4, 4))
        head.detail.bias.zero_()
    return head


def test_what_agrees_with_everything_costs_nothing(head: ScratchObjective) -> None:
    assert _loss(head, prompt=2).item() == pytest.approx(0, abs=1e-4)


def test_a_prompt_for_something_else_costs_the_gap_and_the_distance(head: ScratchObjective) -> None:
    distance = 2 * 20 * 20
    expected = SHARPNESS * distance + distance
    assert _loss(head, prompt=1).item() == pytest.approx(expected, rel=1e-5)


def test_the_prompts_of_all_steps_count_and_move_towards_the_prototypes(head: ScratchObjective) -> None:
    prompts = tuple(torch.randn(1, 5, requires_grad=True) for _ in range(2))
    text = TextOutput(prompts, torch.zeros(0, 2), torch.zeros(0).long())
    head.prompt_loss(text, _batch("Fish Tail")).backward()
    assert head.prototypes.grad is None
    for prompt in prompts:
        assert prompt.grad is not None
        assert (prompt.grad @ (head.prototypes[2] - prompt.detach())[0]).item() < 0


def test_pixels_of_something_else_cost_the_gap(head: ScratchObjective) -> None:
    """The left column shows a tail where the truth is a head: half of the cells of one kind are wrong by 20, twice."""
    assert _loss(head, prompt=2, left=2).item() == pytest.approx(2 * 10, abs=1e-3)


def test_the_fine_cells_are_looked_at_too(head: ScratchObjective) -> None:
    torch.nn.init.zeros_(head.detail.weight)  # no fine cell looks like anything
    chances = math.log(3) + math.log(2)  # two parts and one object, each beside a background
    assert _loss(head, prompt=2).item() == pytest.approx(chances, abs=1e-3)


def test_prompts_are_the_prototypes_of_what_is_asked(head: ScratchObjective) -> None:
    batch: Any = SimpleNamespace(extras={"asked": ("Fish Tail", "Fish", "Fish Tail")})
    assert torch.equal(head.prompts(batch), head.prototypes[[2, 0, 2]])


def test_a_cell_half_covered_belongs_half_to_each(head: ScratchObjective) -> None:
    half = torch.zeros(1, 8, 8, dtype=torch.uint8)
    half[:, :, 2:4] = 255  # the right half of the left column of cells
    batch = _batch("Fish Tail", shown=("Fish Head",), maps=half)
    coverage = functional.avg_pool2d(head._coverage(batch, 0)[None], DECODER_SCALE)
    shares = _shares(coverage[:, head.members["part"]])
    assert shares[0, :, 0, 0].tolist() == [0.5, 0.5, 0.0]
    assert shares[0, :, 0, 1].tolist() == [1.0, 0.0, 0.0]


def test_an_image_without_annotations_shows_background_alone(head: ScratchObjective) -> None:
    batch = _batch("Fish Tail", shown=(), maps=torch.zeros(0, 8, 8, dtype=torch.uint8))
    assert head._coverage(batch, 0).tolist() == torch.zeros(3, 8, 8).tolist()


def test_all_prototypes_learn(head: ScratchObjective) -> None:
    torch.nn.init.normal_(head.prototypes)
    _loss(head, prompt=0, left=0).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in head.parameters())


def _loss(head: ScratchObjective, prompt: int, left: int = 1) -> Tensor:
    output, batch = _output(prompt, left), _batch("Fish Tail")
    return head.prompt_loss(output.text, batch) + head.pixel_loss(output.features[-1], batch)


def _output(prompt: int, left: int = 1) -> Any:
    """A 2 x 2 grid whose left column looks like category `left` and like a fish, the right one like background."""
    axes = torch.eye(5)
    column_left, column_right = axes[left] + axes[0], axes[3] + axes[4]
    if left == 0:
        column_left = axes[0]
    image: Tensor = torch.stack([column_left, column_right], dim=1)[None, :, None].expand(1, 5, 2, 2)
    text = TextOutput((20 * axes[prompt][None],) * 2, torch.zeros(0, 2), torch.zeros(0).long())
    return SimpleNamespace(text=text, features=(image,))


def _batch(asked: str, shown: tuple[str, ...] = ("Fish", "Fish Head"), maps: Tensor | None = None) -> Any:
    """An image of 8 x 8 pixels whose left half shows the head of a fish, which is all that is seen of it."""
    if maps is None:
        maps = torch.zeros(2, 8, 8, dtype=torch.uint8)
        maps[:, :, :4] = 255
    return SimpleNamespace(counts=(1,), extras={"asked": (asked,), "shown": (shown,), "coverage": (maps,)})
