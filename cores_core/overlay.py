"""Draw the answer to one question as a picture: the target in colour, the rest dimmed, question and answer below.

The overlay is scaled to a size suitable for screens with a legible caption; mask files keep the size of the image. The
masks also differ in shape, for colour-blind readers: C2 is filled with a solid edge, C1 is a dashed outline.

Known limit: Pillow's built-in font has ASCII and a few symbols. Accents are removed, other scripts appear as boxes.
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
"""Minimum width of the caption as a fraction of the longer side; narrower images are centred."""
REFINED_COLOUR: Colour = (255, 45, 135)
COARSE_COLOUR: Colour = (255, 214, 10)
"""Pink and yellow are rare in photographs, and differ in brightness for colour-blind readers."""
SHADOW_COLOUR: Colour = (12, 14, 18)
BAND_COLOUR: Colour = (20, 23, 28)
QUESTION_COLOUR: Colour = (246, 247, 249)
ANSWER_COLOUR: Colour = (176, 184, 196)
ABSENT_COLOUR: Colour = (96, 103, 114)
FILL_SHARE = 0.45
GAP_REACH = 20  # pixels; holes and gaps of up to twice this are not outlined
GREY_SHARE, DIMMED_TO = 0.65, 0.66
"""Outside the target: fraction of the colour that is replaced by grey, and factor on the brightness."""
QUESTION_LINES, ANSWER_LINES = 4, 3
MAX_BLUR = 8.0  # pixels; an image of one pixel is enlarged 640 times
MAX_DASHED_CONTOURS = 2000  # the longest ones; a noisy mask may have 100,000
SUPERSAMPLING = 2  # the caption is drawn larger and downscaled, for accurate letter spacing
MAX_LINE_CHARACTERS, MAX_CHARACTERS = 400, 4000  # upper bounds of what fits one line and all lines
DASHES = str.maketrans("\u2010\u2011\u2012\u2013\u2014\u2212", "------")


def render_overlay(image: RgbImage, question: str, answer: str, coarse: BoolMask | None, refined: BoolMask) -> RgbImage:
    """Draw both masks of a question on its image, with a caption below.

    Args:
        image: (H, W, 3) uint8 of any size; scaled to a longer side between 640 and 1600 pixels.
        question, answer: any text; truncated with an ellipsis after 4 and 3 lines.
        coarse: (H, W) bool, C1, drawn as a dashed outline. None if there is only one mask; then there is no legend.
        refined: (H, W) bool, C2, filled with a solid edge. If it is empty, the image is not dimmed.

    Returns:
        (H', W', 3) uint8: the image, centred if it is very narrow, above the caption.
    """
    assert refined.shape == image.shape[:2], (image.shape, refined.shape)
    height, width = image.shape[:2]
    shown_longer = min(max(height, width, MIN_LONGER_SIDE), MAX_LONGER_SIDE)
    scale = shown_longer / max(height, width)
    unit = shown_longer / MIN_LONGER_SIDE  # all lengths below are for a longer side of 640 pixels
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
    """Overlay of a (H, W) mask on a (H, W, 3) image without a caption, with a longer side of `longest` pixels."""
    scale = longest / max(image.shape[:2])
    return _paint_target(_resize(image, scale), _resize_mask(mask, scale), longest / MIN_LONGER_SIDE)


def _resize(pixels: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """Scale (H, W) or (H, W, 3) pixels, to at least one pixel per side."""
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC if pixels.ndim == 3 else cv2.INTER_LINEAR
    return cast(RgbImage, cv2.resize(np.ascontiguousarray(pixels), (width, height), interpolation=method))


def _resize_mask(mask: BoolMask, scale: float) -> BoolMask:
    """Scale a mask with smooth edges, keeping even single pixels visible."""
    binary = mask.astype(np.uint8) * 255
    coverage = _resize(binary, scale)
    if scale <= 1:
        return coverage > 0
    smooth = cv2.GaussianBlur(coverage, (0, 0), min(0.3 * scale, MAX_BLUR), borderType=cv2.BORDER_REPLICATE)
    square = np.ones((2, 2), dtype=np.uint8)
    solid = cv2.dilate(cv2.erode(binary, square, anchor=(1, 1)), square, anchor=(0, 0))
    thin = cv2.subtract(binary, solid)  # parts narrower than 2 pixels could be smoothed away: they are kept unsmoothed
    size_wh = (coverage.shape[1], coverage.shape[0])
    return cast(BoolMask, (smooth > 127) | (cv2.resize(thin, size_wh, interpolation=cv2.INTER_NEAREST) > 0))


def _paint_target(picture: RgbImage, mask: BoolMask, unit: float) -> RgbImage:
    """Colour the target, dim the rest, and draw the edge with a soft shadow outside."""
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
    """A picture of the same size in one colour."""
    return np.full_like(picture, colour)


def _blend(below: MatLike, above: MatLike, share: NDArray[np.floating]) -> RgbImage:
    """Alpha-blend two pictures; `share` is the (H, W) opacity, 0 to 1, of `above`."""
    share = share.astype(np.float32)
    return cast(RgbImage, cv2.blendLinear(below, above, 1 - share, share))


def _signed_distance(mask: BoolMask) -> NDArray[np.float32]:
    """(H, W) signed distance to the mask's edge in pixels, positive inside; beyond the image is outside."""
    inside = np.pad(mask, 1).astype(np.uint8)
    within = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    distance = within - cv2.distanceTransform(1 - inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    distance -= np.sign(distance) * np.float32(0.5)  # the edge runs between two pixels, not through one
    return cast(NDArray[np.float32], cv2.GaussianBlur(distance, (0, 0), 1.0)[1:-1, 1:-1])


def _dash_outline(picture: RgbImage, mask: BoolMask, unit: float) -> RgbImage:
    """Draw the mask's outline in dashes on a dark line, which makes them visible on any background.

    The outline runs 3 pixels outside the mask, so that it does not cover the refined edge where both agree. Gaps are
    closed first: C1 is not supervised and often a lattice, whose full outline would hide the image.
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
    """Split a closed (N, 2) outline into equal dashes of 8 points, in 1/16 pixels; a tiny one is a single dash."""
    reach = min(_pixels(2, unit), len(contour) // 4)  # smooths pixel steps, less so for small masks
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
    """Draw the caption below the image, `width` pixels wide, as high as its text: question, answer, optional legend."""
    unit *= SUPERSAMPLING
    margin, top = _pixels(16, unit), _pixels(13, unit)
    band = Image.new("RGB", (width * SUPERSAMPLING, _pixels(280, unit)), BAND_COLOUR)  # enough for all lines
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
    """Draw the legend from `corner` (left, top) to the right: swatch and name of the coarse and the refined mask."""
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
    """A length scaled to pixels, at least 1."""
    return max(1, round(size * unit))


@lru_cache(maxsize=16)
def load_font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's built-in font; `size` in pixels."""
    return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size))


def make_printable(text: str) -> str:
    """Normalise text to one line without control characters and accents."""
    decomposed = unicodedata.normalize("NFD", " ".join(text[:MAX_CHARACTERS].split()).translate(DASHES))
    plain = (c for c in decomposed if unicodedata.category(c)[0] not in "CM")
    return unicodedata.normalize("NFC", "".join(plain))


def wrap_text(text: str, font: ImageFont.FreeTypeFont, width: int, most: int) -> list[str]:
    """Break text into at most `most` lines of `width` pixels, at spaces if possible; truncate with an ellipsis."""
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
    """Number of leading characters that fit into a width in pixels, at least 1."""
    counts = range(1, min(len(text), MAX_LINE_CHARACTERS) + 1)
    return max(1, bisect_right(counts, width, key=lambda count: math.ceil(font.getlength(text[:count]))))


def _centre(picture: RgbImage, width: int) -> RgbImage:
    """Centre a picture horizontally on a background of the given width in pixels."""
    wide = np.full((picture.shape[0], width, 3), BAND_COLOUR, dtype=np.uint8)
    left = (width - picture.shape[1]) // 2
    wide[:, left : left + picture.shape[1]] = picture
    return wide
