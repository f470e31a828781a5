"""Write YOLO segmentation labels: a text file per image, a line per component with its class and polygon (x y x y ...).

    <folder>/labels/<image without suffix>.txt     3 0.0125 0.4562 0.0375 0.4562 ...
    <folder>/data.yaml                             class names; images are expected in <folder>/images

Coordinates are those of border pixels, (x + 1/4) / width and (y + 1/4) / height, so that both truncation (ultralytics)
and rounding (supervision) of the denormalised values give the pixel. At tolerance 0, `cv2.fillPoly` then reproduces the
mask exactly; holes are cut out by bridges. The format has no objects of several components: each component becomes an
object. An image without a mask has an empty file.

Source: https://docs.ultralytics.com/datasets/segment, and ultralytics 8.4, `data/utils.py`.
"""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
import yaml

from cores_core.errors import DataError
from cores_core.files import save_text
from cores_core.formats.labelled import LabelledImage
from cores_core.formats.polygons import DRAWING_TOLERANCE, trace_centres

_DIGITS = 7
"""Decimal digits of coordinates; exact for sides of up to a million pixels."""
_INSET = 0.25


def save_yolo(images: Iterable[LabelledImage], folder: Path, tolerance: float = DRAWING_TOLERANCE) -> list[str]:
    """Write the labels of all images, then `data.yaml`.

    Args:
        images: with paths relative to `<folder>/images`; of absolute paths only the file name is used.
        tolerance: of polygons, in pixels; see `trace_centres`.

    Returns:
        The class names, in order of first occurrence.

    Raises:
        DataError: two images have the same label file, or a path leads out of the folder.
    """
    classes: dict[str, int] = {}
    written: dict[PurePosixPath, str] = {}
    for image in images:
        path = _label_path(image.image)
        if path in written:
            names = f"{written[path]} and {image.image}"
            raise DataError(f"two images with the same label file, {path}: {names}", hint="rename one of them")
        written[path] = image.image
        lines = []
        for labelled in image.masks:
            number = classes.setdefault(labelled.name, len(classes))
            for polygon in trace_centres(labelled.mask, tolerance):
                shares = (polygon + _INSET) / np.array(image.size_hw[::-1])
                lines.append(" ".join([str(number), *(f"{share:.{_DIGITS}f}" for share in shares.ravel().tolist())]))
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        save_text("".join(f"{line}\n" for line in lines), target)
    about = {
        "train": "images",
        "val": "images",
        "names": {number: name for name, number in classes.items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_text(yaml.safe_dump(about, allow_unicode=True, sort_keys=False), folder / "data.yaml")
    return list(classes)


def _label_path(image: str) -> PurePosixPath:
    path = PurePosixPath(image)
    if path.is_absolute():
        path = PurePosixPath(path.name)
    if ".." in path.parts or not path.name:
        raise DataError(f"image outside its folder: {image}", hint="give a path relative to the folder of images")
    return PurePosixPath("labels", path.with_suffix(".txt"))
