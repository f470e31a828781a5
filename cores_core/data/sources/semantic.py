"""COCO-Stuff, ADE20K and Mapillary Vistas: semantic segmentation with a label map of class ids per image.

Raw layout (LISA's), `<split>` as on disk:
- `cocostuff/<split>/*.png` with `coco/<split>/*.jpg`; "train2017" or "val2017". The labels are the stuffthingmaps; the
  older ones of cocostuff-api, where person is 1, are not supported;
- `ade20k/annotations/<split>/*.png` with `ade20k/images/<split>/*.jpg`; "training" or "validation";
- `mapillary/config_v2.0.json`, `mapillary/<split>/v2.0/labels/*.png` with `mapillary/<split>/images/*.jpg`; likewise.

All pixels of a class in an image form one region, with the class name as its only phrase. A label map with an unknown
class id is rejected: it belongs to another version, whose other ids may differ, too.

Source: COCO-Stuff (arXiv:1612.03716), ADE20K (arXiv:1608.05442), Mapillary Vistas v2.0; LISA (arXiv:2308.00692), which
excludes stuff classes with "-" in their name ("wall-brick") as targets, and uses Mapillary's `readable` in lower case
as class names, even if they are unusual phrases ("lane marking - arrow (left)").
Deviation: pixels without a class are ignored (LISA: background), and Mapillary's "unlabeled" is not a target. As in
LISA, stuff with "-" is background: LISA sets it to 255, but its losses have no ignored value.
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
"""Mapillary's name for pixels without a class, which have their own id."""
_PNG = ["PNG"]
"""The only supported format; JPEG compression changes class ids."""
_Labels = NDArray[np.uint8]
"""(H, W) class ids, in Fortran order, which is fastest for mask encoding."""


@dataclass(frozen=True)
class ClassMap:
    """Meaning of the class ids in label maps.

    Attributes:
        asked: class ids by class name.
        background: ids of classes that are never targets.
        void: ids of ignored pixels.
    """

    asked: Mapping[str, tuple[int, ...]]
    background: Set[int] = frozenset()
    void: Set[int] = frozenset({IGNORE_VALUE})

    @property
    def values(self) -> Set[int]:
        """All valid class ids."""
        return {value for values in self.asked.values() for value in values} | self.background | self.void


def read_cocostuff(
    folder: Path, data_root: Path, split: str, rejected: Rejections, share: Share = WHOLE
) -> Iterator[Record]:
    """Read one split of COCO-Stuff.

    Args:
        folder: `cocostuff`. data_root: image paths are stored relative to it; it also holds `coco/`.
        split: its name on disk.
        rejected: collects skipped items. share: which shard of the images to read.

    Raises:
        DataError: a folder is missing or has no label maps.
    """
    stuff = frozenset(value for value, name in enumerate(COCOSTUFF_CLASSES) if "-" in name)
    asked = {name: (value,) for value, name in enumerate(COCOSTUFF_CLASSES) if value not in stuff}
    classes = ClassMap(asked, background=stuff)
    return _read(folder / split, data_root / COCOSTUFF_IMAGES / split, data_root, classes, rejected, share)


def read_ade20k(
    folder: Path, data_root: Path, split: str, rejected: Rejections, share: Share = WHOLE
) -> Iterator[Record]:
    """Read one split of ADE20K; the folder is `ade20k`, other arguments are as for `read_cocostuff`.

    Raises:
        DataError: a folder is missing or has no label maps.
    """
    asked = {name: (value,) for value, name in enumerate(ADE20K_CLASSES, start=1)}  # 0 means no class
    classes = ClassMap(asked, void=frozenset({0, IGNORE_VALUE}))
    return _read(folder / "annotations" / split, folder / "images" / split, data_root, classes, rejected, share)


def read_mapillary(
    folder: Path, data_root: Path, split: str, rejected: Rejections, share: Share = WHOLE
) -> Iterator[Record]:
    """Read one split of Mapillary Vistas v2.0; the folder is `mapillary`, other arguments are as for `read_cocostuff`.

    Raises:
        DataError: the list of classes is missing or malformed, or a folder is missing or has no label maps.
    """
    classes = _load_mapillary_classes(folder / MAPILLARY_CONFIG)
    return _read(folder / split / "v2.0/labels", folder / split / "images", data_root, classes, rejected, share)


def _load_mapillary_classes(path: Path) -> ClassMap:
    tree = load_json(path)
    labels = tree.get("labels") if isinstance(tree, dict) else None
    if not isinstance(labels, list) or not 0 < len(labels) <= IGNORE_VALUE:
        raise DataError(f"not a list of Mapillary's classes: {path} (`labels` must be a list of 1 to 255 entries)")
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
    """Yield a record per file stem that both folders have, in alphabetical order; reject the others."""
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
    return {path.stem for path in folder.glob(f"*{suffix}") if not path.name.startswith(".")}  # macOS creates "._x"


def _load_label(path: Path, size_hw: tuple[int, int]) -> _Labels:
    """Read a label map of size (height, width). Palettes are ignored; the class ids are the palette indices.

    Raises:
        DataError: it is damaged, not 8-bit PNG, or of another size.
    """
    try:
        with Image.open(path, formats=_PNG) as label:
            label.verify()  # checks the checksums; otherwise one in six bit errors would not be detected
        with Image.open(path, formats=_PNG) as label:
            if label.size != size_hw[::-1]:
                raise DataError("label of another size than its image")
            if label.mode not in ("L", "P"):
                raise DataError("label does not have a single 8-bit channel")
            return np.asfortranarray(label, dtype=np.uint8)
    except DECODE_ERRORS as error:
        raise DataError("label cannot be read") from error


def _regions(labels: _Labels, classes: ClassMap) -> tuple[Region, ...]:
    """Build a region per class in a label map.

    Raises:
        DataError: there is no class that can be a target, or an unknown class id.
    """
    shown = frozenset(np.flatnonzero(np.bincount(labels.ravel(order="K"))).tolist())
    if not shown <= classes.values:
        raise DataError("label has an unknown class id")
    ignore = _mask(labels, classes.void & shown)
    regions = []
    for name, values in classes.asked.items():
        mask = _mask(labels, shown.intersection(values))
        if mask is not None:
            source = ",".join(str(value) for value in values if value in shown)
            regions.append(Region(name, "object", mask, ignore, (Query(name, is_sentence=False),), source))
    if not regions:
        raise DataError("label without a target class")
    return tuple(regions)


def _mask(labels: _Labels, values: Iterable[int]) -> Rle | None:
    rles = [encode_rle(labels == value) for value in values]
    return merge_rles(rles) if rles else None
