"""Render one PartWorld scene: an image of 1 to 4 objects, and the exact masks of their visible parts.

PartWorld is a rendered substitute for PartImageNet (arXiv:2112.00933) with the same categories and parts. A scene is a
function of seed and index, the same on every machine.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cores_core.data.partworld.backdrop import draw_backdrop
from cores_core.data.partworld.brush import Canvas, Light, Placed, paint_figure, random_light, random_style
from cores_core.data.partworld.catalog import PARTS
from cores_core.data.partworld.clutter import draw_loose_shape, draw_occluder
from cores_core.data.partworld.effects import photograph
from cores_core.data.partworld.figures import FIGURES
from cores_core.data.partworld.layout import Crowd, place_anywhere
from cores_core.sample import BoolMask

OBJECT_COUNT_SHARES = (0.55, 0.25, 0.13, 0.07)
"""Probabilities of 1, 2, 3 and 4 objects in a scene."""
LONGER_SIDE = (256, 320)
SHORTER_SIDE = (192, 320)
IDS_PER_OBJECT = 8  # more than any category has parts; 4 objects fit in a byte
OCCLUDER_SHARE = 0.15


@dataclass(frozen=True)
class SceneObject:
    """One object. `mask`: (H, W) its visible pixels; `parts`: (H, W) visible pixels by part, which do not overlap and
    whose union is the mask. Parts that the figure lacks, or that are entirely hidden, are not listed."""

    category: str
    mask: BoolMask
    parts: Mapping[str, BoolMask]


@dataclass(frozen=True)
class Scene:
    """One image, (H, W, 3) uint8 RGB, and its objects from back to front."""

    image: NDArray[np.uint8]
    objects: tuple[SceneObject, ...]


def render_scene(seed: int, index: int) -> Scene:
    """Render scene number `index` of the stream `seed`."""
    rng = np.random.default_rng((seed, index))
    size_hw = _draw_size(rng)
    light = random_light(rng)
    canvas = Canvas(image=draw_backdrop(rng, size_hw), ids=np.zeros(size_hw, dtype=np.uint8))
    _scatter_clutter(rng, canvas, light)
    crowd = Crowd(size_hw)
    categories = _draw_categories(rng)
    placed_objects: list[Placed] = []
    for category in categories:
        placed = crowd.place_object(rng, FIGURES[category](rng), alone=len(categories) == 1)
        if placed is not None:
            ids = _part_ids(len(placed_objects), category)
            paint_figure(canvas, placed, random_style(rng, canvas, placed), light, ids)
            placed_objects.append(placed)
    _add_occluders(rng, canvas, light, crowd)
    return Scene(photograph(rng, canvas.image), _read_objects(canvas.ids, placed_objects))


def _draw_size(rng: np.random.Generator) -> tuple[int, int]:
    """Height and width of an image, more often wide than tall."""
    longer = int(rng.integers(LONGER_SIDE[0], LONGER_SIDE[1] + 1))
    shorter = int(rng.integers(SHORTER_SIDE[0], min(longer, SHORTER_SIDE[1]) + 1))
    return (shorter, longer) if rng.random() < 0.65 else (longer, shorter)


def _draw_categories(rng: np.random.Generator) -> list[str]:
    """Categories of a scene's objects: the first uniform, the others uniform, similar, or the same as the first."""
    names = list(PARTS)
    first = names[int(rng.integers(len(names)))]
    categories = [first]
    for _ in range(int(rng.choice(len(OBJECT_COUNT_SHARES), p=OBJECT_COUNT_SHARES))):
        choices, luck = names, rng.random()
        if luck < 0.3:
            choices = _alike(first)
        elif luck < 0.4:
            choices = [first]
        categories.append(choices[int(rng.integers(len(choices)))])
    return [categories[i] for i in rng.permutation(len(categories))]


def _alike(category: str) -> list[str]:
    """The other categories that share the most part names with this one, e.g. aeroplane and bird, as distractors."""
    shared = {other: len({*PARTS[other]} & {*PARTS[category]}) for other in PARTS if other != category}
    return [other for other, count in shared.items() if count >= max(shared.values()) - 1 and count > 0]


def _part_ids(object_index: int, category: str) -> dict[str, int]:
    """Id of each part in the id map; 0 is the background."""
    return {part: 1 + object_index * IDS_PER_OBJECT + i for i, part in enumerate(PARTS[category])}


def _scatter_clutter(rng: np.random.Generator, canvas: Canvas, light: Light) -> None:
    """Paint a random number of loose shapes on the background."""
    size_hw = canvas.image.shape[0], canvas.image.shape[1]
    for _ in range(int(rng.integers(0, 7) * (rng.random() < 0.45))):
        scale, angle = rng.uniform(0.02, 0.12), rng.uniform(-np.pi, np.pi)
        placed = place_anywhere(rng, draw_loose_shape(rng), scale=scale, angle=angle, size_hw=size_hw)
        paint_figure(canvas, placed, random_style(rng, canvas, placed), light, ids={})


def _add_occluders(rng: np.random.Generator, canvas: Canvas, light: Light, crowd: Crowd) -> None:
    """Sometimes paint one or two occluders in front of the objects."""
    for _ in range(int(rng.integers(1, 3)) if rng.random() < OCCLUDER_SHARE else 0):
        placed = crowd.place_occluder(rng, draw_occluder(rng))
        if placed is not None:
            paint_figure(canvas, placed, random_style(rng, canvas, placed), light, ids={})


def _read_objects(ids: NDArray[np.uint8], placed_objects: list[Placed]) -> tuple[SceneObject, ...]:
    """Read the masks of all visible parts from the id map."""
    pixel_counts = np.bincount(ids.ravel(), minlength=256)
    objects = []
    for i, placed in enumerate(placed_objects):
        category = placed.figure.category
        numbers = _part_ids(i, category)
        parts = {part: ids == number for part, number in numbers.items() if pixel_counts[number]}
        mask = (ids > i * IDS_PER_OBJECT) & (ids <= (i + 1) * IDS_PER_OBJECT)
        objects.append(SceneObject(category, mask, parts))
    return tuple(objects)
