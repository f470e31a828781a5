"""Shapes become masks exactly as the original code draws them under OpenCV 4.8, whatever version is installed."""

import json
import time
from pathlib import Path
from typing import Any
from zlib import crc32

import cv2
import numpy as np
import pytest
from helpers import mask
from numpy.typing import NDArray

from cores_core.data.sources.labelme import LabelmeMasks, draw_polygon, draw_shapes, parse_shapes
from cores_core.errors import DataError
from cores_core.sample import BoolMask

SQUARE = [[1, 1], [3, 1], [3, 3], [1, 3]]
DRAWN_BY_OPENCV_4_8: dict[str, tuple[list[list[int]], tuple[str, ...]]] = {
    "a dot": ([[2, 1]], ("......", "..#...", "......", "......")),
    "a line of two points": ([[2, 0], [0, 4]], ("..#", ".##", ".#.", "##.", "#..")),
    "a thin triangle": (
        [[0, 6], [2, 0], [3, 0]],
        ("..##", "..##", ".##.", ".##.", ".#..", "##..", "#...", "....", "...."),
    ),
    "a star that crosses itself": (
        [[5, 0], [8, 8], [0, 3], [10, 3], [2, 8]],
        (
            ".....#.....",
            ".....#.....",
            "....###....",
            "###########",
            ".####.####.",
            "...##..#...",
            "...#####...",
            "..###.###..",
            "..#.....#..",
        ),
    ),
    "two legs": (
        [[0, 0], [8, 0], [8, 6], [6, 6], [5, 2], [3, 2], [2, 6], [0, 6]],
        ("#########", "#########", "#########", "####.####", "####.####", "###...###", "###...###"),
    ),
    "a line cut at the top": (
        [[10, 9], [9, -9]],
        (*[".........#...."] * 5, *[".........##..."] * 4, "..........#..."),
    ),
    "a line that leaves one pixel": ([[14, 14], [7, -5]], ("........#", *["........."] * 9)),
    "a line cut at the bottom": (
        [[0, 12], [3, 1]],
        (
            "..........",
            "...#......",
            "..##......",
            "..#.......",
            "..#.......",
            ".##.......",
            ".#........",
            ".#........",
        ),
    ),
    "a triangle cut at three borders": (
        [[0, -6], [16, -10], [11, 14]],
        (
            "...#######",
            "...#######",
            "....######",
            "....######",
            ".....#####",
            "......####",
            "......####",
            ".......###",
            "........##",
            "........##",
        ),
    ),
    "corners far away": ([[-1000000, -40000], [900000, 3], [-7, 40000]], ("########",) * 6),
    "wholly around the image": ([[-2, -2], [7, -2], [7, 7], [-2, 7]], ("######",) * 6),
    "wholly beside the image": ([[-3, -3], [-1, 2], [-2, 9]], ("......",) * 4),
}


@pytest.mark.parametrize("case", DRAWN_BY_OPENCV_4_8)
def test_a_polygon_is_drawn_as_by_opencv_4_8(case: str) -> None:
    points, rows = DRAWN_BY_OPENCV_4_8[case]
    assert np.array_equal(_draw(points, (len(rows), len(rows[0]))), mask(*rows))


def test_the_outline_of_every_opencv_is_part_of_it() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        height, width = (int(number) for number in rng.integers(1, 40, 2))
        line = rng.integers(-60, 100, (2, 2)) // rng.integers(1, 3)
        expected = np.zeros((height, width), dtype=np.uint8)
        cv2.polylines(expected, line[None].astype(np.int32), True, 1, 1)
        assert not (expected.astype(bool) & ~_draw(line, (height, width))).any()


def test_the_real_files_give_the_published_masks(shared: Path) -> None:
    folder = shared / "samples/ReasonSeg"
    published = json.loads((folder / "golden_masks.json").read_text())["opencv-4.8.1.78"]
    compared = 0
    for name, expected in published.items():
        if (folder / name).exists():
            shapes = json.loads((folder / name).read_text())["shapes"]
            masks = draw_shapes(parse_shapes(shapes), (expected["h"], expected["w"]))
            assert (masks.target.sum(), masks.ignore.sum()) == (expected["target"], expected["ignore"]), name
            assert crc32(_values(masks).tobytes()) == expected["crc32"], name
            compared += 1
    assert compared >= 10


@pytest.mark.parametrize(("case", "border"), [("a_multi", 8), ("b_ignore", 1), ("c_flag_ties", 0), ("d_nothing", 0)])
def test_the_golden_masks_are_met_but_for_the_border_of_a_later_opencv(shared: Path, case: str, border: int) -> None:
    """They were drawn by OpenCV 4.11 or later, in which the fill of the first two has so many pixels less."""
    with np.load(shared / "golden/data/labelme_masks.npz") as golden:
        expected = golden[case]
    text = (shared / f"golden/data/labelme/{case}.json").read_bytes().decode("cp1252")
    values = _values(draw_shapes(parse_shapes(json.loads(text)["shapes"]), expected.shape))
    assert (values != expected).sum() == border
    assert not (expected[values == 0]).any()


