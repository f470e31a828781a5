"""MUSE and MMR: questions whose answer is several objects or parts, in one JSON list per split.

    muse_<split>.json         {"file_name" or "coco_url", "questions": [...], "answers": [[{"segmentation"}, ...], ...]}
    MMR/MMR_<split>.json      the same keys; `file_name` begins with the folder, train2017 or val2017

Images are COCO's, in `coco/<folder>/` or `refer_seg/images/mscoco/images/<folder>/`; a `file_name` without a folder is
of train2014. Answer i belongs to question i. Its targets are polygons or RLEs; their union is the mask of the question,
and each is kept as an instance.

Sources: PixelLM (arXiv:2312.02228, utils/multi_reason_seg_val_dataset.py), MMR (arXiv:2503.13881, its read-me and
utils/multi_part_reason_seg_dataset.py).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cores_core.data.sources.reading import WHOLE, Rejections, Share, load_json, read_size
from cores_core.data.store import Record, Region
from cores_core.errors import DataError
from cores_core.formats.labelled import check_text
from cores_core.masks import Rle, merge_rles, rle_area, segmentation_rle
from cores_core.sample import Query

IMAGE_FOLDERS = ("coco", "refer_seg/images/mscoco/images")
_DEFAULT_FOLDER = "train2014"


def read_multi_target(path: Path, data_root: Path, rejected: Rejections, share: Share = WHOLE) -> Iterator[Record]:
    """Read one split, a record per image in order of first occurrence, with a region per question.

    Args:
        path: its JSON file. data_root: image paths are stored relative to it.
        rejected: collects skipped entries and questions. share: which shard of the images to read.

    Raises:
        DataError: the file is missing or not a list.
    """
    entries = load_json(path)
    if not isinstance(entries, list):
        raise DataError(f"not a list of images with questions: {path}", hint="see `cores prepare-data --list`")
    groups: dict[str, list[tuple[str, Any]]] = {}
    for index, entry in enumerate(entries):
        source = f"{path.name}[{index}]"
        try:
            groups.setdefault(_find_image(entry, data_root), []).append((source, entry))
        except DataError as error:
            share.once(rejected).add(source, error.message)
    for name, group in share.of(list(groups.items())):
        try:
            size_hw = read_size(data_root / name)
        except DataError as error:
            rejected.items += [(source, error.message) for source, _ in group]
            continue
        regions = tuple(region for source, entry in group for region in _read_regions(entry, source, size_hw, rejected))
        if regions:
            yield Record(image=name, size_hw=size_hw, regions=regions)


def _find_image(entry: Any, data_root: Path) -> str:
    given = entry.get("file_name") or entry.get("coco_url") if isinstance(entry, dict) else None
    if not isinstance(given, str):
        raise DataError("it has neither `file_name` nor `coco_url`")
    *folders, file = given.split("/")
    folder = folders[-1] if folders else _DEFAULT_FOLDER
    names = [f"{place}/{folder}/{file}" for place in IMAGE_FOLDERS]
    return next((name for name in names if (data_root / name).is_file()), names[0])


def _read_regions(
    entry: dict[str, Any], source: str, size_hw: tuple[int, int], rejected: Rejections
) -> Iterator[Region]:
    questions, answers = entry.get("questions"), entry.get("answers")
    if not isinstance(questions, list) or not isinstance(answers, list) or len(questions) != len(answers):
        rejected.add(source, "`questions` and `answers` are not lists of the same length")
        return
    for index, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        try:
            instances = _read_targets(answer, size_hw)
            query = Query(check_text(question))
        except DataError as error:
            rejected.add(f"{source}.questions[{index}]", error.message)
            continue
        yield Region("", "object", merge_rles(list(instances)), None, (query,), f"{source}.{index}", instances)


def _read_targets(answer: Any, size_hw: tuple[int, int]) -> tuple[Rle, ...]:
    if not isinstance(answer, list) or not answer:
        raise DataError("it has no target")
    if not all(isinstance(target, dict) and "segmentation" in target for target in answer):
        raise DataError("a target has no `segmentation`")
    found = tuple(segmentation_rle(target["segmentation"], size_hw) for target in answer)
    if not all(map(rle_area, found)):
        raise DataError("a target without a pixel")
    return found
