"""Outputs of other systems as rows of `docs/format.md`, for `cores eval score --layout`.

    lisa      the folder of LISA's chat.py: <image>_mask_<i>.jpg, 0 outside and 100 inside, one for each object. The
              name of the image ends at its first dot, and there is no question: one question an image.
    sa2va     results.json of Sa2VA's r2s_eval.py: [{"image_path", "prediction_masks": [masks of text i, or null]}],
              a mask being nested lists or a COCO RLE. Text i is question i of the image.

LISA's evaluation (train_ds.py) and Sa2VA's refcoco_eval.py write no masks. VisionReasoner's evaluation_segmentation.py
writes pixel counts alone, so its files have scores but no masks: see `score_counts`.

Sources: chat.py of dvlab-research/LISA; projects/sa2va/evaluation/r2s_eval.py of bytedance/Sa2VA;
evaluation/evaluation_segmentation.py and calculate_iou_with_bbox.py of JIA-Lab-research/VisionReasoner.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

from cores_core.errors import DataError
from cores_core.evaluate.targets import Target
from cores_core.images import DECODE_ERRORS
from cores_core.masks import Rle, encode_rle, merge_rles, segmentation_rle

Row = dict[str, Any]
_LISA_MASK = re.compile(r"(.+)_mask_\d+\.jpg")
_LISA_MIDDLE = 50
"""Half of the value inside; JPEG changes it a little."""


@dataclass(frozen=True)
class CountScores:
    """gIoU and cIoU of a file of pixel counts, 0-1.

    Attributes:
        count: number of queries. empty: those without a pixel in either mask.
        giou_empty_0: with IoU 0 for these, as in VisionReasoner. giou: with IoU 1, as here.
    """

    count: int
    empty: int
    giou_empty_0: float
    giou: float
    ciou: float


def convert_lisa(path: Path, targets: Sequence[Target]) -> Iterator[Row]:
    """Rows of the folder of LISA's chat.py; objects of an image are its instances.

    Raises:
        DataError: there is no mask, or an image has several questions.
    """
    masks: dict[str, list[Path]] = {}
    for file in sorted(path.iterdir()) if path.is_dir() else []:
        if found := _LISA_MASK.fullmatch(file.name):
            masks.setdefault(found[1], []).append(file)
    if not masks:
        raise DataError(f"no mask of LISA (<image>_mask_<i>.jpg) in: {path}", hint="give the folder of its chat.py")
    by_stem = _group(targets, lambda image: PurePosixPath(image).name.split(".")[0])
    for stem, files in masks.items():
        asked = by_stem.get(stem, [])
        if len(asked) > 1:
            message = f"{len(asked)} questions about {stem}, and LISA's files do not name the question"
            raise DataError(message, hint="choose a benchmark with one question an image, such as reasonseg")
        for target in asked:
            yield {"id": target.id, "instances": [{"mask": _read_lisa(file)} for file in files]}


def convert_sa2va(path: Path, targets: Sequence[Target]) -> Iterator[Row]:
    """Rows of results.json of Sa2VA's r2s_eval.py; masks of a text are its instances.

    Raises:
        DataError: it has another layout, or an image has another number of texts than questions.
    """
    by_name = _group(targets, lambda image: PurePosixPath(image).name)
    for index, entry in enumerate(_load_list(path)):
        try:
            name, groups = PurePosixPath(entry["image_path"]).name, list(entry["prediction_masks"])
        except (KeyError, TypeError) as error:
            message = f"{path}[{index}] has no `image_path` or `prediction_masks`"
            raise DataError(message, hint="give results.json of r2s_eval.py") from error
        asked = by_name.get(name, [])
        if asked and len(asked) != len(groups):
            raise DataError(f"{path}[{index}] has {len(groups)} texts, {name} {len(asked)} questions")
        for target, masks in zip(asked, groups if asked else [], strict=True):
            yield {"id": target.id, "instances": [{"mask": _read_sa2va(mask, target)} for mask in masks or []]}


LAYOUTS: Mapping[str, Callable[[Path, Sequence[Target]], Iterator[Row]]] = MappingProxyType(
    {"lisa": convert_lisa, "sa2va": convert_sa2va}
)
"""Converters by name."""


def score_counts(folder: Path) -> CountScores:
    """Scores of VisionReasoner's `output_*.json`: lists of {"intersection", "union", ...}.

    Raises:
        DataError: there is none, or one is malformed.
    """
    files = sorted(folder.glob("output_*.json"))
    try:
        rows = [(int(row["intersection"]), int(row["union"])) for file in files for row in _load_list(file)]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"no `intersection` or `union` in a file of: {folder}") from error
    if not rows:
        raise DataError(f"no output_*.json of VisionReasoner in: {folder}", hint="give its --output_path")
    over, under = np.array(rows, dtype=np.float64).T
    empty = under == 0
    ious = np.divide(over, under, out=np.zeros_like(over), where=~empty)
    total = float(over.sum() / under.sum()) if under.any() else 1.0
    return CountScores(len(rows), int(empty.sum()), float(ious.mean()), float((ious + empty).mean()), total)


def _group(targets: Sequence[Target], key: Callable[[str], str]) -> dict[str, list[Target]]:
    found: dict[str, list[Target]] = {}
    for target in targets:
        found.setdefault(key(target.image), []).append(target)
    return found


def _load_list(path: Path) -> list[Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read: {path} ({error})") from error
    if not isinstance(tree, list):
        raise DataError(f"not a list: {path}")
    return tree


def _read_lisa(path: Path) -> Rle:
    try:
        with Image.open(path) as image:
            return encode_rle(np.asarray(image.convert("L")) > _LISA_MIDDLE)
    except DECODE_ERRORS as error:
        raise DataError(f"cannot read: {path} ({error})") from error


def _read_sa2va(mask: Any, target: Target) -> Rle:
    """A mask of nested lists (H, W) or (N, H, W), or an RLE or a list of them."""
    height, width = target.target["size"]
    if isinstance(mask, dict):
        return segmentation_rle(mask, (height, width))
    if isinstance(mask, list) and mask and all(isinstance(part, dict) for part in mask):
        return merge_rles([segmentation_rle(part, (height, width)) for part in mask])
    try:
        pixels = np.asarray(mask, dtype=bool)
    except ValueError as error:
        raise DataError("a mask of Sa2VA is neither nested lists nor an RLE") from error
    if pixels.shape[-2:] != (height, width):
        raise DataError(f"a mask of Sa2VA is of size {pixels.shape}, its image {(height, width)}")
    return encode_rle(np.asarray(pixels.reshape(-1, height, width).any(axis=0)))
