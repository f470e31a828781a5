"""Shapes become masks exactly as the original code draws them under OpenCV 4.8, whatever version is installed."""

import base64
import io
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
from PIL import Image, ImageDraw

from cores_core.data.sources.labelme import (
    LabelmeMasks,
    check_drawn_size,
    draw_polygon,
    draw_shapes,
    parse_shapes,
)
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


def _shape(label: str, points: list[Any]) -> dict[str, Any]:
    return {"label": label, "labels": [label], "shape_type": "polygon", "points": points, "group_id": None, "flags": {}}


def _encode(pixels: NDArray[Any]) -> str:
    """Pixels as LabelMe stores a mask shape: a PNG in base64."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


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


@pytest.mark.parametrize("corners", [[[10.6, 10.2], [149.9, 109.1]], [[149.9, 10.2], [10.6, 109.1]]])
def test_a_rectangle_covers_its_corners_and_all_between(corners: list[list[float]]) -> None:
    masks = draw_shapes(parse_shapes([_shape("target", corners) | {"shape_type": "rectangle"}]), (120, 160))
    assert masks.target.sum() == 140 * 100
    assert masks.target[10:110, 10:150].all()


def test_a_rectangle_of_four_points_is_their_polygon() -> None:
    masks = draw_shapes(parse_shapes([_shape("target", SQUARE) | {"shape_type": "rectangle"}]), (5, 5))
    assert np.array_equal(masks.target, _draw(SQUARE, (5, 5)))


@pytest.mark.parametrize("points", [[[80.5, 60.0], [80.5, 30.0]], [[3, 4], [30, 40]]])
def test_a_circle_is_drawn_as_by_labelme(points: list[list[float]]) -> None:
    """As `shape_to_mask` of labelme.utils: an ellipse of Pillow around the first point, through the second."""
    (x, y), (rim_x, rim_y) = points
    radius = ((x - rim_x) ** 2 + (y - rim_y) ** 2) ** 0.5
    expected = Image.new("L", (160, 120))
    ImageDraw.Draw(expected).ellipse([x - radius, y - radius, x + radius, y + radius], outline=1, fill=1)
    masks = draw_shapes(parse_shapes([_shape("target", points) | {"shape_type": "circle"}]), (120, 160))
    assert np.array_equal(masks.target, np.asarray(expected) > 0)


@pytest.mark.parametrize(("left", "top"), [(2, 1), (-1, -1), (4, 3)])
def test_a_mask_shape_covers_its_pixels_even_if_its_box_leaves_the_image(left: int, top: int) -> None:
    pixels = mask("##.", ".##", "#..")
    box = [[left, top], [left + 2, top + 2]]
    shape = _shape("target", box) | {"shape_type": "mask", "mask": _encode(pixels)}
    around = np.zeros((12, 12), dtype=bool)
    around[top + 4 : top + 7, left + 4 : left + 7] = pixels
    masks = draw_shapes(parse_shapes([shape]), (5, 6))
    assert np.array_equal(masks.target, around[4:9, 4:10])


@pytest.mark.parametrize(
    "shape",
    [
        _shape("target", [[-9, -9], [-5, -9], [-5, -5]]),
        _shape("target", [[70, 70], [72, 72]]) | {"shape_type": "rectangle"},
        _shape("target", [[70, 70], [72, 72]]) | {"shape_type": "circle"},
        _shape("target", [[70, 70], [72, 72]]) | {"shape_type": "mask", "mask": _encode(np.ones((3, 3)))},
    ],
    ids=["polygon", "rectangle", "circle", "mask"],
)
def test_a_target_outside_its_image_is_refused(shape: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="outside its image"):
        draw_shapes(parse_shapes([shape]), (5, 5))


def test_a_circle_that_reaches_far_outside_is_refused() -> None:
    with pytest.raises(DataError, match="far outside"):
        draw_shapes(parse_shapes([_shape("target", [[0, 0], [1e9, 0]]) | {"shape_type": "circle"}]), (5, 5))


@pytest.mark.parametrize("tree", [{}, {"imageWidth": None}, {"imageHeight": 5, "imageWidth": 7}])
def test_the_size_that_shapes_were_drawn_on_may_be_left_out(tree: dict[str, Any]) -> None:
    check_drawn_size(tree, (5, 7))


@pytest.mark.parametrize("tree", [{"imageHeight": 7, "imageWidth": 5}, {"imageWidth": 14}, {"imageHeight": "5"}])
def test_shapes_that_were_drawn_on_another_size_are_refused(tree: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="another size"):
        check_drawn_size(tree, (5, 7))


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
        ([_shape("target", SQUARE) | {"shape_type": "linestrip"}], "a shape of type linestrip"),
        ([_shape("target", SQUARE[:2]) | {"shape_type": "line"}], "a shape of type line"),
        ([_shape("target", SQUARE[:1]) | {"shape_type": "point"}], "a shape of type point"),
        ([_shape("target", SQUARE) | {"shape_type": "points"}], "a shape of type points"),
        ([_shape("target", SQUARE) | {"shape_type": ["circle"]}], "a shape of type"),
        ([_shape("target", SQUARE[:3]) | {"shape_type": "rectangle"}], "a rectangle of 3 points"),
        ([_shape("target", SQUARE[:1]) | {"shape_type": "circle"}], "a circle of 1 points"),
        ([_shape("target", SQUARE[::2]) | {"shape_type": "mask"}], "cannot be read"),
        ([_shape("target", SQUARE[::2]) | {"shape_type": "mask", "mask": "AAAA"}], "cannot be read"),
        ([_shape("target", [[0, 0], [5, 5]]) | {"shape_type": "mask", "mask": _encode(np.ones((3, 3)))}], "do not fit"),
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


def _values(masks: LabelmeMasks) -> NDArray[np.uint8]:
    """The mask as the original code has it: 1 for the target, 255 for what counts nowhere."""
    values = masks.target.astype(np.uint8)
    values[masks.ignore] = 255
    return values
