"""COCO-Stuff, ADE20K and Mapillary Vistas: a label file for each image, in which each pixel has the value of its class.

Raw layout (LISA's tree), `<split>` as it is called on disk:
- `cocostuff/<split>/*.png` with `coco/<split>/*.jpg`; "train2017" or "val2017". The labels are the stuffthingmaps; the
  older ones of cocostuff-api, whose person is 1, are not for this reader;
- `ade20k/annotations/<split>/*.png` with `ade20k/images/<split>/*.jpg`; "training" or "validation";
- `mapillary/config_v2.0.json`, `mapillary/<split>/v2.0/labels/*.png` with `mapillary/<split>/images/*.jpg`; likewise.

All pixels of a class in one image are one region, and the name of the class is its one phrase. A value that the data
set does not have condemns the whole label: it is one of another version, and its other values would mislead.

Source: COCO-Stuff (arXiv:1612.03716), ADE20K (arXiv:1608.05442), Mapillary Vistas v2.0; LISA (arXiv:2308.00692), which
does not ask for stuff with "-" in its name ("wall-brick"), and calls Mapillary's classes by `readable` in lower case,
also where that is no phrase of everyday speech ("lane marking - arrow (left)").
Deviation: pixels without a class count nowhere, where LISA takes them for background, and nobody asks for Mapillary's
"unlabeled". Stuff with "-" stays background here as there: LISA writes 255 over it, but its losses look at no 255.
"""

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cores_core.data.sources.reading import WHOLE, Rejections, Share, load_json, read_size
from cores_core.data.sources.semantic_classes import ADE20K_CLASSES, COCOSTUFF_CLASSES
from cores_core.data.store import Record, Region
from cores_core.errors import DataError
from cores_core.images import DECODE_ERRORS
from cores_core.masks import IGNORE_VALUE, Rle, encode_rle, merge_rles
from cores_core.sample import Query

COCOSTUFF_IMAGES = "coco"
"""Relative to the data root."""
MAPILLARY_CONFIG = "config_v2.0.json"
"""Relative to the data set's folder; its classes are in the order of their values."""
MAPILLARY_VOID = "unlabeled"
"""What Mapillary calls pixels without a class, which have a value of their own."""
_PNG = ["PNG"]
"""No other form, for a JPEG smears the values."""
_Labels = NDArray[np.uint8]
"""(H, W), the value of each pixel's class. In Fortran order, in which masks are encoded fastest."""


@dataclass(frozen=True)
class ClassMap:
    """What the values in label files mean.

    Attributes:
        asked: the values of each class by its name.
        background: values of classes that nobody asks for.
        void: values of pixels that belong to no class and count nowhere.
    """

    asked: Mapping[str, tuple[int, ...]]
    background: Set[int] = frozenset()
    void: Set[int] = frozenset({IGNORE_VALUE})

    @property
    def values(self) -> Set[int]:
        """All that may stand in a label file."""
        return {value for values in self.asked.values() for value in values} | self.background | self.void


def read_cocostuff(
    folder: Path, data_root: Path, split: str, rejected: Rejections, share: Share = WHOLE
) -> Iterator[Record]:
    """Read one split of COCO-Stuff.

    Args:
        folder: `cocostuff`. data_root: image paths are stored relative to it; it also holds `coco/`.
        split: its name on disk.
        rejected: takes what is left out. share: which images to read.

    Raises:
        DataError: a folder is missing, or there is no label in it.
    """
    stuff = frozenset(value for value, name in enumerate(COCOSTUFF_CLASSES) if "-" in name)
    asked = {name: (value,) for value, name in enumerate(COCOSTUFF_CLASSES) if value not in stuff}
    classes = ClassMap(asked, background=stuff)
    return _read(folder / split, data_root / COCOSTUFF_IMAGES / split, data_root, classes, rejected, share)


def read_ade20k(
    folder: Path, data_root: Path, split: str, rejected: Rejections, share: Share = WHOLE
) -> Iterator[Record]:
    """Read one split of ADE20K; the folder is `ade20k`, all else is as for `read_cocostuff`.

    Raises:
        DataError: a folder is missing, or there is no label in it.
    """
    asked = {name: (value,) for value, name in enumerate(ADE20K_CLASSES, start=1)}  # 0 is all that has no class
    classes = ClassMap(asked, void=frozenset({0, IGNORE_VALUE}))
    return _read(folder / "annotations" / split, folder / "images" / split, data_root, classes, rejected, share)


