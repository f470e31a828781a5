"""Post-processing of a predicted mask: small regions, holes, and its division into connected objects.

All of it is off by default, and evaluation never uses it.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from cores_core.errors import ConfigError
from cores_core.sample import BoolMask

_NEIGHBOURS = 8


@dataclass(frozen=True)
class MaskCleaning:
    """How a mask is post-processed.

    Attributes:
        min_area: connected regions with fewer pixels are removed; 0 keeps all.
        max_hole: enclosed background regions with at most this many pixels are filled; 0 fills none.
        min_score: a mask with a lower score is replaced by an empty one; 0 keeps all.
        instances: divide the mask into its connected regions.
    """

    min_area: int = 0
    max_hole: int = 0
    min_score: float = 0.0
    instances: bool = False

    def __post_init__(self) -> None:
        for name, value in (("min_area", self.min_area), ("max_hole", self.max_hole)):
            if value < 0:
                raise ConfigError(f"`{name}` must not be negative: {value}")
        if not 0 <= self.min_score <= 1:
            raise ConfigError(f"`min_score` must be between 0 and 1: {self.min_score}")

    @property
    def changes(self) -> bool:
        """Whether it changes any mask."""
        return bool(self.min_area or self.max_hole or self.min_score)


NO_CLEANING = MaskCleaning()


@dataclass(frozen=True, eq=False)
class Instance:
    """One connected region of an answer: its (H, W) bool mask and its score, 0-1."""

    mask: BoolMask
    score: float


def clean_mask(mask: BoolMask, logits: NDArray[np.float32], cleaning: MaskCleaning) -> BoolMask:
    """Apply `cleaning` to an (H, W) bool mask with its logits; returns a new mask."""
    if cleaning.min_score and mask_score(mask, logits) < cleaning.min_score:
        return np.zeros_like(mask)
    cleaned = _without_regions(mask, cleaning.min_area - 1) if cleaning.min_area > 1 else mask.copy()
    if cleaning.max_hole:
        cleaned = ~_without_regions(~cleaned, cleaning.max_hole, inside_only=True)
    return cleaned


def split_instances(mask: BoolMask, logits: NDArray[np.float32]) -> list[Instance]:
    """The connected regions (8 neighbours) of an (H, W) bool mask, the largest first."""
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=_NEIGHBOURS)
    order = 1 + np.argsort(-statistics[1:, cv2.CC_STAT_AREA], kind="stable")
    masks = [np.asarray(labels == number) for number in order[: count - 1]]
    return [Instance(region, mask_score(region, logits)) for region in masks]


def mask_score(mask: BoolMask, logits: NDArray[np.float32]) -> float:
    """Mean probability (sigmoid of the logit) over a mask's pixels, 0-1; 0 for an empty mask."""
    inside = logits[mask]
    if not inside.size:
        return 0.0
    probability = np.negative(inside, dtype=np.float64)
    np.exp(probability, out=probability)
    probability += 1
    return float(np.reciprocal(probability, out=probability).mean())


def _without_regions(mask: BoolMask, largest: int, inside_only: bool = False) -> BoolMask:
    """A mask without its connected regions of at most `largest` pixels.

    Args:
        inside_only: keep regions that touch the image's border.
    """
    connectivity = (
        4 if inside_only else _NEIGHBOURS
    )  # background regions meet at edges where foreground meets at corners
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=connectivity)
    small = statistics[:, cv2.CC_STAT_AREA] <= largest
    if inside_only:
        left, top = statistics[:, cv2.CC_STAT_LEFT], statistics[:, cv2.CC_STAT_TOP]
        right, bottom = left + statistics[:, cv2.CC_STAT_WIDTH], top + statistics[:, cv2.CC_STAT_HEIGHT]
        small &= (left > 0) & (top > 0) & (right < mask.shape[1]) & (bottom < mask.shape[0])
    small[0] = False
    return np.asarray(mask & ~small[labels])
