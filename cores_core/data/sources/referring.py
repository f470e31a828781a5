"""Referring expressions: refCLEF, RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO.

Raw layout (LISA's): `refer_seg/<name>/{refs(<split by>).p,instances.json}` and `refer_seg/images/...`. A ref links
sentences to annotations, and with `image_id` to an image of `instances.json` (the `file_name` of a ref has a suffix).
In gRefCOCO, whose refs may be JSON, a ref may have several annotations, or none: then its mask is empty.

All refs of an image to the same annotations form one region with all distinct sentences. Masks are those of REFER
(lichengunc/refer) and grefer: the union of all polygons or RLEs; crowds are skipped if there are several annotations.
"""

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeGuard

import numpy as np

from cores_core.data.sources.pickles import load_plain_pickle
from cores_core.data.sources.reading import WHOLE, Rejections, Share, load_json, read_size
from cores_core.data.store import Record, Region
from cores_core.errors import DataError
from cores_core.masks import Rle, encode_rle, merge_rles, rle_area, segmentation_rle
from cores_core.sample import Query

NO_TARGET = -1  # gRefCOCO's annotation id of an empty target
_COCO = "refer_seg/images/mscoco/images/train2014"
_HINT = "see `cores prepare-data --list`"


@dataclass(frozen=True)
class ReferringFiles:
    """Files of a referring data set.

    Attributes:
        refs: file name of the refs; if it is missing, the same name with `.json` or `.p` is tried.
        images: folder of images below the data root.
        exclude: ids of images to skip, from `held_out_images`. refCLEF's ids are not those of COCO.
    """

    refs: str
    images: str
    exclude: Set[int] = frozenset()


REFERRING_FILES: Mapping[str, ReferringFiles] = MappingProxyType(
    {
        "refclef": ReferringFiles("refs(unc).p", "refer_seg/images/saiapr_tc-12"),
        "refcoco": ReferringFiles("refs(unc).p", _COCO),
        "refcoco+": ReferringFiles("refs(unc).p", _COCO),
        "refcocog": ReferringFiles("refs(umd).p", _COCO),
        "grefcoco": ReferringFiles("grefs(unc).json", _COCO),
    }
)


