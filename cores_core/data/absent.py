"""Questions about what an image does not show, taken from other images of the data set."""

from collections.abc import Sequence

import numpy as np

from cores_core.data.overlap import StoreView
from cores_core.data.store import Record, Region, Store

ATTEMPTS = 8
"""How many other images are drawn before an image goes without such a question."""
KINDS = ("part", "object")


def draw_absent(
    store: Store | StoreView, record: Record, rng: np.random.Generator, kinds: Sequence[str] = KINDS
) -> Region | None:
    """A region of another image whose category the image does not have, or None if none is found.

    Where a data set has no categories, a region whose texts are not asked about the image.

    Args:
        kinds: kinds of regions to draw from.
    """
    categories = {region.category for region in record.regions if region.category}
    texts = {query.text for region in record.regions for query in region.queries}
    for _ in range(ATTEMPTS):
        others = [
            region
            for region in store[int(rng.integers(len(store)))].regions
            if region.kind in kinds
            and region.queries
            and region.category not in categories
            and texts.isdisjoint(query.text for query in region.queries)
        ]
        if others:
            return others[int(rng.integers(len(others)))]
    return None
