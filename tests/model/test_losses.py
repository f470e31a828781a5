"""Losses by hand: pixel by pixel, mask by mask."""

import math
from dataclasses import replace

import pytest
import torch
from helpers import mask, noise_image
from torch import Tensor

from cores_core.config import LossWeights
from cores_core.model.checkpoint import Checkpoint
from cores_core.model.losses import Losses, bce_loss, compute_losses, dice_loss
from cores_core.model.processor import Batch
from cores_core.prompts import render_turn
from cores_core.sample import BoolMask, Query, Sample

SURE = 40.0
"""A logit whose sigmoid is 1 for all purposes."""
WEIGHTS = LossWeights(text=3.0, mask=5.0, bce=0.25, dice=0.5)


def test_bce_of_a_doubtful_mask_is_log_two() -> None:
    loss = bce_loss(torch.zeros(1, 2, 2), _stack(mask("#.", "..")), torch.ones(1, 2, 2))
    assert loss.tolist() == pytest.approx([math.log(2)])


def test_bce_is_the_mean_over_pixels() -> None:
    logits = torch.tensor([[[SURE, -SURE], [SURE, -SURE]]])
    loss = bce_loss(logits, _stack(mask("#.", "..")), torch.ones(1, 2, 2))  # one of four is wrong, by 40
    assert loss.tolist() == pytest.approx([SURE / 4])


def test_dice_of_a_perfect_mask_is_zero_and_of_a_disjoint_one_almost_one() -> None:
    target = _stack(mask("##..", "...."))
    perfect, disjoint = (torch.where(drawn, SURE, -SURE) for drawn in (target > 0, target == 0))
    assert dice_loss(perfect, target, torch.ones_like(target)).item() == pytest.approx(0, abs=1e-6)
    assert dice_loss(disjoint, target, torch.ones_like(target)).item() == pytest.approx(
        1 - 1e-6 / (8 / 1000 + 1e-6), rel=1e-6
    )


def test_dice_by_hand_with_the_scale_of_the_release() -> None:
    logits = torch.where(_stack(mask("###.", "....")) > 0, SURE, -SURE)
    target = _stack(mask("##..", "##.."))
    expected = 1 - (2 * 2 / 1000 + 1e-6) / (3 / 1000 + 4 / 1000 + 1e-6)
    assert dice_loss(logits, target, torch.ones_like(target)).item() == pytest.approx(expected, rel=1e-5)


def test_dice_of_nothing_on_nothing_is_zero() -> None:
    nothing = torch.zeros(1, 2, 2)
    assert dice_loss(torch.full_like(nothing, -SURE), nothing, torch.ones_like(nothing)).item() == pytest.approx(0)


@pytest.mark.parametrize("loss", [bce_loss, dice_loss])
def test_ignored_pixels_have_no_influence(loss: type[Tensor]) -> None:
    valid = _stack(mask("####", "##.."))
    target, other = _stack(mask("##..", "#...")), _stack(mask("##..", "#.##"))
    logits = torch.randn(1, 2, 4, generator=torch.Generator().manual_seed(0))
    changed = torch.where(valid > 0, logits, -logits)
    assert torch.equal(loss(logits, target, valid), loss(changed, other, valid))
    cropped = loss(logits.flatten(1)[:, None, :6], target.flatten(1)[:, None, :6], torch.ones(1, 1, 6))
    torch.testing.assert_close(loss(logits, target, valid), cropped)


@pytest.mark.parametrize("loss", [bce_loss, dice_loss])
def test_a_mask_that_is_all_ignored_costs_nothing(loss: type[Tensor]) -> None:
    logits, target = torch.randn(1, 2, 2), _stack(mask("##", ".."))
    assert loss(logits, target, torch.zeros(1, 2, 2)).item() == 0


@pytest.mark.parametrize("loss", [bce_loss, dice_loss])
def test_masks_of_one_image_do_not_mix(loss: type[Tensor]) -> None:
    logits = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(0))
    target, valid = _stack(mask("##", ".."), mask("#.", "##"), mask("..", "..")), torch.ones(3, 2, 2)
    alone = [loss(*(t[i : i + 1] for t in (logits, target, valid))) for i in range(3)]
    torch.testing.assert_close(loss(logits, target, valid), torch.cat(alone))


def test_the_total_weighs_its_terms(checkpoint: Checkpoint) -> None:
    losses = _losses(checkpoint, _batch(checkpoint, [mask("##..", "....")]))
    expected = 3.0 * losses.text + 5.0 * (0.25 * losses.bce + 0.5 * losses.dice)
    torch.testing.assert_close(losses.total, expected)


def test_masks_count_alike_in_whichever_image_they_are(checkpoint: Checkpoint) -> None:
    one, two = [mask("##..", "....")], [mask("...#", "...#"), mask("....", "####")]
    together = _losses(checkpoint, _batch(checkpoint, one, two))
    alone = [_losses(checkpoint, _batch(checkpoint, masks)) for masks in (one, two)]
    torch.testing.assert_close(together.bce, (alone[0].bce + 2 * alone[1].bce) / 3)
    torch.testing.assert_close(together.dice, (alone[0].dice + 2 * alone[1].dice) / 3)


def test_the_ignore_map_of_a_sample_reaches_the_loss(checkpoint: Checkpoint) -> None:
    ignore = mask("..##", "....")
    targets = mask("#...", "...."), mask("#.##", "....")
    first, second = (_losses(checkpoint, _batch(checkpoint, [target], ignore=ignore)) for target in targets)
    assert torch.equal(first.total, second.total)
    assert not torch.equal(first.total, _losses(checkpoint, _batch(checkpoint, [mask("#...", "....")])).total)


def test_text_is_the_cross_entropy_of_the_answer(checkpoint: Checkpoint) -> None:
    batch = _batch(checkpoint, [mask("##..", "....")])
    with torch.no_grad():
        output = checkpoint.model(batch)
    probability = output.text.logits.softmax(dim=-1)[torch.arange(len(output.text.labels)), output.text.labels]
    torch.testing.assert_close(_losses(checkpoint, batch).text, -probability.log().mean())


def test_without_masks_only_the_text_counts(checkpoint: Checkpoint) -> None:
    losses = _losses(checkpoint, _batch(checkpoint, []))
    assert (losses.bce.item(), losses.dice.item()) == (0, 0)
    torch.testing.assert_close(losses.total, 3.0 * losses.text)


def _stack(*masks: BoolMask) -> Tensor:
    return torch.stack([torch.from_numpy(drawn).float() for drawn in masks])


def _batch(checkpoint: Checkpoint, *images: list[BoolMask], ignore: BoolMask | None = None) -> Batch:
    samples = []
    for masks in images:
        turns = tuple(
            render_turn(Query(f"Where is number {number}?"), checkpoint.processor.prompt)
            for number in range(max(len(masks), 1))
        )
        sample = Sample(image=noise_image(2, 4, seed=len(masks)), turns=turns)
        samples.append(replace(sample, masks=tuple(masks), ignores=tuple(ignore for _ in masks)))
    return checkpoint.processor.collate(samples)


@torch.no_grad()
def _losses(checkpoint: Checkpoint, batch: Batch) -> Losses:
    return compute_losses(checkpoint.model(batch), batch, checkpoint.model.segmenter, WEIGHTS)
