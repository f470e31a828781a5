"""PartImageNet and data sets of the same format: COCO-style JSON with an annotation per part of each object.

Raw layout: `<split>.json`, `<split>/<synset>/<name>.JPEG`, and optionally `<split>_whole.json` for whole objects. File
names without a folder start with the synset. All instances of a category in an image form one region, because questions
name the category.

Source: PartImageNet (arXiv:2112.00933); the questions come from our question bank.
Deviation: all polygons of an annotation are used, not only the first as in the release of CoReS (arXiv:2404.05673).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from cores_core.data.questions.bank import CategoryQuestions, Wordings, load_bank
from cores_core.data.questions.topics import load_written
from cores_core.data.sources.reading import WHOLE, Rejections, Share, load_json, read_size
from cores_core.data.store import Record, Region
from cores_core.errors import DataError
from cores_core.formats.coco_entries import AnnotatedImage, Annotations, Labels, sort_entries
from cores_core.masks import Rle, merge_rles, rle_area, segmentation_rle
from cores_core.sample import Query

QUERIES = {"train": (6, 2), "val": (1, 1), "test": (1, 1)}
"""Number of questions and of phrases per region, by split."""


def read_parts(
    folder: Path, data_root: Path, split: str, rejected: Rejections, share: Share = WHOLE, smallest: float = 0.0
) -> Iterator[Record]:
    """Read one split of a part data set.

    Args:
        folder: the raw data set. data_root: image paths are stored relative to it.
        split: which JSON to read, and which split of the question bank to draw from.
        rejected: collects skipped items. share: which shard of the images to read.
        smallest: minimum area of a region as a fraction of the image.

    Raises:
        DataError: a JSON is missing or malformed.
    """
    images = load_images(folder / f"{split}.json", share.once(rejected))
    written = load_written(data_root, "partimagenet") if split == "train" else {}
    objects = _load_objects(folder / f"{split}_whole.json", images, share.once(rejected))
    for image in share.of(images):
        path = folder / split / _with_synset(image.file_name)
        name = path.relative_to(data_root).as_posix()
        try:
            size_hw = check_image(image, path)
        except DataError as error:
            rejected.add(name, error.message)
            continue
        rng = np.random.default_rng((image.number, crc32(split.encode())))
        regions = []
        for kind, labels in (("part", image.labels), ("object", objects.get(image.file_name, {}))):
            for label, annotations in labels.items():
                try:
                    entry, wordings = _find_wordings(label)
                    mask, source = merge_annotations(annotations, size_hw, name, rejected)
                    if rle_area(mask) < smallest * size_hw[0] * size_hw[1]:
                        raise DataError(f"{kind} smaller than {smallest:.1%} of its image")
                except DataError as error:
                    rejected.add(f"{name} {label}", error.message)
                    continue
                queries = (*entry.draw(wordings, split, QUERIES[split], rng), *map(Query, written.get(label, ())))
                regions.append(Region(label, kind, mask, None, queries, source))
        if regions:
            yield Record(image=name, size_hw=size_hw, regions=tuple(regions))
        else:
            rejected.add(name, "image without a region")


def load_images(path: Path, rejected: Rejections) -> list[AnnotatedImage]:
    """Read a COCO-style file: its images in order, each with its annotations by category.

    Only ids, names and references are validated; image files and masks are not read.

    Raises:
        DataError: the file is missing, not JSON, or as a whole not COCO-style.
    """
    return sort_entries(
        load_json(path),
        str(path),
        lambda key, index, reason: rejected.add(f"{path.name} {key}[{index}]", reason),
    )


def check_image(image: AnnotatedImage, path: Path) -> tuple[int, int]:
    """Upright (height, width) of an image file, checked against its annotations.

    Raises:
        DataError: the image is missing or damaged, or its annotations have another size.
    """
    try:
        size_hw = read_size(path)
    except DataError as error:
        missing = isinstance(error.__cause__, FileNotFoundError)
        raise DataError("image is missing" if missing else "image cannot be read") from error
    if size_hw != image.told_hw:
        raise DataError("image of another size than its annotations")
    return size_hw


def merge_annotations(
    annotations: Annotations, size_hw: tuple[int, int], name: str, rejected: Rejections
) -> tuple[Rle, str]:
    """Union of annotations of the image `name`, and their ids as text; invalid and empty masks are rejected.

    Raises:
        DataError: no valid mask is left.
    """
    masks: dict[int, Rle] = {}
    for number, segmentation in annotations:
        try:
            masks[number] = _read_mask(segmentation, size_hw)
        except DataError as error:
            rejected.add(f"{name} annotation {number}", error.message)
    if not masks:
        raise DataError("category without a mask")
    return merge_rles(list(masks.values())), ",".join(map(str, masks))


def _load_objects(path: Path, images: list[AnnotatedImage], rejected: Rejections) -> dict[str, Labels]:
    """Annotations of whole objects by image file name; empty if there is no such file."""
    if not path.exists():
        return {}
    objects = {image.file_name: image.labels for image in load_images(path, rejected)}
    known = {image.file_name for image in images}
    for file_name, labels in objects.items():
        if labels and file_name not in known:
            rejected.add(f"{path.name} {file_name}", "objects of an image without parts")
    return objects


def _with_synset(file_name: str) -> Path:
    return Path(file_name) if "/" in file_name else Path(file_name.partition("_")[0]) / file_name


def _find_wordings(label: str) -> tuple[CategoryQuestions, Wordings]:
    """Find the question bank's entry of a super-category ("Car") or of a part ("Car Side Mirror").

    Raises:
        DataError: there is none.
    """
    name = label.lower()
    for category, entry in load_bank().items():
        if name == category:
            return entry, entry.whole
        part = name.removeprefix(f"{category} ")
        if part != name and part in entry.parts:
            return entry, entry.parts[part]
    raise DataError(f"the question bank has no entry for `{label}`")


def _read_mask(segmentation: Any, size_hw: tuple[int, int]) -> Rle:
    if isinstance(segmentation, dict):
        if segmentation.get("size") != list(size_hw):
            raise DataError("mask of another size than its image")
        if not isinstance(segmentation.get("counts"), str | list):
            raise DataError("not a segmentation")
    try:
        mask = segmentation_rle(segmentation, size_hw)
    except DataError as error:
        raise DataError(error.message.partition(" (")[0]) from error  # no details, so that equal reasons can be counted
    if not rle_area(mask):
        raise DataError("empty mask")
    return mask
