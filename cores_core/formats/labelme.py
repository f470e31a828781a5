"""LabelMe JSON: one file for each image, its shapes named by their label.

- polygon: a shape for each component, of one `group_id` where a mask has several. Points are pixels, as LabelMe's own
  `shape_to_mask` and `data/sources/labelme.py` fill them: at tolerance 0 both give the mask to the pixel, holes too,
  which are cut out by bridges.
- mask: a shape for each mask, its pixels as PNG; exact, holes too. LabelMe 5.3 and newer read it.

An empty mask has no shape. The score stands in the shape, under `score`, which LabelMe keeps.

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
"""The version of LabelMe whose files have this form."""


def save_labelme(
    image: LabelledImage, path: Path, form: Form = "polygon", tolerance: float = DRAWING_TOLERANCE
) -> None:
    """Write the file of one image, whose path in it should be relative to the file's folder.

    Args:
        form: how masks are written. tolerance: of polygons, in pixels; see `trace_centres`.
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
