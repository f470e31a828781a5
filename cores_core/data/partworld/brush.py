"""Paint a placed figure on a canvas: colours into the image and part ids into the id map.

The image is anti-aliased (polygons with sub-pixel vertices); the ids are the same polygons without anti-aliasing. Both
are painted piece by piece, so that later pieces and figures occlude earlier ones in both. Shadows and soft edges do not
affect the id map.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from cores_core.data.partworld.paint import Pixels, Texture, make_palette, paint_texture
from cores_core.data.partworld.shapes import Figure, Paint, Points

SUBPIXEL_BITS = 4
MARGIN = 2

Window = tuple[slice, slice]
"""Rows and columns of a canvas."""


@dataclass(frozen=True)
class Canvas:
    """Image and id map, painted in place. `image`: (H, W, 3) RGB 0..255; `ids`: (H, W), 0 where there is no object."""

    image: Pixels
    ids: NDArray[np.uint8]


@dataclass(frozen=True)
class Light:
    """The light of a scene: its direction (3D, projected), and the strengths of shading and shadows."""

    direction: tuple[float, float]
    relief: float
    shadow: float


@dataclass(frozen=True)
class Placed:
    """A figure in pixel coordinates: pixel = linear @ point + shift. `linear`: (2, 2); `shift`: (2,)."""

    figure: Figure
    linear: Points
    shift: Points

    def outlines(self) -> list[Points]:
        """Outline of each piece in pixels, (K, 2) x, y."""
        return [piece.outline @ self.linear.T + self.shift for piece in self.figure.pieces]


@dataclass(frozen=True)
class Style:
    """How one figure is painted: a texture for every role and the width of its ink lines (0 = none)."""

    palette: Mapping[Paint, Texture]
    ink: int


def random_light(rng: np.random.Generator) -> Light:
    """Draw the light of a scene, mostly from above."""
    angle = rng.normal(-np.pi / 2, 0.9)
    shadow = float(rng.uniform(0.2, 0.55)) if rng.random() < 0.5 else 0.0
    return Light((float(np.cos(angle)), float(np.sin(angle))), relief=float(rng.uniform(0.0, 0.5)), shadow=shadow)


def random_style(rng: np.random.Generator, canvas: Canvas, placed: Placed) -> Style:
    """Draw colours and lines for a figure, depending on the canvas at its position."""
    rows, columns = canvas.ids.shape
    x, y = np.clip(placed.shift, 8, [columns - 9, rows - 9]).astype(int)
    surroundings = canvas.image[y - 8 : y + 8, x - 8 : x + 8].mean(axis=(0, 1))
    roles = dict.fromkeys(piece.paint for piece in placed.figure.pieces)  # in painting order
    return Style(make_palette(rng, roles, surroundings), ink=int(rng.choice([0, 2, 3], p=[0.35, 0.4, 0.25])))


def paint_figure(canvas: Canvas, placed: Placed, style: Style, light: Light, ids: Mapping[str, int]) -> None:
    """Paint a figure on the canvas. `ids`: id of each of its parts in the id map; 0 for parts without one."""
    outlines = placed.outlines()
    window = _window(np.concatenate(outlines), canvas.ids.shape)
    if window is None:
        return
    if light.shadow:
        _cast_shadow(canvas.image, outlines, light)
    x, y = _figure_coordinates(placed, window)
    colours: dict[Paint, Pixels] = {}
    covered = np.zeros(canvas.ids.shape, dtype=np.uint8)  # coverage of each pixel by the figure so far
    shades = np.ones(canvas.ids.shape, dtype=np.float32)  # of the figure's parts; a decoration lies flat on them
    for piece, outline in zip(placed.figure.pieces, outlines, strict=True):
        area = _window(outline, canvas.ids.shape)
        if area is None:
            continue
        if piece.paint not in colours:
            colours[piece.paint] = paint_texture(style.palette[piece.paint], x, y)
        cover = _cover(outline, area)
        if piece.part is None:
            cover = np.minimum(cover, covered[area])
        else:
            np.maximum(covered[area], cover, out=covered[area])
            np.copyto(shades[area], _relief(cover, light), where=cover > 0)
            fill(canvas.ids, outline, ids.get(piece.part, 0))
        shade = shades[area] * _ink(outline, area, style.ink) if style.ink else shades[area]
        colour = _crop(colours[piece.paint], window, area) * _for_each_channel(shade)
        colour -= canvas.image[area]
        colour *= _for_each_channel(cover * np.float32(1 / 255))
        canvas.image[area] += colour


def fill(canvas: NDArray[np.uint8], outline: Points, value: int) -> None:
    """Fill an outline on a (H, W) canvas with one value, without anti-aliasing."""
    cv2.fillPoly(canvas, [_fixed_point(outline)], [value], lineType=cv2.LINE_8, shift=SUBPIXEL_BITS)


def _fixed_point(outline: Points) -> NDArray[np.int32]:
    """Convert coordinates to OpenCV's fixed point, in 1/16 pixel."""
    return np.rint(outline * (1 << SUBPIXEL_BITS)).astype(np.int32)


