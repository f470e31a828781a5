"""Masks of every kind, and polygons filled by the libraries that other tools fill them with."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools import mask as coco

from cores_core.sample import BoolMask

Polygons = Sequence[NDArray[Any]]


def blob_mask(height: int, width: int, seed: int, share: float = 0.4, smoothness: float = 6.0) -> BoolMask:
    """Smooth regions with holes and islands, as a model's masks are."""
    noise = np.random.default_rng(seed).standard_normal((height, width)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), smoothness)
    return np.asarray(smooth > np.quantile(smooth, 1 - share))


def ring_mask(size: int, outer: float, inner: float) -> BoolMask:
    """A disc with a round hole in the middle."""
    rows, columns = np.ogrid[:size, :size]
    distance = np.hypot(rows - size / 2, columns - size / 2)
    return (distance < outer) & (distance >= inner)


def odd_masks() -> list[BoolMask]:
    """Noise of all densities and sizes, from one pixel on: dots, lines, holes in holes, pixels that meet at corners."""
    rng = np.random.default_rng(0)
    noise = []
    for density in (0.1, 0.5, 0.8, 0.95, 1.0):
        for _ in range(20):
            height, width = rng.integers(1, 30, 2).tolist()
            noise.append(rng.random((height, width)) < density)
    return [*noise, *(blob_mask(90, 140, seed, share) for seed, share in enumerate((0.2, 0.5, 0.8)))]


def fill_by_coco(polygons: Polygons, size_hw: tuple[int, int]) -> BoolMask:
    if not polygons:
        return np.zeros(size_hw, dtype=bool)
    flat = [polygon.ravel().astype(float).tolist() for polygon in polygons]
    return np.asarray(coco.decode(coco.merge(coco.frPyObjects(flat, *size_hw))).astype(bool))


def fill_by_pillow(polygons: Polygons, size_hw: tuple[int, int]) -> BoolMask:
    """As `labelme.utils.shape_to_mask` does."""
    canvas = Image.new("L", size_hw[::-1])
    for polygon in polygons:
        ImageDraw.Draw(canvas).polygon([tuple(point) for point in polygon.tolist()], outline=1, fill=1)
    return np.asarray(canvas).astype(bool)


def fill_by_opencv(polygons: Polygons, size_hw: tuple[int, int]) -> BoolMask:
    """As `ultralytics.data.utils.polygon2mask` does, one polygon after another."""
    canvas = np.zeros(size_hw, dtype=np.uint8)
    for polygon in polygons:
        cv2.fillPoly(canvas, [polygon.astype(np.int32)], (1,))
    return canvas.astype(bool)


def measure_iou(one: BoolMask, other: BoolMask) -> float:
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 1.0
