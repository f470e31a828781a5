"""Label Studio: write tasks with predictions for import (exact brush masks); read its export of the format "JSON".

Writing: a task per image with one prediction, which has a brush region with a score per nonempty mask. The labelling
interface, with a label per name, is written next to the tasks as XML.

Reading: brush, polygon, rectangle and ellipse regions. All regions of a label in an image form one target, with the
label as its text: a question if it ends like a sentence, otherwise a phrase. A region with its own text (TextArea with
perRegion) is a separate target with that text. If a task has several annotations, the one marked as ground truth is
read, otherwise the first. Predictions are ignored, because they were not reviewed.

Source: https://labelstud.io/guide/task_format and guide/export, and label-studio-converter.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from cores_core.errors import DataError
from cores_core.files import replacing_all, write_text
from cores_core.formats.brush_rle import decode_brush, encode_brush
from cores_core.formats.labelled import (
    SCORE_DIGITS,
    Annotation,
    LabelledImage,
    LabelledMask,
    Reject,
    check_text,
    read_label,
)
from cores_core.images import IMAGE_SUFFIXES, has_url_form
from cores_core.mask_images import RowMask
from cores_core.masks import Rle, encode_rle, merge_rles, rle_area, segmentation_rle
from cores_core.sample import BoolMask

LOCAL_FILES = "/data/local-files/?d="
"""URL prefix of local images; paths are relative to LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT of the server."""
IMAGE_TAG, BRUSH_TAG, MODEL_VERSION = "image", "tag", "cores"
_UPLOADS = "/data/upload/"
_UPLOAD_MARK = 9
"""Length of the prefix that Label Studio adds to names of uploaded files: 8 hexadecimal digits and a hyphen."""
_BARE_KINDS = ("brush", "polygon", "rectangle", "ellipse")
"""Types of results that have a geometry but no label."""


@dataclass(frozen=True)
class Tags:
    """The names of the tags of a labelling interface between which a brush region belongs."""

    brush: str = BRUSH_TAG
    image: str = IMAGE_TAG


def save_label_studio(images: Iterable[LabelledImage], path: Path, prefix: str = LOCAL_FILES) -> Path:
    """Write the tasks of all images, and the labelling interface next to them.

    Args:
        path: JSON file of the tasks. prefix: turns an image's path into a URL of the server.

    Returns:
        The path of the interface, `<path without suffix>.xml`.
    """
    tasks: list[dict[str, Any]] = []
    names: dict[str, None] = {}
    for image in images:
        tasks.append(_make_task(image, prefix))
        names |= dict.fromkeys(labelled.name for labelled in image.masks)
    interface = path.with_suffix(".xml")
    with replacing_all([path, interface]) as (tasks_path, interface_path):
        write_text(json.dumps(tasks, ensure_ascii=False) + "\n", tasks_path)
        write_text(render_interface(list(names)), interface_path)
    return interface


def render_interface(names: Sequence[str]) -> str:
    """The labelling interface (XML) for brush regions with these labels."""
    labels = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in names)
    return (
        f'<View>\n  <Image name="{IMAGE_TAG}" value="$image" zoom="true"/>\n'
        f'  <BrushLabels name="{BRUSH_TAG}" toName="{IMAGE_TAG}">\n{labels}  </BrushLabels>\n</View>\n'
    )


def render_prediction(
    masks: Sequence[LabelledMask], version: str = MODEL_VERSION, tags: Tags | None = None
) -> dict[str, Any]:
    """A prediction of a task: a brush region for each mask that is not empty, and their mean score.

    Args:
        version: of the model. tags: of the labelling interface; None for those of `render_interface`.
    """
    shown = [labelled for labelled in masks if labelled.mask.any()]
    scores = [labelled.score for labelled in shown]
    tags = tags or Tags()
    return {
        "model_version": version,
        "score": round(sum(scores) / len(scores), SCORE_DIGITS) if scores else 0.0,
        "result": [_make_result(labelled, number, tags) for number, labelled in enumerate(shown, start=1)],
    }


def is_label_studio(tree: Any) -> bool:
    """Whether a parsed JSON file is a list, as exports of Label Studio are."""
    return isinstance(tree, list)


def read_label_studio(tree: Any, name: str, reject: Reject) -> Iterator[Annotation]:
    """Yield the targets of an export, tasks in the order of the file.

    Args:
        tree: the parsed file. name: of the file, for errors. reject: called for tasks and regions that cannot be used.

    Raises:
        DataError: the file as a whole is not an export of Label Studio.
    """
    if not isinstance(tree, list) or not tree:
        raise DataError(f"not an export of Label Studio: {name} (no list of tasks)")
    if not any(isinstance(task, dict) and "data" in task for task in tree):
        hint = "export it from Label Studio as JSON, not as JSON-MIN"
        raise DataError(f"not an export of Label Studio: {name} (no task has `data`)", hint=hint)
    for index, task in enumerate(tree):
        try:
            image, *other_names = _find_names(task)
            regions = _read_regions(_choose_results(task))
        except DataError as error:
            reject("tasks", index, error.message)
            continue
        for group in _group(regions, partial(reject, "tasks", index)):
            yield Annotation(
                source=f"tasks[{index}] {group.name}",
                index=index,
                image=image,
                size_hw=None,
                questions=group.questions,
                phrases=group.phrases,
                category=group.category,
                read_mask=partial(_read_mask, group.shapes),
                other_names=tuple(other_names),
            )


@dataclass
class _Region:
    """A region, collected from all results with its id.

    Attributes:
        labels, texts: of the region. shape: the result with its geometry, or None.
    """

    labels: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    shape: dict[str, Any] | None = None


@dataclass(frozen=True)
class _Group:
    """Regions that form one target."""

    name: str
    questions: tuple[str, ...]
    phrases: tuple[str, ...]
    category: str
    shapes: tuple[dict[str, Any], ...]


def _make_task(image: LabelledImage, prefix: str) -> dict[str, Any]:
    path = image.image
    url = path if has_url_form(path) else prefix + quote(os.fsencode(path.lstrip("/")))
    return {"data": {"image": url}, "predictions": [render_prediction(image.masks)]}


def _make_result(labelled: LabelledMask, number: int, tags: Tags) -> dict[str, Any]:
    height, width = labelled.mask.shape
    return {
        "id": f"answer{number}",
        "type": "brushlabels",
        "from_name": tags.brush,
        "to_name": tags.image,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": round(labelled.score, SCORE_DIGITS),
        "value": {"format": "rle", "rle": encode_brush(labelled.mask), "brushlabels": [labelled.name]},
    }


def _find_names(task: Any) -> list[str]:
    """Candidate paths of a task's image, the most likely one first.

    Raises:
        DataError: the task has none.
    """
    data = task.get("data") if isinstance(task, dict) else None
    given = data.get("image") if isinstance(data, dict) else None
    if given is None and isinstance(data, dict):
        given = next((value for value in data.values() if _is_image_path(value)), None)
    if not isinstance(given, str) or not given.strip():
        raise DataError("task without an image")
    try:
        url = urlsplit(given)
        local = parse_qs(url.query).get("d", [""])[0]
    except ValueError as error:
        raise DataError("task with an invalid image path") from error
    if url.path.endswith("/local-files/") and local:
        return [local, PurePosixPath(local).name]
    if url.scheme in ("", "file") or len(url.scheme) == 1:
        names = [given, PurePosixPath(given).name]
    else:
        names = [unquote(PurePosixPath(url.path).name)]
    if _UPLOADS in url.path:
        names = [names[-1], names[-1][_UPLOAD_MARK:]]
    return [name for name in names if name] or [given]


def _is_image_path(value: Any) -> bool:
    return isinstance(value, str) and value.lower().endswith(IMAGE_SUFFIXES)


def _choose_results(task: dict[str, Any]) -> list[Any]:
    """The results of the ground truth annotation, or of the first one that is neither cancelled nor empty.

    Raises:
        DataError: there is none.
    """
    given = task.get("annotations")
    annotations = [entry for entry in given if isinstance(entry, dict)] if isinstance(given, list) else []
    done = [entry for entry in annotations if not entry.get("was_cancelled") and entry.get("result")]
    if not done:
        raise DataError("task without an annotation" if not task.get("predictions") else "task with predictions only")
    results = next((entry for entry in done if entry.get("ground_truth")), done[0])["result"]
    if not isinstance(results, list):
        raise DataError("annotation without a list of results")
    return results


def _read_regions(results: Sequence[Any]) -> list[_Region]:
    """The regions of an annotation; several results with the same id describe one region."""
    regions: dict[Any, _Region] = {}
    for index, result in enumerate(results):
        if isinstance(result, dict) and result.get("type") == "relation":
            continue
        if not isinstance(result, dict) or not isinstance(result.get("value"), dict):
            raise DataError("a result without a value")
        key, value = result.get("id"), result["value"]
        region = regions.setdefault(key if isinstance(key, str) else index, _Region())
        kind = str(result.get("type"))
        if kind.endswith("labels"):
            region.labels += [label for label in _texts(value.get(kind) or []) if label not in region.labels]
        if kind == "textarea":
            region.texts += _texts(value.get("text"))
        elif kind.endswith("labels") or kind in _BARE_KINDS:
            region.shape = region.shape or result
    return [region for region in regions.values() if region.shape is not None]


def _texts(given: Any) -> list[str]:
    """Normalise one text or a list of texts to a list.

    Raises:
        DataError: one is not a text.
    """
    return list(map(check_text, given if isinstance(given, list) else [given]))


def _group(regions: Sequence[_Region], reject: Callable[[str], None]) -> Iterator[_Group]:
    """Group regions into targets; `reject` is called with the reason for each region that cannot be used."""
    by_label: dict[str, list[dict[str, Any]]] = {}
    for number, region in enumerate(regions):
        assert region.shape is not None
        if region.texts:
            questions, phrases = zip(*map(read_label, region.texts), strict=True)
            category = region.labels[0] if region.labels else ""
            yield _Group(f"region {number}", sum(questions, ()), sum(phrases, ()), category, (region.shape,))
        elif region.labels:
            for label in region.labels:
                by_label.setdefault(label, []).append(region.shape)
        else:
            reject("region without a label or text")
    for label, shapes in by_label.items():
        yield _Group(f"`{label}`", *read_label(label), label, tuple(shapes))


def _read_mask(shapes: Sequence[dict[str, Any]], size_hw: tuple[int, int]) -> RowMask:
    mask = merge_rles([_draw(shape, size_hw) for shape in shapes])
    if not rle_area(mask):
        raise DataError("empty mask")
    return RowMask(mask)


def _draw(result: dict[str, Any], size_hw: tuple[int, int]) -> Rle:
    """Rasterise one region.

    Raises:
        DataError: it was drawn on another image size, on a rotated image, or has another or an invalid geometry.
    """
    for key, side in zip(("original_height", "original_width"), size_hw, strict=True):
        if result.get(key) not in (None, side):
            raise DataError("drawn on an image of another size (original_width, original_height)")
    if result.get("image_rotation"):
        raise DataError("drawn on an image that was rotated in Label Studio")
    value = result["value"]
    if "rle" in value:
        return encode_rle(decode_brush(value["rle"], size_hw))
    scale = np.array(size_hw[::-1]) / 100  # coordinates are percentages
    if "points" in value:
        corners = _numbers(value["points"], columns=2) * scale
    elif "radiusX" in value:
        return encode_rle(_draw_ellipse(value, scale, size_hw))
    elif "height" in value:
        x, y, width, height = _numbers([value.get(key) for key in ("x", "y", "width", "height")])
        box = np.array([[0, 0], [width, 0], [width, height], [0, height]]) * scale
        corners = box @ _rotation(value).T + np.array([x, y]) * scale
    else:
        raise DataError(
            f"a region of type {str(result.get('type'))[:20]}, which is not brush, polygon, rectangle, ellipse"
        )
    return segmentation_rle([corners.ravel().tolist()], size_hw)


def _draw_ellipse(value: dict[str, Any], scale: NDArray[np.float64], size_hw: tuple[int, int]) -> BoolMask:
    """(H, W) mask of the pixels with centres in an ellipse around (x, y), radii in percent of width and height."""
    centre, radii = (
        _numbers([value.get(key) for key in keys]) * scale for keys in (("x", "y"), ("radiusX", "radiusY"))
    )
    if not (radii > 0).all():
        raise DataError("an ellipse without an area")
    rows, columns = np.ogrid[: size_hw[0], : size_hw[1]]
    across, down = columns + 0.5 - centre[0], rows + 0.5 - centre[1]
    (cosine, minus_sine), (sine, _) = _rotation(value)
    along = (across * cosine + down * sine) / radii[0]
    aside = (across * minus_sine + down * cosine) / radii[1]
    inside: BoolMask = along**2 + aside**2 <= 1
    return inside


def _rotation(value: dict[str, Any]) -> NDArray[np.float64]:
    """Rotation matrix (2, 2) for (x, y), y downwards: clockwise by a region's `rotation` in degrees."""
    angle = math.radians(float(_numbers([value.get("rotation") or 0])[0]))
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def _numbers(given: Any, columns: int | None = None) -> NDArray[np.float64]:
    """Validate a list of numbers, (N,), or with `columns` a list of rows, (N, columns)."""
    try:
        numbers = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError("a region with missing or invalid numbers") from error
    if numbers.shape[1:] != (() if columns is None else (columns,)) or not np.isfinite(numbers).all():
        raise DataError("a region with missing or invalid numbers")
    return numbers