@dataclass(frozen=True)
class _Ref:
    number: int
    image_id: int
    targets: tuple[int, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class _Instances:
    images: Mapping[int, dict[str, Any]]
    annotations: Mapping[int, dict[str, Any]]
    names: Mapping[object, str]


def read_referring(
    folder: Path, data_root: Path, split: str, rejected: Rejections, files: ReferringFiles, share: Share = WHOLE
) -> Iterator[Record]:
    """Read one split of one data set, images in the order of their first ref.

    Args:
        folder: `refer_seg/<name>`. data_root: image paths are stored relative to it.
        split: as stored in the refs. "test" includes testA, testB, ...; "testA" includes refs of "testAB".
        rejected: collects skipped items.
        files: an entry of `REFERRING_FILES`. share: which shard of the images to read.

    Raises:
        DataError: refs or instances are missing or malformed, or there is no ref of this split.
    """
    images = data_root / files.images
    if not images.is_dir():
        raise DataError(f"no such folder of images: {images}", hint=_HINT)
    refs = _refs_of_split(_load_refs(folder, files), split, share.once(rejected))
    if not refs:
        raise DataError(f"no usable ref of split `{split}` in: {folder / files.refs}", hint=_HINT)
    instances = _load_instances(folder / "instances.json", refs, share.once(rejected))
    for image_id, of_image in share.of(list(refs.items())):
        try:
            if image_id in files.exclude:
                raise DataError("image is held out for evaluation")
            path, size_hw = _find_image(instances.images.get(image_id), images)
        except DataError as error:
            rejected.add(f"image {image_id}", error.message)
            continue
        regions = tuple(_regions(of_image, size_hw, instances, rejected))
        if regions:
            yield Record(image=path.relative_to(data_root).as_posix(), size_hw=size_hw, regions=regions)
        else:
            rejected.add(f"image {image_id}", "image without a region")


def held_out_images(folder: Path, files: ReferringFiles) -> frozenset[int]:
    """Ids of all images with a ref in a split other than "train".

    Raises:
        DataError: the refs cannot be read.
    """
    refs = [ref for ref in _load_refs(folder, files) if isinstance(ref, dict) and ref.get("split") != "train"]
    return frozenset(ref["image_id"] for ref in refs if _is_id(ref.get("image_id")))


def _load_refs(folder: Path, files: ReferringFiles) -> list[Any]:
    path = folder / files.refs
    other = path.with_suffix(".p" if path.suffix == ".json" else ".json")
    path = other if other.is_file() and not path.is_file() else path
    refs = load_json(path) if path.suffix == ".json" else load_plain_pickle(path)
    if isinstance(refs, list):
        return refs
    raise DataError(f"not a list of refs: {path}", hint=_HINT)


def _refs_of_split(entries: list[Any], split: str, rejected: Rejections) -> dict[int, list[_Ref]]:
    by_image: dict[int, list[_Ref]] = {}
    for index, entry in enumerate(entries):
        try:
            if _is_in_split(entry["split"], split) and (ref := _parse_ref(entry, rejected)).texts:
                by_image.setdefault(ref.image_id, []).append(ref)
        except (AttributeError, KeyError, TypeError, ValueError):
            rejected.add(f"refs[{index}]", "malformed ref")
    return by_image


def _is_in_split(stored: str, wanted: str) -> bool:
    """REFER's rule: a ref of "testAB" is in testA, in testB and in test."""
    both_test = stored.startswith("test") and wanted.startswith("test")
    return set(wanted[4:]) <= set(stored[4:]) if both_test else stored == wanted


def _parse_ref(entry: dict[str, Any], rejected: Rejections) -> _Ref:
    number, image_id, given = entry["ref_id"], entry["image_id"], entry["ann_id"]
    targets = set(given if isinstance(given, list | tuple) else [given])
    if not all(_is_id(value) for value in (number, image_id, *targets)) or (NO_TARGET in targets and len(targets) > 1):
        raise ValueError("ids that are not integers, or both a target and no target")
    texts = [" ".join(sentence["sent"].split()) for sentence in entry["sentences"]]
    "".join(texts).encode()  # raises ValueError for unpaired surrogates
    if not texts:
        rejected.add(f"ref {number}", "ref without a sentence")
    rejected.items += [(f"ref {number}", "empty sentence")] * texts.count("")
    return _Ref(number, image_id, tuple(sorted(targets - {NO_TARGET})), tuple(filter(None, texts)))


def _is_id(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_name(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and value.isprintable()  # False for unpaired surrogates


def _load_instances(path: Path, refs: Mapping[int, list[_Ref]], rejected: Rejections) -> _Instances:
    """Read images, annotations and categories used by the refs; missing ones are rejected later with the ref.

    Raises:
        DataError: the file is missing or malformed.
    """
    targets = {target for of_image in refs.values() for ref in of_image for target in ref.targets}
    tree = load_json(path)
    try:
        images = _by_id(tree["images"], refs.keys(), "image", rejected)
        annotations = _by_id(tree["annotations"], targets, "annotation", rejected)
        names = {
            entry["id"]: entry["name"]
            for entry in tree["categories"]
            if isinstance(entry, dict) and _is_id(entry.get("id")) and _is_name(entry.get("name"))
        }
    except (KeyError, TypeError) as error:
        raise DataError(f"not a COCO-style annotation file: {path} ({error})", hint=_HINT) from error
    return _Instances(images, annotations, names)


def _by_id(entries: list[Any], wanted: Set[int], kind: str, rejected: Rejections) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for entry in entries:
        number = entry.get("id") if isinstance(entry, dict) else None
        if _is_id(number) and number in wanted and found.setdefault(number, entry) is not entry:
            rejected.add(f"{kind} {number}", "duplicate id")
    return found


def _find_image(entry: dict[str, Any] | None, images: Path) -> tuple[Path, tuple[int, int]]:
    if entry is None:
        raise DataError("unknown image id")
    name = entry.get("file_name")
    if not _is_name(name) or Path(name).is_absolute() or ".." in Path(name).parts:
        raise DataError("not a file name of an image")
    size_hw = read_size(images / name)
    if (entry.get("height"), entry.get("width")) != size_hw:
        raise DataError("image of another size than annotated")
    return images / name, size_hw


def _regions(refs: list[_Ref], size_hw: tuple[int, int], known: _Instances, rejected: Rejections) -> Iterator[Region]:
    by_targets: dict[tuple[int, ...], list[_Ref]] = {}
    for ref in refs:
        by_targets.setdefault(ref.targets, []).append(ref)
    for targets, group in by_targets.items():
        annotations = [known.annotations.get(target, {}) for target in targets]
        try:
            mask = _mask(annotations, group[0].image_id, size_hw)
        except DataError as error:
            rejected.items += [(f"ref {ref.number}", error.message) for ref in group]
            continue
        categories = [entry.get("category_id") for entry in annotations]
        names = {known.names.get(number, "") if _is_id(number) else "" for number in categories}
        queries = dict.fromkeys(Query(text, is_sentence=False) for ref in group for text in ref.texts)
        numbers, targeted = (",".join(map(str, ids)) for ids in ([ref.number for ref in group], targets))
        source = f"refs {numbers}; annotations {targeted or 'none'}"
        yield Region(names.pop() if len(names) == 1 else "", "object", mask, None, tuple(queries), source)


def _mask(annotations: list[dict[str, Any]], image_id: int, size_hw: tuple[int, int]) -> Rle:
    if not annotations:
        return encode_rle(np.zeros(size_hw, dtype=bool))
    if not all(annotations):
        raise DataError("unknown annotation id")
    if any(entry.get("image_id") != image_id for entry in annotations):
        raise DataError("annotation of another image")
    chosen = [entry for entry in annotations if len(annotations) == 1 or not entry.get("iscrowd")] or annotations
    mask = merge_rles([_part_mask(part, size_hw) for entry in chosen for part in _parts(entry.get("segmentation"))])
    if rle_area(mask) == 0:
        raise DataError("empty mask")
    return mask


def _parts(segmentation: Any) -> list[Any]:
    """Split a segmentation into parts for `segmentation_rle`: refCLEF has lists of RLEs; others are a single part."""
    has_rles = isinstance(segmentation, list) and any(isinstance(part, dict) for part in segmentation)
    return segmentation if has_rles else [segmentation]


def _part_mask(part: Any, size_hw: tuple[int, int]) -> Rle:
    if not part:
        raise DataError("empty mask")
    if isinstance(part, dict) and part.get("size") != list(size_hw):
        raise DataError("mask of another size than its image")
    try:
        return segmentation_rle(part, size_hw)
    except DataError as error:
        raise DataError(error.message.partition(" (")[0]) from error  # no values, so that equal reasons can be counted
