"""Draw one answer as a picture for people: the target in colour, the rest stepping back, the question underneath.

The mask file keeps the image's own size; the overlay is shown at a size that a screen can show and a caption can be
read at. Shape carries every meaning a second time (filled and solid, empty and dashed), since not all eyes see colour.

Known limit: Pillow's built-in font has ASCII and a few signs. Accents are left out, other scripts become boxes.
"""

import math
import unicodedata
from bisect import bisect_right
from functools import lru_cache
from typing import cast

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cores_core.sample import BoolMask, RgbImage

Colour = tuple[int, int, int]

MIN_LONGER_SIDE, MAX_LONGER_SIDE = 640, 1600
MIN_WIDTH_SHARE = 0.55
"""The caption is at least this share of the longer side wide; a narrower image stands in the middle."""
REFINED_COLOUR: Colour = (255, 45, 135)
COARSE_COLOUR: Colour = (255, 214, 10)
"""Pink and yellow: rare in photographs, and far apart in brightness for eyes that see less colour."""
SHADOW_COLOUR: Colour = (12, 14, 18)
BAND_COLOUR: Colour = (20, 23, 28)
QUESTION_COLOUR: Colour = (246, 247, 249)
ANSWER_COLOUR: Colour = (176, 184, 196)
ABSENT_COLOUR: Colour = (96, 103, 114)
FILL_SHARE = 0.45
GAP_REACH = 20  # pixels; holes and gaps of up to twice this are not outlined
GREY_SHARE, DIMMED_TO = 0.65, 0.66
"""How much of its colour the rest of the image loses, and how much of its light it keeps."""
QUESTION_LINES, ANSWER_LINES = 4, 3
MAX_BLUR = 8.0  # pixels; an image of one pixel is enlarged 640 times
MAX_DASHED_CONTOURS = 2000  # a mask of noise has 100,000; the longest are enough
SUPERSAMPLING = 2  # the caption is drawn larger and shrunk: small letters keep their distances
MAX_LINE_CHARACTERS, MAX_CHARACTERS = 400, 4000  # more than one line can hold, more than all lines can
DASHES = str.maketrans("\u2010\u2011\u2012\u2013\u2014\u2212", "------")


def render_overlay(image: RgbImage, question: str, answer: str, coarse: BoolMask | None, refined: BoolMask) -> RgbImage:
    """Draw the two masks of a question on its image, with a caption below.

    Args:
        image: (H, W, 3), of any size; shown with its longer side between 640 and 1600 pixels.
        question, answer: any text; cut with an ellipsis after 4 and 3 lines.
        coarse: (H, W) the first mask of the chain, C1: a dashed outline. None for a mask of no chain, without a legend.
        refined: (H, W) the second, C2: a fill with a solid edge. If empty, the image is not dimmed either.

    Returns:
        A new picture: the image, in the middle if it is very narrow, above the caption band.
    """
    assert refined.shape == image.shape[:2], (image.shape, refined.shape)
    height, width = image.shape[:2]
    shown_longer = min(max(height, width, MIN_LONGER_SIDE), MAX_LONGER_SIDE)
    scale = shown_longer / max(height, width)
    unit = shown_longer / MIN_LONGER_SIDE  # all sizes below are meant for a longer side of 640
    picture = _resize(image, scale)
    picture = _paint_target(picture, _resize_mask(refined, scale), unit)
    if coarse is not None:
        assert coarse.shape == refined.shape, (coarse.shape, refined.shape)
        picture = _dash_outline(picture, _resize_mask(coarse, scale), unit)
    band_width = max(picture.shape[1], round(MIN_WIDTH_SHARE * shown_longer))
    has_masks = None if coarse is None else (bool(coarse.any()), bool(refined.any()))
    caption = _draw_caption(question, answer, has_masks, band_width, unit)
    return np.vstack([_centre(picture, band_width), caption])


def paint_mask(image: RgbImage, mask: BoolMask, longest: int) -> RgbImage:
    """A (H, W, 3) image as an overlay shows it with a (H, W) mask, but without a caption; `longest` pixels a side."""
    scale = longest / max(image.shape[:2])
    return _paint_target(_resize(image, scale), _resize_mask(mask, scale), longest / MIN_LONGER_SIDE)


