"""Part data sets in PartImageNet's form: COCO-style JSON, one annotation for each part of each object.

Raw layout: `<split>.json`, `<split>/<synset>/<name>.JPEG`, and for whole objects `<split>_whole.json`. All instances of
a category in one image are one region, because a question names the category.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from cores_core.data.questions.bank import CategoryQuestions, load_bank
from cores_core.data.sources.reading import Rejections, load_json
from cores_core.data.store import Record, Region
from cores_core.errors import DataError
from cores_core.masks import merge_rles, rle_area

SMALLEST_SHARE = 0.004
"""A region with a smaller share of its image is not asked about."""
QUERIES = {"train": (6, 2), "val": (1, 1), "test": (1, 1)}
"""How many questions and phrases a region gets in each split."""


def read_parts(folder: Path, data_root: Path, split: str, rejected: Rejections) -> Iterator[Record]:
    """Read one split of a part data set.

    Args:
        folder: the raw data set. data_root: image paths are stored relative to it.
        split: which JSON to read; also which wordings are drawn.
        rejected: takes what is left out.

    Raises:
        DataError: a JSON is missing or not of this form.
    """
    bank = load_bank()
    parts, whole = _load_annotations(folder / f"{split}.json"), _load_annotations(folder / f"{split}_whole.json")
    for image in parts.images:
        path = (folder / split / image["file_name"]).relative_to(data_root)
        rng = np.random.default_rng((image["id"], crc32(split.encode())))
        size_hw = (image["height"], image["width"])
        regions = []
        for kind, table in (("part", parts), ("object", whole)):
            for label, annotations in table.by_image[image["id"]].items():
                mask = merge_rles([annotation["segmentation"] for annotation in annotations])
                if rle_area(mask) < SMALLEST_SHARE * size_hw[0] * size_hw[1]:
                    rejected.add(f"{path.as_posix()} {label}", f"{kind} smaller than {SMALLEST_SHARE:.1%} of its image")
                    continue
                source = ",".join(str(annotation["id"]) for annotation in annotations)
                queries = _draw_queries(bank, label, split, rng)
                regions.append(Region(label, kind, mask, None, tuple(queries), source))
        if regions:
            yield Record(image=path.as_posix(), size_hw=size_hw, regions=tuple(regions))
        else:
            rejected.add(path.as_posix(), "image without a region")


@dataclass(frozen=True)
class _Annotations:
    images: list[dict[str, Any]]
    by_image: dict[int, dict[str, list[dict[str, Any]]]]


def _load_annotations(path: Path) -> _Annotations:
    tree = load_json(path)
    try:
        names = {category["id"]: category["name"] for category in tree["categories"]}
        by_image: dict[int, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
        for annotation in tree["annotations"]:
            by_image[annotation["image_id"]][names[annotation["category_id"]]].append(annotation)
        return _Annotations(images=tree["images"], by_image=by_image)
    except (KeyError, TypeError) as error:
        raise DataError(f"not a COCO-style annotation file: {path} ({error})") from error


def _draw_queries(bank: Any, label: str, split: str, rng: np.random.Generator) -> list[Any]:
    category, _, part = label.lower().partition(" ")
    entry: CategoryQuestions = bank[category]
    return entry.draw(entry.parts[part] if part else entry.whole, split, QUERIES[split], rng)