def read_mapillary(
    folder: Path, data_root: Path, split: str, rejected: Rejections, share: Share = WHOLE
) -> Iterator[Record]:
    """Read one split of Mapillary Vistas v2.0; the folder is `mapillary`, all else is as for `read_cocostuff`.

    Raises:
        DataError: the list of classes is missing or not of this form, a folder is missing, or there is no label in it.
    """
    classes = _load_mapillary_classes(folder / MAPILLARY_CONFIG)
    return _read(folder / split / "v2.0/labels", folder / split / "images", data_root, classes, rejected, share)


def _load_mapillary_classes(path: Path) -> ClassMap:
    tree = load_json(path)
    labels = tree.get("labels") if isinstance(tree, dict) else None
    if not isinstance(labels, list) or not 0 < len(labels) <= IGNORE_VALUE:
        raise DataError(f"not a list of Mapillary's classes: {path} (no list of labels that fits into 8 bits)")
    asked: dict[str, tuple[int, ...]] = {}
    for value, label in enumerate(labels):
        readable = label.get("readable") if isinstance(label, dict) else None
        if not isinstance(readable, str) or not readable.strip() or not readable.isprintable():
            raise DataError(f"not a list of Mapillary's classes: {path} (labels[{value}] has no `readable`)")
        name = readable.strip().lower()
        asked[name] = (*asked.get(name, ()), value)
    void = frozenset({*asked.pop(MAPILLARY_VOID, ()), IGNORE_VALUE})
    return ClassMap(asked, void=void)


def _read(
    labels: Path, images: Path, data_root: Path, classes: ClassMap, rejected: Rejections, share: Share
) -> Iterator[Record]:
    """One record for each stem that both folders have, in alphabetical order."""
    labelled, pictured = _stems(labels, ".png"), _stems(images, ".jpg")
    if not labelled:
        raise DataError(f"no label (*.png) in: {labels}")
    for stem in share.of(sorted(labelled | pictured)):
        image, label = images / f"{stem}.jpg", labels / f"{stem}.png"
        image_name, label_name = (path.relative_to(data_root).as_posix() for path in (image, label))
        if stem not in labelled:
            rejected.add(label_name, "label is missing")
            continue
        try:
            size_hw = read_size(image)
        except DataError as error:
            rejected.add(image_name, error.message)
            continue
        try:
            regions = _regions(_load_label(label, size_hw), classes)
        except DataError as error:
            rejected.add(label_name, error.message)
            continue
        yield Record(image=image_name, size_hw=size_hw, regions=regions)


def _stems(folder: Path, suffix: str) -> set[str]:
    if not folder.is_dir():
        raise DataError(f"no such folder: {folder}")
    return {path.stem for path in folder.glob(f"*{suffix}") if not path.name.startswith(".")}  # "._x" is macOS' litter


def _load_label(path: Path, size_hw: tuple[int, int]) -> _Labels:
    """Read a label file; a palette is only there to look at, the values are its indices.

    Raises:
        DataError: it is damaged, not of this form or of another size; the message repeats.
    """
    try:
        with Image.open(path, formats=_PNG) as label:
            label.verify()  # only this looks at checksums: one bit in six that falls over would pass unseen
        with Image.open(path, formats=_PNG) as label:
            if label.size != size_hw[::-1]:
                raise DataError("label of another size than its image")
            if label.mode not in ("L", "P"):
                raise DataError("label is not of one 8-bit channel")
            return np.asfortranarray(label, dtype=np.uint8)
    except DECODE_ERRORS as error:
        raise DataError("label cannot be read") from error


def _regions(labels: _Labels, classes: ClassMap) -> tuple[Region, ...]:
    """One region for each class that is there.

    Raises:
        DataError: there is none, or a value that no class has.
    """
    shown = frozenset(np.flatnonzero(np.bincount(labels.ravel(order="K"))).tolist())
    if not shown <= classes.values:
        raise DataError("label has a value beyond its classes")
    ignore = _mask(labels, classes.void & shown)
    regions = []
    for name, values in classes.asked.items():
        mask = _mask(labels, shown.intersection(values))
        if mask is not None:
            source = ",".join(str(value) for value in values if value in shown)
            regions.append(Region(name, "object", mask, ignore, (Query(name, is_sentence=False),), source))
    if not regions:
        raise DataError("label without a class to ask for")
    return tuple(regions)


def _mask(labels: _Labels, values: Iterable[int]) -> Rle | None:
    rles = [encode_rle(labels == value) for value in values]
    return merge_rles(rles) if rles else None
