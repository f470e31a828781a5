"""Polygons give the mask again, in the tools that fill them: to the pixel at tolerance 0, else as near as promised."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from fillers import (
    Polygons,
    blob_mask,
    fill_by_coco,
    fill_by_opencv,
    fill_by_pillow,
    measure_iou,
    odd_masks,
    ring_mask,
)
from helpers import mask

from cores_core.data.sources.labelme import draw_polygon
from cores_core.formats.polygons import DRAWING_TOLERANCE, trace_centres, trace_corners
from cores_core.sample import BoolMask

Fill = Callable[[Polygons, tuple[int, int]], BoolMask]


def fill_by_ours(polygons: Polygons, size_hw: tuple[int, int]) -> BoolMask:
    canvas = np.zeros(size_hw, dtype=np.uint8)
    for polygon in polygons:
        draw_polygon(polygon.astype(np.int64), size_hw).paint(canvas, 1)
    return canvas.astype(bool)


WAYS = {
    "corners, pycocotools": (trace_corners, fill_by_coco),
    "centres, Pillow (LabelMe)": (trace_centres, fill_by_pillow),
    "centres, OpenCV (ultralytics)": (trace_centres, fill_by_opencv),
    "centres, our LabelMe reader": (trace_centres, fill_by_ours),
}


@pytest.mark.parametrize("way", WAYS)
def test_at_tolerance_0_every_mask_comes_back_to_the_pixel(way: str) -> None:
    trace, fill = WAYS[way]
    for target in odd_masks():
        assert np.array_equal(fill(trace(target), target.shape), target)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("tolerance", [0.5, 1.0, 2.0])
def test_what_a_tolerance_changes_lies_at_the_border(way: str, tolerance: float) -> None:
    """Half a pixel more for the middles of pixels, and half where outlines are drawn; beyond the image is outside."""
    trace, fill = WAYS[way]
    for seed in range(5):
        target = blob_mask(120, 160, seed)
        changed = fill(trace(target, tolerance), target.shape) != target
        padded = np.pad(target, 1).astype(np.uint8)
        inside, outside = (
            cv2.distanceTransform(side, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for side in (padded, 1 - padded)
        )
        assert np.maximum(inside, outside)[1:-1, 1:-1][changed].max(initial=0) <= tolerance + 1


def test_a_tolerance_leaves_out_most_points_and_costs_little() -> None:
    target = ring_mask(400, outer=180, inner=60)
    exact, rough = (sum(map(len, trace_centres(target, tolerance))) for tolerance in (0.0, DRAWING_TOLERANCE))
    assert rough < exact / 2
    for trace, fill in WAYS.values():
        assert measure_iou(fill(trace(target, DRAWING_TOLERANCE), target.shape), target) > 0.99


def test_corners_and_centres_are_what_their_names_say() -> None:
    square = mask("....", ".##.", ".##.")
    assert sorted(map(tuple, trace_corners(square)[0].tolist())) == [(1, 1), (1, 3), (3, 1), (3, 3)]
    assert sorted(map(tuple, trace_centres(square)[0].tolist())) == [(1, 1), (1, 2), (2, 1), (2, 2)]


def test_each_component_is_a_polygon_and_a_hole_is_none() -> None:
    target = mask("####.#", "#..#.#", "####..", "......", "..#...")
    for trace in (trace_corners, trace_centres):
        assert len(trace(target)) == 3


def test_pixels_that_meet_at_a_corner_are_one_component() -> None:
    assert len(trace_corners(mask("#.", ".#"))) == 1


def test_an_empty_mask_has_no_polygon() -> None:
    assert trace_corners(np.zeros((3, 4), dtype=bool)) == trace_centres(np.zeros((3, 4), dtype=bool)) == []


@pytest.mark.parametrize("trace", [trace_corners, trace_centres])
def test_what_a_tolerance_would_make_vanish_stays(trace: Callable[..., Polygons]) -> None:
    target = mask("#.....", "......", "...##.", "...##.")
    polygons = trace(target, 5.0)
    assert [len(polygon) >= 3 for polygon in polygons] == [True, True]
    fill = fill_by_coco if trace is trace_corners else fill_by_pillow
    assert np.array_equal(fill(polygons, target.shape), target)


def test_a_hole_that_were_lost_would_cost_its_share() -> None:
    """Why holes are bridged: without bridges, IoU is the share of the disc that is no hole."""
    target = ring_mask(400, outer=180, inner=60)
    (contour,), _ = cv2.findContours(target.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    assert measure_iou(fill_by_opencv([contour], target.shape), target) == pytest.approx(1 - (60 / 180) ** 2, abs=0.01)
    assert measure_iou(fill_by_opencv(trace_centres(target), target.shape), target) == 1