def test_points_are_truncated_not_rounded() -> None:
    (shape,) = parse_shapes([_shape("target", [[1.9, -0.9], [3, 0.5], [-1.5, 2.99]])])
    assert shape.points.tolist() == [[1, 0], [3, 0], [-1, 2]]


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("target", "target"),
        ("Sofa", "target"),
        ("flagged", "target"),
        ("", "target"),
        ("ignore", "ignore"),
        ("Ignore", "ignore"),
        ("to be ignored", "ignore"),
        ("flag", "none"),
        ("FLAG", "none"),
    ],
)
def test_the_label_says_what_counts(label: str, kind: str) -> None:
    masks = _paint([(label, SQUARE)])
    drawn = {"target": masks.target.any(), "ignore": masks.ignore.any()}
    assert [name for name, is_drawn in drawn.items() if is_drawn] == ([] if kind == "none" else [kind])


def test_the_points_of_a_flag_do_not_matter() -> None:
    assert not parse_shapes([{"label": "flag", "points": []}, {"label": "Flag"}])


@pytest.mark.parametrize("is_reversed", [False, True])
def test_the_largest_is_painted_first(is_reversed: bool) -> None:
    shapes = [("ignore", [[2, 2], [2, 2]]), ("target", SQUARE), ("ignore", [[0, 0], [4, 0], [4, 4], [0, 4]])]
    masks = _paint(shapes[::-1] if is_reversed else shapes)
    assert np.array_equal(masks.target, mask(".....", ".###.", ".#.#.", ".###.", "....."))
    assert np.array_equal(masks.ignore, ~masks.target)


def test_the_size_of_a_shape_is_what_shows_of_it() -> None:
    masks = _paint([("ignore", [[-90, 2], [2, 2], [2, 2]]), ("target", SQUARE)])
    assert np.array_equal(masks.ignore, mask(".....", ".....", "###..", ".....", "....."))


@pytest.mark.parametrize(("count", "wins"), [(16, "ignore"), (20, "target")])
def test_equal_shapes_are_painted_in_the_order_of_numpy_1_24(count: int, wins: str) -> None:
    """Its argsort of 16 equal areas, reversed, is 15 ... 2 1 0; that of 20 is 19 18 1 2 ... 17 0."""
    places = [[number, 0] for number in range(count)]
    places[2] = places[1]
    labels = ["target"] * count
    labels[1] = "ignore"
    masks = _paint([(label, [place]) for label, place in zip(labels, places, strict=True)], (1, 20))
    assert bool(masks.ignore[0, 1]) == (wins == "ignore")
    assert bool(masks.target[0, 1]) == (wins == "target")


def test_no_shape_is_an_empty_mask() -> None:
    masks = draw_shapes(parse_shapes([]), (3, 4))
    assert masks.target.shape == masks.ignore.shape == (3, 4)
    assert not (masks.target | masks.ignore).any()


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        (None, "shapes are not a list"),
        ({}, "shapes are not a list"),
        ([None], "shape without a label or points"),
        ([{"label": "target"}], "shape without a label or points"),
        ([{"label": 1, "points": SQUARE}], "shape without a label or points"),
        ([{"label": "target", "points": []}], "shape without a label or points"),
        ([{"label": "target", "points": [1, 2]}], "points are not pairs of numbers"),
        ([{"label": "target", "points": [[1, 2, 3]]}], "points are not pairs of numbers"),
        ([{"label": "target", "points": [[1, 2], [3]]}], "points are not pairs of numbers"),
        ([{"label": "target", "points": [["a", 2]]}], "points are not pairs of numbers"),
        ([{"label": "target", "points": [[{}, 2]]}], "points are not pairs of numbers"),
        ([{"label": "target", "points": [[10**400, 2]]}], "points are not pairs of numbers"),
        ([{"label": "target", "points": [[2**31, 2]]}], "a point lies far outside its image"),
        ([{"label": "target", "points": [[None, 2]]}], "a point lies far outside its image"),
        ([{"label": "target", "points": [[float("nan"), 2]]}], "a point lies far outside its image"),
        ([{"label": "target", "points": [[float("-inf"), 2]]}], "a point lies far outside its image"),
    ],
)
def test_what_cannot_be_drawn_is_refused(entries: Any, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        parse_shapes(entries)


def test_the_furthest_points_can_be_drawn() -> None:
    far = 2**31 - 1
    assert _draw([[-far, -far], [far, -far], [far, far], [-far, far]], (4, 5)).all()


def test_many_points_on_a_large_image_are_quick() -> None:
    turns = np.linspace(0, 2 * np.pi, 1000)
    points = np.stack([1500 + 1400 * np.cos(turns), 2500 + 2400 * np.sin(turns)], axis=1).astype(np.int64)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        draw_polygon(points, (5000, 3000))
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.2


def _draw(points: Any, size_hw: tuple[int, int]) -> BoolMask:
    canvas = np.zeros(size_hw, dtype=np.uint8)
    draw_polygon(np.asarray(points, dtype=np.int64), size_hw).paint(canvas, 1)
    return canvas.astype(bool)


def _paint(shapes: list[tuple[str, list[list[int]]]], size_hw: tuple[int, int] = (5, 5)) -> LabelmeMasks:
    return draw_shapes(parse_shapes([_shape(label, points) for label, points in shapes]), size_hw)


def _shape(label: str, points: list[Any]) -> dict[str, Any]:
    return {"label": label, "labels": [label], "shape_type": "polygon", "points": points, "group_id": None, "flags": {}}


def _values(masks: LabelmeMasks) -> NDArray[np.uint8]:
    """The mask as the original code has it: 1 for the target, 255 for what counts nowhere."""
    values = masks.target.astype(np.uint8)
    values[masks.ignore] = 255
    return values