def _resize(pixels: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """Scale (H, W) or (H, W, 3); at least one pixel stays each way."""
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC if pixels.ndim == 3 else cv2.INTER_LINEAR
    return cast(RgbImage, cv2.resize(np.ascontiguousarray(pixels), (width, height), interpolation=method))


def _resize_mask(mask: BoolMask, scale: float) -> BoolMask:
    """Scale a mask such that its stairs become slopes and nothing in it disappears, however small."""
    binary = mask.astype(np.uint8) * 255
    coverage = _resize(binary, scale)
    if scale <= 1:
        return coverage > 0
    smooth = cv2.GaussianBlur(coverage, (0, 0), min(0.3 * scale, MAX_BLUR), borderType=cv2.BORDER_REPLICATE)
    square = np.ones((2, 2), dtype=np.uint8)
    solid = cv2.dilate(cv2.erode(binary, square, anchor=(1, 1)), square, anchor=(0, 0))
    thin = cv2.subtract(binary, solid)  # what lies in no square of four pixels may be smoothed away: it stays as it is
    size_wh = (coverage.shape[1], coverage.shape[0])
    return cast(BoolMask, (smooth > 127) | (cv2.resize(thin, size_wh, interpolation=cv2.INTER_NEAREST) > 0))


def _paint_target(picture: RgbImage, mask: BoolMask, unit: float) -> RgbImage:
    """Colour the target, dim the rest, and draw the edge between them with a soft shadow outside."""
    if not mask.any():
        return picture
    depth = _signed_distance(mask)
    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    rest = cv2.addWeighted(grey, DIMMED_TO * GREY_SHARE, picture, DIMMED_TO * (1 - GREY_SHARE), 0)
    target = cv2.addWeighted(_full(picture, REFINED_COLOUR), FILL_SHARE, picture, 1 - FILL_SHARE, 0)
    painted = _blend(rest, target, share=np.clip(depth + 0.5, 0, 1))
    half_width = 1.2 * unit
    shadow = np.clip(1 + (depth + half_width) / (4 * unit), 0, 1) * (depth < 0)
    painted = _blend(painted, _full(picture, SHADOW_COLOUR), share=0.6 * shadow)
    edge = np.clip(half_width + 0.5 - np.abs(depth), 0, 1)
    return _blend(painted, _full(picture, REFINED_COLOUR), share=edge)


def _full(picture: RgbImage, colour: Colour) -> RgbImage:
    """One colour in a picture's size."""
    return np.full_like(picture, colour)


def _blend(below: MatLike, above: MatLike, share: NDArray[np.floating]) -> RgbImage:
    """Lay one picture over another; `share`: (H, W), 0 to 1, how much the one above covers."""
    share = share.astype(np.float32)
    return cast(RgbImage, cv2.blendLinear(below, above, 1 - share, share))


def _signed_distance(mask: BoolMask) -> NDArray[np.float32]:
    """(H, W) distance to the mask's edge in pixels, positive inside; what lies beyond the image counts as outside."""
    inside = np.pad(mask, 1).astype(np.uint8)
    within = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    distance = within - cv2.distanceTransform(1 - inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    distance -= np.sign(distance) * np.float32(0.5)  # the edge runs between two pixels, not through one
    return cast(NDArray[np.float32], cv2.GaussianBlur(distance, (0, 0), 1.0)[1:-1, 1:-1])


def _dash_outline(picture: RgbImage, mask: BoolMask, unit: float) -> RgbImage:
    """Draw the mask's outline in dashes, on a dark line that makes them visible on any ground.

    It runs 3 pixels outside the mask, so that the refined edge stays in view where the two agree. Gaps are closed
    first: C1 has no supervision of its own and is often a lattice, whose outline would hide the picture.
    """
    if not mask.any():
        return picture
    gaps, around = (
        cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * _pixels(reach, unit) + 1,) * 2) for reach in (GAP_REACH, 3)
    )
    closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, gaps)
    contours, _ = cv2.findContours(cv2.dilate(closed, around), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    longest = sorted(contours, key=len)[-MAX_DASHED_CONTOURS:]
    dashes = [dash for contour in longest for dash in _dashes(contour[:, 0].astype(np.float64), unit)]
    for colour, thickness, share in ((SHADOW_COLOUR, 3.4, 0.45), (COARSE_COLOUR, 1.8, 1.0)):
        coverage = np.zeros(mask.shape, dtype=np.uint8)
        width = _pixels(thickness, unit)
        cv2.polylines(coverage, dashes, False, (255,), width, cv2.LINE_AA, shift=4)
        picture = _blend(picture, _full(picture, colour), share=coverage * np.float32(share / 255))
    return picture


def _dashes(contour: NDArray[np.float64], unit: float) -> list[NDArray[np.int32]]:
    """Cut a closed (N, 2) outline into equal dashes of 8 points each, in sixteenths of a pixel; a tiny one is whole."""
    reach = min(_pixels(2, unit), len(contour) // 4)  # smooth the stairs, but not a mask of few pixels
    wrapped = np.pad(contour, ((reach, reach + 1), (0, 0)), mode="wrap")
    kernel = np.full(2 * reach + 1, 1 / (2 * reach + 1))
    smooth = np.stack([np.convolve(axis, kernel, mode="valid") for axis in wrapped.T])  # (2, N + 1), closed
    travelled = np.concatenate([[0.0], np.hypot(*np.diff(smooth, axis=1)).cumsum()])
    count = round(travelled[-1] / (14 * unit))
    length, count = (0.5 * travelled[-1] / count, count) if count > 1 else (travelled[-1], 1)
    starts = np.arange(count)[:, None] * (travelled[-1] / count)
    positions = starts + np.linspace(0, length, 8)
    points = np.stack([np.interp(positions, travelled, axis) for axis in smooth], axis=-1)
    return list((points * 16).round().astype(np.int32))


def _draw_caption(question: str, answer: str, has_masks: tuple[bool, bool] | None, width: int, unit: float) -> RgbImage:
    """Draw the band below the image, `width` pixels wide and as high as its text: question, answer, legend if any."""
    unit *= SUPERSAMPLING
    margin, top = _pixels(16, unit), _pixels(13, unit)
    band = Image.new("RGB", (width * SUPERSAMPLING, _pixels(280, unit)), BAND_COLOUR)  # high enough for all lines
    draw = ImageDraw.Draw(band)
    question_look = (question, 21, QUESTION_COLOUR, 0.6, QUESTION_LINES)
    answer_look = (answer, 16, ANSWER_COLOUR, 0.0, ANSWER_LINES)
    for text, size, colour, bold, most in (question_look, answer_look):
        font = load_font(_pixels(size, unit))
        for line in wrap_text(make_printable(text), font, band.width - 2 * margin, most):
            draw.text((margin, top), line, colour, font, stroke_width=round(bold * unit), stroke_fill=colour)
            top += _pixels(1.3 * size, unit)
        top += _pixels(5, unit)
    if has_masks is not None:
        _draw_legend(draw, (margin, top + _pixels(4, unit)), has_masks, unit)
        top += _pixels(26, unit)
    height = (top + _pixels(5, unit)) // SUPERSAMPLING
    return np.asarray(band.reduce(SUPERSAMPLING), dtype=np.uint8)[:height]


def _draw_legend(draw: ImageDraw.ImageDraw, corner: tuple[int, int], has_masks: tuple[bool, bool], unit: float) -> None:
    """Draw one row from `corner` to the right: swatch and name of the coarse and of the refined mask."""
    (left, top), side, font = corner, _pixels(14, unit), load_font(_pixels(13, unit))
    middle = top + side // 2
    rows = zip(("C1 coarse", "C2 refined"), (COARSE_COLOUR, REFINED_COLOUR), has_masks, strict=True)
    for name, colour, present in rows:
        shown = colour if present else ABSENT_COLOUR
        if colour == COARSE_COLOUR:
            for start in range(left, left + 2 * side, _pixels(11, unit)):
                draw.line((start, middle, start + _pixels(6, unit), middle), shown, width=_pixels(2.4, unit))
        else:
            fill = tuple((above + below) // 2 for above, below in zip(shown, BAND_COLOUR, strict=True))
            box = (left, top, left + 2 * side, top + side)
            draw.rounded_rectangle(box, _pixels(3, unit), fill, outline=shown, width=_pixels(2, unit))
        left += 2 * side + _pixels(8, unit)
        label = name if present else f"{name}: no mask"
        draw.text((left, middle), label, ANSWER_COLOUR, font, anchor="lm")
        left += round(font.getlength(label)) + _pixels(22, unit)


def _pixels(size: float, unit: float) -> int:
    """A length in pixels, at least one."""
    return max(1, round(size * unit))


@lru_cache(maxsize=16)
def load_font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's built-in font."""
    return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size))


def make_printable(text: str) -> str:
    """One paragraph without control characters; a letter with an accent gives way to the letter alone."""
    decomposed = unicodedata.normalize("NFD", " ".join(text[:MAX_CHARACTERS].split()).translate(DASHES))
    plain = (c for c in decomposed if unicodedata.category(c)[0] not in "CM")
    return unicodedata.normalize("NFC", "".join(plain))


def wrap_text(text: str, font: ImageFont.FreeTypeFont, width: int, most: int) -> list[str]:
    """Break into at most so many lines, between words where there are any; cut the rest with an ellipsis."""
    lines: list[str] = []
    while text and len(lines) < most:
        fitting = _fitting(text, font, width)
        if fitting < len(text):
            fitting = text.rfind(" ", 1, fitting + 1) if " " in text[1 : fitting + 1] else fitting
        lines.append(text[:fitting].rstrip())
        text = text[fitting:].lstrip()
    if text:
        room = width - round(font.getlength("…"))
        lines[-1] = lines[-1][: _fitting(lines[-1], font, room)].rstrip() + "…"
    return lines


def _fitting(text: str, font: ImageFont.FreeTypeFont, width: int) -> int:
    """How many leading characters fit into a width, at least 1."""
    counts = range(1, min(len(text), MAX_LINE_CHARACTERS) + 1)
    return max(1, bisect_right(counts, width, key=lambda count: math.ceil(font.getlength(text[:count]))))


def _centre(picture: RgbImage, width: int) -> RgbImage:
    """Put a picture in the middle of a band of that width."""
    wide = np.full((picture.shape[0], width, 3), BAND_COLOUR, dtype=np.uint8)
    left = (width - picture.shape[1]) // 2
    wide[:, left : left + picture.shape[1]] = picture
    return wide
