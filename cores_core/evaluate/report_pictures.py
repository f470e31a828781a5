"""The pictures of a report: which items it shows, how they are drawn, and the card of each.

The answer C2 is filled, C1 dashed and the truth a white line on a black one, so that shape tells them apart where
colour does not.
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
from cores_core.evaluate.report_markup import Markup, join, tag
from cores_core.masks import decode_rle, resize_mask
from cores_core.overlay import COARSE_COLOUR, REFINED_COLOUR, SHADOW_COLOUR, Colour, paint_mask
from cores_core.sample import BoolMask, RgbImage

Pictures = Callable[[str], RgbImage | None]
"""Reads the image of an item by `Item.image`; None where it is gone."""

ITEMS_IN_GROUP = 12
LONGEST, JPEG_QUALITY = 400, 80
"""Pixels of a picture's longer side, of which a page shows about 360; and how well it is kept."""
DASH, GAP = 9, 7
_CLOSED_GAP = 25  # pixels; C1 is often a lattice, whose own outline would hide the picture
_TRUTH_COLOUR: Colour = (255, 255, 255)


@dataclass(frozen=True)
class Group:
    """Items that are shown together."""

    key: str
    title: str
    items: tuple[Item, ...]


def choose_groups(items: Sequence[Item], seed: int) -> list[Group]:
    """The worst, the best and random items by the IoU of C2: 12 each, or a third if there are fewer; each item once.

    Args:
        seed: of the random ones. The order of items has no influence.
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


def show_groups(groups: Sequence[Group], pictures: Pictures) -> Markup:
    """A grid of cards for each group, under a legend that stays in view."""
    shown = [item for group in groups for item in group.items]
    links = [tag("a", group.title, href=f"#{group.key}") for group in groups]
    legend = _legend(has_coarse=any(item.coarse_mask is not None for item in shown))
    parts = [tag("nav", *links, aria_label="Pictures"), legend]
    for group in groups:
        cards = [_card(item, pictures(item.image)) for item in group.items]
        parts += [
            tag("h3", group.title, " ", tag("span", str(len(cards)), class_="count"), id=group.key),
            tag("div", *cards, class_="cards"),
        ]
    return join(parts)


def draw_item(item: Item, image: RgbImage) -> RgbImage:
    """The (H, W, 3) image of an item with its masks, its longer side `LONGEST`."""
    picture = paint_mask(image, decode_rle(item.mask), LONGEST)
    if item.coarse_mask is not None:
        lines = [dash for line in _outline(_close(item, picture), picture) for dash in _cut(line)]
        picture = _draw(picture, lines, COARSE_COLOUR, is_closed=False)
    return _draw(picture, _outline(decode_rle(item.target), picture), _TRUTH_COLOUR, is_closed=True)


def _card(item: Item, image: RgbImage | None) -> Markup:
    details = " · ".join(part for part in (item.category, item.id) if part)
    coarse = [] if item.coarse_overlap is None else [_score("C1", item.coarse_overlap.iou, "coarse")]
    notes = [] if item.overlap.target else [tag("span", "no target", class_="note")]
    notes += [] if item.overlap.predicted else [tag("span", "empty mask", class_="note")]
    answer = [tag("p", item.answer, class_="answer", dir="auto")] if item.answer else []
    return tag(
        "article",
        _picture(item, image),
        tag("p", item.question, class_="question", dir="auto"),
        *answer,
        tag("p", _score("C2", item.overlap.iou, "refined"), *coarse, *notes, class_="scores"),
        tag("p", details, class_="details"),
        class_="card",
    )


def _picture(item: Item, image: RgbImage | None) -> Markup:
    """The drawing, or a note why there is none."""
    if image is None:
        return tag("p", "the image is gone: ", item.image, class_="gone")
    if list(image.shape[:2]) != list(item.target["size"]):
        return tag("p", "the image has another size than the truth: ", item.image, class_="gone")
    picture, stream = draw_item(item, image), BytesIO()
    Image.fromarray(picture).save(stream, format="JPEG", quality=JPEG_QUALITY, optimize=True)
    source = f"data:image/jpeg;base64,{b64encode(stream.getvalue()).decode('ascii')}"
    height, width = picture.shape[:2]
    return tag("img", src=source, width=width, height=height, alt=f"answer and truth of: {item.question}")


def _score(name: str, iou: float, kind: str) -> Markup:
    return tag("span", tag("b", name), f" {100 * iou:.1f} %", class_=f"score {kind}")


def _close(item: Item, picture: RgbImage) -> BoolMask:
    """C1 without gaps, at its own size or that of the picture if that is smaller."""
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
    at_least = np.uint8(128 if width > mask.shape[1] else 1)  # a mask that is shrunk loses no part
    lines, _ = cv2.findContours((scaled >= at_least).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return list(lines)


def _cut(line: MatLike) -> list[MatLike]:
    return [line[start : start + DASH] for start in range(0, len(line), DASH + GAP)]


def _draw(picture: RgbImage, lines: list[MatLike], colour: Colour, is_closed: bool) -> RgbImage:
    """Lines, closed or cut in dashes, on darker and wider ones that make them visible on any ground."""
    drawn = picture.copy()
    for shade, thickness in ((SHADOW_COLOUR, 5 if is_closed else 4), (colour, 2)):
        cv2.polylines(drawn, lines, is_closed, shade, thickness, cv2.LINE_AA)
    return drawn


def _legend(has_coarse: bool) -> Markup:
    entries = [("answer (C2)" if has_coarse else "answer", _swatch(REFINED_COLOUR, fill_opacity=0.45))]
    if has_coarse:
        entries.append(("first step (C1)", _swatch(COARSE_COLOUR, fill_opacity=0, dashes="4 3")))
    entries.append(("truth", _swatch(_TRUTH_COLOUR, fill_opacity=0)))
    return tag("ul", *(tag("li", swatch, text) for text, swatch in entries), class_="legend", aria_label="legend")


def _swatch(colour: Colour, fill_opacity: float, dashes: str | None = None) -> Markup:
    shade = f"rgb{colour}".replace(" ", "")
    box = {"x": 3, "y": 3, "width": 22, "height": 10}
    ground = tag("rect", width=28, height=16, rx=2, fill="#5a616b")
    dark = tag("rect", fill="none", stroke="#0c0e12", stroke_width=3.5, stroke_dasharray=dashes, **box)
    line = tag(
        "rect", fill=shade, fill_opacity=fill_opacity, stroke=shade, stroke_width=2, stroke_dasharray=dashes, **box
    )
    return tag("svg", ground, dark, line, viewBox="0 0 28 16", width=28, height=16, aria_hidden="true")
