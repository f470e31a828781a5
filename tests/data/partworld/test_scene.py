"""A scene depends on its seed and index alone, and its masks are exactly what is visible."""

import numpy as np
import pytest

from cores_core.data.partworld.brush import Canvas, Light, Placed, fill, paint_figure, random_style
from cores_core.data.partworld.catalog import PARTS
from cores_core.data.partworld.figures import FIGURES
from cores_core.data.partworld.layout import Crowd
from cores_core.data.partworld.scene import Scene, render_scene
from cores_core.data.partworld.shapes import Figure, Piece, Points

NO_LIGHT = Light(direction=(0.0, -1.0), relief=0.0, shadow=0.0)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [render_scene(seed=3, index=index) for index in range(24)]


def test_a_scene_depends_on_seed_and_index_alone(scenes: list[Scene]) -> None:
    again = render_scene(seed=3, index=5)
    assert np.array_equal(again.image, scenes[5].image)
    assert [thing.category for thing in again.objects] == [thing.category for thing in scenes[5].objects]
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(again.objects, scenes[5].objects, strict=True))


def test_another_seed_or_index_is_another_scene(scenes: list[Scene]) -> None:
    pictures = {scene.image.tobytes() for scene in [*scenes, render_scene(seed=4, index=5)]}
    assert len(pictures) == len(scenes) + 1


def test_images_have_one_to_four_objects_and_the_promised_size(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert scene.image.dtype == np.uint8
        assert 192 <= min(scene.image.shape[:2]) <= max(scene.image.shape[:2]) <= 320
        assert 1 <= len(scene.objects) <= 4


def test_parts_partition_their_object(scenes: list[Scene]) -> None:
    for thing in (thing for scene in scenes for thing in scene.objects):
        assert set(thing.parts) <= set(PARTS[thing.category])
        assert np.array_equal(sum(part.astype(int) for part in thing.parts.values()), thing.mask.astype(int))


def test_objects_share_no_pixel_and_none_is_empty(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert np.sum([thing.mask for thing in scene.objects], axis=0).max() == 1
        assert all(thing.mask.any() and thing.mask.shape == scene.image.shape[:2] for thing in scene.objects)


def test_a_later_piece_hides_an_earlier_one_and_a_decoration_hides_none() -> None:
    body, head, eye = _square(10, 10, 29), _square(20, 10, 29), _square(5, 12, 24)  # the eye sticks out to the left
    canvas = _blank_canvas()
    figure = Figure("snake", (Piece(body, "body", "main"), Piece(head, "head", "second"), Piece(eye, None, "dark")))
    _paint(canvas, figure, ids={"body": 1, "head": 2})
    assert (canvas.ids[10:30, 10:20] == 1).all()
    assert (canvas.ids[10:30, 20:30] == 2).all()
    assert int((canvas.ids > 0).sum()) == 20 * 20
    assert (canvas.image[12:25, 5:9] == 255).all()  # nothing is painted where the figure is not


def test_an_occluder_takes_pixels_away() -> None:
    canvas = _blank_canvas()
    _paint(canvas, Figure("snake", (Piece(_square(10, 10, 29), "body", "main"),)), ids={"body": 1})
    _paint(canvas, Figure("thing", (Piece(_square(0, 15, 39), "thing", "dark"),)), ids={})
    assert (canvas.ids[15:] == 0).all()
    assert int((canvas.ids == 1).sum()) == 20 * 5


def test_most_of_every_object_stays_visible() -> None:
    rng = np.random.default_rng(0)
    crowd = Crowd((200, 260))
    ids = np.zeros((600, 660), dtype=np.uint8)  # 200 pixels around the image
    areas = {}
    for number, category in enumerate(["fish", "car", "bird", "boat"], start=1):
        placed = crowd.place_object(rng, FIGURES[category](rng), alone=False)
        if placed is not None:
            areas[number] = _fill_all(np.zeros_like(ids), placed, number)
            _fill_all(ids, placed, number)
    for number, area in areas.items():
        assert int((ids[200:400, 200:460] == number).sum()) >= 0.55 * area


@pytest.mark.parametrize("category", PARTS)
def test_the_table_draws_every_category(category: str) -> None:
    assert FIGURES[category](np.random.default_rng(0)).category == category


def _square(left: int, top: int, last: int) -> Points:
    """Outline from the pixel (left, top) to the pixel (last, last), both included."""
    return np.array([(left, top), (last, top), (last, last), (left, last)], dtype=np.float64)


def _blank_canvas() -> Canvas:
    return Canvas(image=np.full((40, 40, 3), 255, dtype=np.float32), ids=np.zeros((40, 40), dtype=np.uint8))


def _paint(canvas: Canvas, figure: Figure, ids: dict[str, int]) -> None:
    placed = Placed(figure, linear=np.eye(2), shift=np.zeros(2))
    paint_figure(canvas, placed, random_style(np.random.default_rng(0), canvas, placed), NO_LIGHT, ids)


def _fill_all(ids: np.ndarray, placed: Placed, number: int) -> int:
    """Fill the silhouette of a figure and return its area in pixels."""
    for piece, outline in zip(placed.figure.pieces, placed.outlines(), strict=True):
        if piece.part is not None:
            fill(ids, outline + 200, number)
    return int((ids == number).sum())
