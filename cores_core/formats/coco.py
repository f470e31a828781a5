"""COCO JSON: one file for all images, with a category per label and an annotation with box and score per mask.

Writing: masks as compressed RLE (exact), or as polygons along pixel edges, which pycocotools fills exactly at tolerance
0. An annotation has a polygon per component; holes are cut out by bridges. Empty masks are always RLE. Annotations have
a `score`, so that their list is also a COCO results list.

Reading: all annotations of a category in an image form one target, whose text is the category's name: a question if it
ends like a sentence, otherwise a phrase. An annotation with its own `questions` or `phrases` is a separate target.

Source: the format of COCO (arXiv:1405.0312, https://cocodataset.org/#format-data).
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from cores_core.errors import DataError
from cores_core.files import save_text
from cores_core.formats.coco_entries import Annotations, sort_entries
from cores_core.formats.labelled import (
    SCORE_DIGITS,
    Annotation,
    LabelledImage,
    LabelledMask,
    Reject,
    read_label,
    read_texts,
)
from cores_core.formats.polygons import trace_corners
from cores_core.mask_images import RowMask
from cores_core.masks import encode_rle, merge_rles, rle_area, segmentation_rle

Form = Literal["rle", "polygon"]


def save_coco(images: Iterable[LabelledImage], path: Path, form: Form = "rle", tolerance: float = 0.0) -> None:
    """Write one file for all images; repeated images are listed once.

    Args:
        form: encoding of masks. tolerance: of polygons, in pixels; see `trace_corners`.

    Raises:
        DataError: an image is given with two sizes.
    """
    numbers: dict[str, int] = {}
    categories: dict[str, int] = {}
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image in images:
        height, width = image.size_hw
        number = numbers.setdefault(image.image, len(numbers) + 1)
        entry = {"id": number, "file_name": image.image, "height": height, "width": width}
        if number > len(entries):
            entries.append(entry)
        elif entries[number - 1] != entry:
            raise DataError(f"an image in two sizes: {image.image}", hint="give each image a path of its own")
        for labelled in image.masks:
            category = categories.setdefault(labelled.name, len(categories) + 1)
            about = {"id": len(annotations) + 1, "image_id": number, "category_id": category}
            annotations.append(about | _describe(labelled, form, tolerance))
    names = [{"id": number, "name": label, "supercategory": ""} for label, number in categories.items()]
    tree = {"info": {}, "licenses": [], "images": entries, "categories": names, "annotations": annotations}
    save_text(json.dumps(tree, ensure_ascii=False) + "\n", path)


def read_coco(tree: Any, name: str, reject: Reject, allow_empty: bool = False) -> Iterator[Annotation]:
    """Yield the targets of a COCO JSON, images in the order of the file.

    Args:
        tree: the parsed file. name: of the file, for errors. reject: called for entries that cannot be used.
        allow_empty: whether masks may be empty, as a model's predictions may.

    Raises:
        DataError: the file as a whole is not COCO JSON.
    """
    images = sort_entries(tree, name, reject, anywhere=True)
    entries: dict[int, tuple[int, dict[str, Any]]] = {}
    for index, entry in enumerate(tree["annotations"]):
        if isinstance(entry, dict) and type(entry.get("id")) is int:
            entries.setdefault(entry["id"], (index, entry))
    for image in images:
        for label, annotations in image.labels.items():
            for group in _group(annotations, entries):
                index, first = entries[group[0][0]]
                try:
                    questions, phrases = read_texts(first) if _has_texts(first) else read_label(label)
                except DataError as error:
                    reject("annotations", index, error.message)
                    continue
                yield Annotation(
                    source="annotation " + ",".join(str(number) for number, _ in group),
                    index=index,
                    image=image.file_name,
                    size_hw=image.told_hw,
                    questions=questions,
                    phrases=phrases,
                    category=label,
                    read_mask=partial(_read_mask, [segmentation for _, segmentation in group], allow_empty),
                )


def _describe(labelled: LabelledMask, form: Form, tolerance: float) -> dict[str, Any]:
    polygons = trace_corners(labelled.mask, tolerance) if form == "polygon" else []
    return {
        "segmentation": [polygon.ravel().tolist() for polygon in polygons] or encode_rle(labelled.mask),
        "bbox": list(labelled.box),
        "area": int(labelled.mask.sum()),
        "iscrowd": 0,
        "score": round(labelled.score, SCORE_DIGITS),
    }


def _has_texts(entry: dict[str, Any]) -> bool:
    return "questions" in entry or "phrases" in entry


def _group(annotations: Annotations, entries: Mapping[int, tuple[int, dict[str, Any]]]) -> list[Annotations]:
    """Group a category's annotations into targets: each with its own texts separately, all others together."""
    alone = [[annotation] for annotation in annotations if _has_texts(entries[annotation[0]][1])]
    together = [annotation for annotation in annotations if not _has_texts(entries[annotation[0]][1])]
    return [*alone, together] if together else alone


def _read_mask(segmentations: Sequence[Any], allow_empty: bool, size_hw: tuple[int, int]) -> RowMask:
    mask = merge_rles([segmentation_rle(segmentation, size_hw) for segmentation in segmentations])
    if not (allow_empty or rle_area(mask)):
        raise DataError("empty mask")
    return RowMask(mask)
