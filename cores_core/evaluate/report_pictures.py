"""Example pictures of a report: the choice of items, and the drawing of their masks.

The answer C2 is filled, C1 is a dashed line, the ground truth a white line on a black one: distinguishable without
colour.
"""

from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO

import cv2
import numpy as np
from cv2.typing import MatLike
from PIL import Image

from cores_core.evaluate.items import Item
from cores_core.masks import decode_rle, resize_mask
from cores_core.overlay import COARSE_COLOUR, SHADOW_COLOUR, Colour, paint_mask
from cores_core.sample import BoolMask, RgbImage

Pictures = Callable[[str], RgbImage | None]
"""Reads an image by `Item.image`; None where it cannot be read."""

ITEMS_IN_GROUP = 12
LONGEST, JPEG_QUALITY = 400, 80
"""Pixels of a picture's longer side (a page shows it about 360 wide), and its JPEG quality."""
DASH, GAP = 9, 7
_CLOSED_GAP = 25  # pixels; C1 is often a grid of small holes; its exact outline would cover the picture
TRUTH_COLOUR: Colour = (255, 255, 255)


@dataclass(frozen=True)
class Group:
    """Items that are shown together."""

    key: str
    title: str
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Picture:
    """An embedded image: a data URL and its size in pixels. Without one, `source` is empty and `problem` says why."""

    source: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""


def choose_groups(items: Sequence[Item], seed: int) -> list[Group]:
    """The worst, the best and random items by the IoU of C2: 12 each, or a third if there are fewer; each item once.

    Args:
        seed: of the random ones. Independent of the order of items.
    """
    size = min(ITEMS_IN_GROUP, -(-len(items) // 3))
    rising = sorted(items, key=lambda item: (item.overlap.iou, item.id))
    falling = sorted(rising[size:], key=lambda item: (-item.overlap.iou, item.id))
    rest = sorted(falling[size:], key=lambda item: item.id)
    at_random = [rest[index] for index in np.random.default_rng(seed).permutation(len(rest))[:size]]
    found = (
        ("worst", "Lowest IoU", rising[:size]),
        ("best", "Highest IoU", falling[:size]),
        ("random", "At random", at_random),
    )
    return [Group(key, title, tuple(chosen)) for key, title, chosen in found if chosen]


def embed_picture(pictures: Pictures, item: Item) -> Picture:
    """The drawing of an item as a data URL, or the reason why there is none."""
    image = pictures(item.image)
    if image is None:
        return Picture(problem="image cannot be read")
    if list(image.shape[:2]) != list(item.target["size"]):
        return Picture(problem="image size differs from the ground truth")
    picture, stream = draw_item(item, image), BytesIO()
    Image.fromarray(picture).save(stream, format="JPEG", quality=JPEG_QUALITY, optimize=True)
    height, width = picture.shape[:2]
    return Picture(f"data:image/jpeg;base64,{b64encode(stream.getvalue()).decode('ascii')}", width, height)


def draw_item(item: Item, image: RgbImage) -> RgbImage:
    """The (H, W, 3) image of an item with its masks, its longer side `LONGEST`."""
    picture = paint_mask(image, decode_rle(item.mask), LONGEST)
    if item.coarse_mask is not None:
        lines = [dash for line in _outline(_close(item, picture), picture) for dash in _cut(line)]
        picture = _draw(picture, lines, COARSE_COLOUR, is_closed=False)
    return _draw(picture, _outline(decode_rle(item.target), picture), TRUTH_COLOUR, is_closed=True)


def _close(item: Item, picture: RgbImage) -> BoolMask:
    """C1 with small holes closed, at its own size, or the picture's if that is smaller."""
    assert item.coarse_mask is not None, item.id
    mask = decode_rle(item.coarse_mask)
    if mask.shape[0] > picture.shape[0]:
        mask = resize_mask(mask.astype(np.uint8) * 255, picture.shape[:2]) > 0
    reach = max(1, round(_CLOSED_GAP * max(mask.shape) / max(picture.shape)))
    ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    closed: BoolMask = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, ellipse) > 0
    return closed


def _outline(mask: BoolMask, picture: RgbImage) -> list[MatLike]:
    """Closed (N, 1, 2) lines around a mask of any size, in pixels of the picture."""
    height, width = picture.shape[:2]
    scaled = cv2.resize(mask.astype(np.uint8) * 255, (width, height), interpolation=cv2.INTER_LINEAR)
    at_least = np.uint8(128 if width > mask.shape[1] else 1)  # keeps thin parts when shrinking
    lines, _ = cv2.findContours((scaled >= at_least).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return list(lines)


def _cut(line: MatLike) -> list[MatLike]:
    return [line[start : start + DASH] for start in range(0, len(line), DASH + GAP)]


def _draw(picture: RgbImage, lines: list[MatLike], colour: Colour, is_closed: bool) -> RgbImage:
    """Lines, closed or cut in dashes, on darker, wider ones that keep them visible on any background."""
    drawn = picture.copy()
    for shade, thickness in ((SHADOW_COLOUR, 5 if is_closed else 4), (colour, 2)):
        cv2.polylines(drawn, lines, is_closed, shade, thickness, cv2.LINE_AA)
    return drawn
