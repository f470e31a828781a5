"""What training sees, in which order: a pure function of (seed, position).

`(seed, epoch, index)` decides everything, so a resumed run sees the samples that the uninterrupted one would have seen.
"""

import numpy as np

from cores_core.data.store import Record, Region, Store
from cores_core.errors import DataError
from cores_core.images import load_image
from cores_core.masks import decode_rle
from cores_core.prompts import PromptFormat, render_turn
from cores_core.sample import Query, Sample, Thing


class Mixture:
    """An endless stream of training samples; `mixture[position]` is always the same sample."""

    def __init__(
        self, stores: list[Store], prompt: PromptFormat, queries_per_image: int, seed: int, with_scene: bool = False
    ) -> None:
        """Mix the images of stores evenly.

        Args:
            queries_per_image: the most that are asked of one image.
            with_scene: whether samples also hold all that their image shows, asked about or not.
        """
        self._stores = stores
        self._prompt = prompt
        self._queries = queries_per_image
        self._seed = seed
        self._with_scene = with_scene
        self._starts = np.cumsum([0, *(len(store) for store in stores)])
        self._epoch = (-1, np.zeros(0, dtype=np.int64))
        if self._starts[-1] == 0:
            raise DataError("the training data is empty")

    @property
    def images(self) -> int:
        """Images in one epoch."""
        return int(self._starts[-1])

    def __getitem__(self, position: int) -> Sample:
        epoch, place = divmod(position, self.images)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, np.random.default_rng((self._seed, epoch)).permutation(self.images))
        index = int(self._epoch[1][place])
        which = int(np.searchsorted(self._starts, index, side="right")) - 1
        store = self._stores[which]
        record = store[index - int(self._starts[which])]
        rng = np.random.default_rng((self._seed, epoch, index))
        asked = draw_queries(record, self._queries, rng)
        return Sample(
            image=load_image(store.image_path(record)),
            turns=tuple(render_turn(query, self._prompt, rng) for _, query in asked),
            masks=tuple(decode_rle(region.mask) for region, _ in asked),
            ignores=tuple(None if region.ignore is None else decode_rle(region.ignore) for region, _ in asked),
            categories=tuple(region.category for region, _ in asked),
            scene=tuple(_thing(region) for region in record.regions) if self._with_scene else (),
        )


def draw_queries(record: Record, count: int, rng: np.random.Generator) -> list[tuple[Region, Query]]:
    """Up to `count` different regions of an image, each with one of its queries."""
    chosen = rng.permutation(len(record.regions))[:count]
    regions = [record.regions[int(i)] for i in chosen]
    return [(region, region.queries[int(rng.integers(len(region.queries)))]) for region in regions]


def _thing(region: Region) -> Thing:
    return Thing(region.category, region.kind, decode_rle(region.mask))