def _window(points: Points, shape: tuple[int, ...]) -> Window | None:
    """Bounding box of points with a margin, clipped to the canvas; None if it is empty."""
    left, top = np.maximum(np.floor(points.min(axis=0)).astype(int) - MARGIN, 0)
    right, bottom = np.ceil(points.max(axis=0)).astype(int) + MARGIN + 1
    rows, columns = slice(int(top), min(int(bottom), shape[0])), slice(int(left), min(int(right), shape[1]))
    return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None


def _figure_coordinates(placed: Placed, window: Window) -> tuple[Pixels, Pixels]:
    """Figure coordinates x, y of every pixel of a window, each (H, W)."""
    inverse = np.linalg.inv(placed.linear)
    across = np.arange(window[1].start, window[1].stop)[None, :] - placed.shift[0]
    down = np.arange(window[0].start, window[0].stop)[:, None] - placed.shift[1]
    x = inverse[0, 0] * across + inverse[0, 1] * down
    y = inverse[1, 0] * across + inverse[1, 1] * down
    return x.astype(np.float32), y.astype(np.float32)


def _crop(colour: Pixels, window: Window, area: Window) -> Pixels:
    """Crop the colours of a figure's window to a piece's area."""
    top, left = window[0].start, window[1].start
    return colour[area[0].start - top : area[0].stop - top, area[1].start - left : area[1].stop - left]


def _cover(outline: Points, area: Window) -> NDArray[np.uint8]:
    """Coverage of each pixel by an outline, 0..255."""
    cover = np.zeros((area[0].stop - area[0].start, area[1].stop - area[1].start), dtype=np.uint8)
    local = _fixed_point(outline - [area[1].start, area[0].start])
    cv2.fillPoly(cover, [local], [255], lineType=cv2.LINE_AA, shift=SUBPIXEL_BITS)
    return cover


def _for_each_channel(factor: Pixels) -> Pixels:
    """Repeat (H, W) to (H, W, 3); NumPy multiplies this much faster than it broadcasts (H, W, 1)."""
    return np.asarray(cv2.merge([factor, factor, factor]), dtype=np.float32)


def _ink(outline: Points, area: Window, width: int) -> Pixels:
    """Factor that darkens the rim of a piece; the half of the line that falls outside is clipped by the cover."""
    line = np.zeros((area[0].stop - area[0].start, area[1].stop - area[1].start), dtype=np.uint8)
    local = _fixed_point(outline - [area[1].start, area[0].start])
    cv2.polylines(line, [local], True, [255], thickness=width, lineType=cv2.LINE_AA, shift=SUBPIXEL_BITS)
    return 1 - line.astype(np.float32) * np.float32(0.7 / 255)


def _relief(cover: NDArray[np.uint8], light: Light) -> Pixels:
    """Shading factor that makes a piece look round: the slope of a dome over it in the direction of the light."""
    distance = cv2.distanceTransform((cover > 127).astype(np.uint8), cv2.DIST_L2, 3)
    radius = min(max(float(distance.max()), 1.0), 24.0)
    dome = np.sqrt(np.minimum(distance, radius) / radius)
    span = 2 * int(radius / 3) + 1
    dome = cv2.blur(dome, (span, span))
    along_x, along_y = light.direction
    step = np.float32(radius / 3)
    kernel = np.array([[0, -along_y, 0], [-along_x, 0, along_x], [0, along_y, 0]], dtype=np.float32) * step
    slope = cv2.filter2D(dome, cv2.CV_32F, kernel)  # positive where the surface falls away from the light
    factor: Pixels = np.clip(1 - light.relief * slope, 0.35, 1.5)
    return factor


def _cast_shadow(image: Pixels, outlines: list[Points], light: Light) -> None:
    """Darken the image beside a figure, away from the light, with soft edges."""
    size = np.ptp(np.concatenate(outlines), axis=0).max()
    offset = -np.asarray(light.direction) * size * 0.07
    moved = [outline + offset for outline in outlines]
    blur = 2 * int(size * 0.03) + 3
    everything = np.concatenate(moved)
    reach = np.concatenate([everything - blur, everything + blur])
    area = _window(reach, image.shape[:2])
    if area is None:
        return
    shadow = np.zeros((area[0].stop - area[0].start, area[1].stop - area[1].start), dtype=np.uint8)
    for outline in moved:
        fill(shadow, outline - [area[1].start, area[0].start], 255)
    soft = cv2.blur(shadow, (blur, blur)).astype(np.float32)
    image[area] *= _for_each_channel(1 - soft * np.float32(light.shadow / 255))
