"""GSEval, the benchmark of GroundingSuite: descriptions of stuff, parts, several and single objects.

    GSEval/GroundingSuite-Eval.jsonl    {"idx", "image_path", "class_id", "label", "caption", "box", "segmentation"}
    coco/unlabeled2017/                 the images, COCO's

The caption is asked, as in its evaluation code. Ids 1 to 4 are the classes that its paper reports apart; which is which
follows from the labels in the file.

Source: GroundingSuite (arXiv:2503.10596, ICCV 2025), https://huggingface.co/datasets/hustvl/GSEval.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cores_core.data.sources.reading import WHOLE, Rejections, Share, read_size
from cores_core.data.store import Record, Region
from cores_core.errors import DataError
from cores_core.formats.labelled import check_text
from cores_core.masks import Rle, merge_rles, rle_area, segmentation_rle
from cores_core.sample import Query

CLASSES: Mapping[int, str] = MappingProxyType({1: "stuff", 2: "part", 3: "multi", 4: "single"})
_IMAGES = "coco"


def read_gseval(path: Path, data_root: Path, rejected: Rejections, share: Share = WHOLE) -> Iterator[Record]:
    """Read the benchmark, a record per image in order of first occurrence, with a region per description.

    Args:
        path: its JSONL file. data_root: image paths are stored relative to it.
        rejected: collects skipped lines. share: which shard of the images to read.

    Raises:
        DataError: the file is missing or not UTF-8.
    """
    groups: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for number, line in enumerate(_lines(path), start=1):
        source = f"{path.name}:{number}"
        try:
            entry = json.loads(line)
            groups.setdefault(f"{_IMAGES}/{check_text(entry['image_path'])}", []).append((source, entry))
        except (DataError, ValueError, KeyError, TypeError, RecursionError) as error:
            share.once(rejected).add(source, f"malformed line ({type(error).__name__})")
    for name, group in share.of(list(groups.items())):
        regions = []
        try:
            size_hw = read_size(data_root / name)
        except DataError as error:
            rejected.items += [(source, error.message) for source, _ in group]
            continue
        for source, entry in group:
            try:
                regions.append(_read_region(entry, source, size_hw))
            except DataError as error:
                rejected.add(source, error.message)
        if regions:
            yield Record(image=name, size_hw=size_hw, regions=tuple(regions))


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read: {path} ({error})", hint="see `cores prepare-data --list`") from error


def _read_region(entry: dict[str, Any], source: str, size_hw: tuple[int, int]) -> Region:
    category = CLASSES.get(entry.get("class_id", 0))
    if category is None:
        raise DataError("its `class_id` is not 1, 2, 3 or 4")
    given = entry.get("segmentation")
    parts = given if isinstance(given, list) and all(isinstance(part, dict) for part in given) and given else [given]
    mask: Rle = merge_rles([segmentation_rle(part, size_hw) for part in parts])
    if not rle_area(mask):
        raise DataError("a target without a pixel")
    kind = "part" if category == "part" else "object"
    return Region(category, kind, mask, None, (Query(check_text(entry.get("caption"))),), source)
