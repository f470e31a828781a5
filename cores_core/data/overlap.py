"""Exclude images of evaluation splits from training data (`exclude_val` in the releases).

RefCOCO, RefCOCO+, RefCOCOg and COCO-Stuff share the images of COCO: an image in RefCOCO's val may also be in RefCOCOg's
train.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cores_core.data.store import Record, Store, find_stores

_COCO_ID = re.compile(r"(?:^|/|_)(\d{12})\.jpe?g$", re.IGNORECASE)
"""File names of COCO images: `COCO_train2014_000000000009.jpg`, `train2017/000000000009.jpg`."""


class StoreView:
    """A subset of a store's images, given by row indices (N,)."""

    def __init__(self, store: Store, rows: NDArray[np.int64]) -> None:
        self.name, self.split, self.data_root = store.name, store.split, store.data_root
        self._store = store
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Record:
        return self._store[int(self._rows[index])]

    def image_path(self, record: Record) -> Path:
        """Path of a record's image."""
        return self._store.image_path(record)

    def categories(self) -> dict[str, str]:
        """Name and kind of every category of the whole store."""
        return self._store.categories()


def without_held_out(stores: Sequence[Store]) -> list[StoreView]:
    """Remove the images of all prepared splits other than "train", under the same data root, from stores."""
    held_out: set[str] = set()
    for root in {store.data_root for store in stores}:
        for store in find_stores(root):
            if store.split != "train":
                held_out |= set(map(image_key, store.image_names()))
    return [_leave_out(store, held_out) for store in stores]


def image_key(name: str) -> str:
    """A key that is equal for all names of an image: the COCO id, or the name itself."""
    found = _COCO_ID.search(name)
    return f"coco {found[1]}" if found else name


def _leave_out(store: Store, held_out: set[str]) -> StoreView:
    kept = [row for row, name in enumerate(store.image_names()) if image_key(name) not in held_out]
    return StoreView(store, np.asarray(kept, dtype=np.int64))
