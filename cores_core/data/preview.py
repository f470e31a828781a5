"""Contact sheet of a prepared data set: random images, each with one target and its query."""

from pathlib import Path

import cv2
import numpy as np

from cores_core.data.mixture import draw_queries
from cores_core.data.store import Store
from cores_core.errors import DataError
from cores_core.images import load_image
from cores_core.masks import decode_rle
from cores_core.overlay import BAND_COLOUR, render_overlay
from cores_core.sample import RgbImage

COLUMNS, TILE_WIDTH, GAP = 4, 440, 12


def render_preview(store: Store, count: int, seed: int) -> RgbImage:
    """Render `count` random images of a store in rows of four, each with the overlay of one target and its text.

    Raises:
        DataError: the store is empty, or an image cannot be read or does not fit its mask.
    """
    rng = np.random.default_rng(seed)
    tiles = []
    for index in rng.permutation(len(store))[:count]:
        record = store[int(index)]
        image = load_image(store.image_path(record))
        for number, query in draw_queries(record, 1, rng):
            region = record.regions[number]
            mask = decode_rle(region.mask)
            if mask.shape != image.shape[:2]:
                raise DataError(f"{record.image} has size {image.shape[:2]}, its mask {mask.shape}: prepare it again")
            what = ", ".join(part for part in (region.category, region.kind, Path(record.image).name) if part)
            tiles.append(_tile(render_overlay(image, query.text, what, None, mask)))
    if not tiles:
        raise DataError(f"no regions to show in: {store.name} {store.split}")
    return np.vstack([_row(tiles[start : start + COLUMNS]) for start in range(0, len(tiles), COLUMNS)])


def _tile(picture: RgbImage) -> RgbImage:
    height = round(picture.shape[0] * TILE_WIDTH / picture.shape[1])
    return np.asarray(cv2.resize(picture, (TILE_WIDTH, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _row(tiles: list[RgbImage]) -> RgbImage:
    """Tiles side by side, aligned at the top, with gaps."""
    height = max(tile.shape[0] for tile in tiles) + GAP
    row = np.full((height, COLUMNS * (TILE_WIDTH + GAP), 3), BAND_COLOUR, dtype=np.uint8)
    for number, tile in enumerate(tiles):
        left = number * (TILE_WIDTH + GAP) + GAP // 2
        row[GAP // 2 : GAP // 2 + tile.shape[0], left : left + TILE_WIDTH] = tile
    return row
