"""The paper's losses: text, BCE and DICE of the final mask at the image's own size.

L = w_text CE + w_mask (w_bce BCE + w_dice DICE). CE is the mean over answer tokens, BCE and DICE over masks, DICE with
the release's scale of 1/1000 and epsilon of 1e-6 (LISA, after Mask2Former). A step that is made of several batches, on
several ranks, divides by the counts of all of them, so that the result does not depend on how images are distributed.
Deviation: ignored pixels are excluded; the release has no ignore handling. C1 has no loss of its own except in the
ablations of Table S1.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from cores_core.config import LossWeights
from cores_core.model.cores import ChainOutput, TextOutput
from cores_core.model.processor import Batch
from cores_core.model.segmenter import Segmenter
from cores_core.sample import ImageSize

DICE_SCALE, DICE_EPSILON = 1000.0, 1e-6
CPU_PIXELS, PIXELS = 2**20, 2**24
"""Pixels of the masks that are upsampled together, on a CPU and on other devices: 4 and 64 MB a map."""
GROWTH = 0.2
"""Growth of a pseudo mask's box on each side, as a share of its size."""
C1Supervision = Literal["none", "gt", "pseudo"]


@dataclass(frozen=True)
class Losses:
    """Scalars: the weighted `total` to differentiate, its unweighted terms, and terms beside the paper's by name."""

    total: Tensor
    text: Tensor
    bce: Tensor
    dice: Tensor
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    def terms(self) -> dict[str, Tensor]:
        """All of them by name, the total as `loss`; detached, in float32."""
        named = {"loss": self.total, "text": self.text, "bce": self.bce, "dice": self.dice, **self.extras}
        return {name: value.detach().float() for name, value in named.items()}


@dataclass(frozen=True)
class Counts:
    """Divisors of the summed losses: answer tokens and masks of all batches of a step, and the number of batches."""

    tokens: int
    masks: int
    batches: int = 1


def count_terms(batch: Batch) -> Counts:
    """The counts of one batch."""
    return Counts(tokens=len(batch.answer_index), masks=sum(len(target) for target in batch.masks))


def compute_losses(
    output: ChainOutput,
    batch: Batch,
    segmenter: Segmenter,
    weights: LossWeights,
    counts: Counts | None = None,
    c1_supervision: C1Supervision = "none",
) -> Losses:
    """Compare a forward's output with its batch's answers and masks.

    Args:
        c1_supervision: target of the coarse mask C1: none, the target mask, or a pseudo mask.
        counts: of the whole step, of which this batch may be a part; None if the batch is the whole step.
    """
    counts = counts or count_terms(batch)
    text = text_loss(output.text, counts.tokens)
    bce, dice = mask_losses(output.refined, batch, segmenter, counts.masks)
    total = weights.text * text + weights.mask * (weights.bce * bce + weights.dice * dice)
    if c1_supervision != "none":
        told = batch if c1_supervision == "gt" else replace(batch, masks=tuple(map(enlarge, batch.masks)))
        coarse = mask_losses(output.coarse, told, segmenter, counts.masks)
        total = total + weights.coarse * (weights.bce * coarse[0] + weights.dice * coarse[1])
    return Losses(total=total, text=text, bce=bce, dice=dice)


def enlarge(masks: Tensor) -> Tensor:
    """Pseudo masks of Table S1: the bounding boxes of (N, H, W) bool masks, enlarged by 20 % per side, as masks.

    Empty masks stay empty. Deviation: the paper lets SAM segment inside this box.
    """
    found = torch.zeros_like(masks)
    for mask, box in zip(masks, found, strict=True):
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        if not len(rows):
            continue
        sides = []
        for places, size in ((rows, mask.shape[0]), (columns, mask.shape[1])):
            first, last = int(places[0]), int(places[-1]) + 1
            margin = round(GROWTH * (last - first))
            sides.append(slice(max(0, first - margin), min(size, last + margin)))
        box[sides[0], sides[1]] = True
    return found


def text_loss(text: TextOutput, tokens: int) -> Tensor:
    """Cross entropy of the answers' tokens, summed and divided by `tokens`; a scalar."""
    return functional.cross_entropy(text.logits, text.labels, reduction="sum") / max(tokens, 1)


def mask_losses(masks: Tensor, batch: Batch, segmenter: Segmenter, count: int) -> tuple[Tensor, Tensor]:
    """BCE and DICE of (N, 1, 4h, 4w) logits with the batch's targets, at the original image sizes.

    Each is a scalar: summed over masks and divided by `count`. A few masks are upsampled at a time, and again in the
    backward pass, so that the memory of full-size maps does not grow with the number of queries.
    """
    bce = dice = masks.sum() * 0.0  # keeps the mask decoder in the graph if the batch has no mask
    most = CPU_PIXELS if masks.device.type == "cpu" else PIXELS
    for index, (target, logits) in enumerate(zip(batch.masks, torch.split(masks, list(batch.counts)), strict=False)):
        size, ignore = batch.sizes[index], batch.ignores[index]
        at_once = max(1, most // max(math.prod(size.original_hw), math.prod(size.resized_hw)))
        for start in range(0, len(target), at_once):
            some = slice(start, start + at_once)
            pixels = partial(_pixel_losses, target[some], None if ignore is None else ignore[some], size, segmenter)
            sums = checkpoint(pixels, logits[some], use_reentrant=False, preserve_rng_state=False)
            bce, dice = bce + sums[0], dice + sums[1]
    return bce / max(count, 1), dice / max(count, 1)


def _pixel_losses(
    target: Tensor, ignore: Tensor | None, size: ImageSize, segmenter: Segmenter, logits: Tensor
) -> tuple[Tensor, Tensor]:
    """Summed BCE and DICE of (n, 1, 4h, 4w) logits with (n, H, W) targets of one image."""
    logits = segmenter.upsample(logits, size).float()
    valid = None if ignore is None else (~ignore).to(logits.dtype)
    target = target.to(logits.dtype)
    return bce_loss(logits, target, valid).sum(), dice_loss(logits, target, valid).sum()


def bce_loss(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean binary cross entropy over the valid pixels (None: all) of each mask. All (N, H, W); gives (N,)."""
    pixels = functional.binary_cross_entropy_with_logits(logits, target, reduction="none").flatten(1)
    if valid is None:
        return pixels.mean(1)
    valid = valid.flatten(1)
    return (pixels * valid).sum(1) / valid.sum(1).clamp(min=1)


def dice_loss(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """DICE loss of each mask over its valid pixels (None: all), scaled as released. All (N, H, W); gives (N,)."""
    probability, target = logits.sigmoid().flatten(1), target.flatten(1)
    if valid is not None:
        probability, target = probability * valid.flatten(1), target * valid.flatten(1)
    overlap = 2 * (probability * target).sum(1) / DICE_SCALE
    total = (probability.sum(1) + target.sum(1)) / DICE_SCALE
    return 1 - (overlap + DICE_EPSILON) / (total + DICE_EPSILON)
