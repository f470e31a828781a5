"""Write LabelMe JSON: one file per image, with shapes named by label.

- polygon: a shape per component, with a common `group_id` if a mask has several. Points are pixel centres: at tolerance
  0, LabelMe's `shape_to_mask` and `data/sources/labelme.py` reproduce the mask exactly; the default tolerance has fewer
  points. A hole is joined to the outline by two edges that coincide.
- mask: a shape per mask, with its pixels as PNG; exact, including holes. For LabelMe 5.3 and newer.

An empty mask has no shape. Shapes have a `score`, which LabelMe preserves. Labels are the questions; ReasonSeg's files,
which are LabelMe's too, reserve labels with "ignore" and the label "flag".

Source: labelme 6.3, `_label_file.py` and `utils/shape.py`.
"""

import base64
import io
import json
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from cores_core.files import save_text
from cores_core.formats.labelled import SCORE_DIGITS, LabelledImage, LabelledMask
from cores_core.formats.polygons import DRAWING_TOLERANCE, trace_centres

Form = Literal["polygon", "mask"]
VERSION = "5.5.0"
"""Oldest version of LabelMe that reads all of a file; newer ones do, too."""


def save_labelme(
    image: LabelledImage, path: Path, form: Form = "polygon", tolerance: float = DRAWING_TOLERANCE
) -> None:
    """Write the file of one image.

    Args:
        image: its `image` is a path relative to the file's folder, or LabelMe does not find it after a move; or a URL.
        path: of the JSON file; the folder must exist.
        form: encoding of masks. tolerance: of polygons, in pixels; see `trace_centres`.

    Raises:
        OSError: the file cannot be written.
    """
    height, width = image.size_hw
    shapes = []
    for number, labelled in enumerate(image.masks, start=1):
        shapes += _trace(labelled, number, tolerance) if form == "polygon" else _embed(labelled)
    tree: dict[str, Any] = {
        "version": VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": image.image,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }
    save_text(json.dumps(tree, ensure_ascii=False, indent=2) + "\n", path)


def _trace(labelled: LabelledMask, number: int, tolerance: float) -> list[dict[str, Any]]:
    polygons = trace_centres(labelled.mask, tolerance)
    group = number if len(polygons) > 1 else None
    return [_shape(labelled, polygon.tolist(), shape_type="polygon", group_id=group) for polygon in polygons]


def _embed(labelled: LabelledMask) -> list[dict[str, Any]]:
    left, top, width, height = labelled.box
    if not width:
        return []
    buffer = io.BytesIO()
    Image.fromarray(labelled.mask[top : top + height, left : left + width]).save(buffer, format="PNG")
    corners = [[left, top], [left + width - 1, top + height - 1]]
    pixels = base64.b64encode(buffer.getvalue()).decode("ascii")
    return [_shape(labelled, corners, shape_type="mask", mask=pixels)]


def _shape(labelled: LabelledMask, points: list[list[int]], **particulars: Any) -> dict[str, Any]:
    about: dict[str, Any] = {
        "label": labelled.name,
        "points": points,
        "group_id": None,
        "description": "",
        "flags": {},
        "mask": None,
    }
    return about | particulars | {"score": round(labelled.score, SCORE_DIGITS)}
