"""Users' own data as a folder of LabelMe files, one JSON per image.

All shapes of a label form one target, with the label as its text: a question if it ends like a sentence, otherwise a
phrase. Shapes labelled `ignore` mark ignored pixels; those labelled `flag` are skipped. Files with `text` and
`is_sentence` are in ReasonSeg's format: their texts refer to all shapes together, whatever their label.

Shapes are rasterised by `labelme.py`. A file with a shape that cannot be drawn is rejected, as its mask would be
incomplete.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from cores_core.data.sources.labelme import LabelmeShape, draw_shapes, parse_shapes
from cores_core.data.sources.reading import Rejections, Share, load_annotation
from cores_core.errors import DataError
from cores_core.formats.labelled import Annotation, check_text, read_label
from cores_core.images import IMAGE_SUFFIXES
from cores_core.mask_images import RowMask
from cores_core.masks import encode_rle

IGNORE, TARGET = "ignore", "target"


def read_labelme_folder(folder: Path, rejected: Rejections, share: Share) -> Iterator[Annotation]:
    """Yield the targets of all files of a folder, sorted by name.

    Args:
        rejected: collects files that cannot be used. share: which shard of the files to read.

    Raises:
        DataError: there is no file.
    """
    files = sorted(folder.glob("[!.]*.json"))
    if not files:
        raise DataError(f"no LabelMe file (.json) in: {folder}")
    for index, file in enumerate(share.of(files)):
        source = f"{folder.name}/{file.name}"
        try:
            yield from _read_file(file, source, index)
        except DataError as error:
            rejected.add(source, error.message)


def _read_file(file: Path, source: str, index: int) -> list[Annotation]:
    tree = load_annotation(file)
    if not isinstance(tree, dict) or "shapes" not in tree:
        raise DataError("not a LabelMe file")
    shapes = parse_shapes(tree["shapes"])
    groups: dict[str, list[LabelmeShape]] = {}
    ignored = []
    for shape in shapes:
        if shape.label.lower() == IGNORE:
            ignored.append(shape)
        else:
            groups.setdefault(shape.label, []).append(replace(shape, label=TARGET))
    if not groups:
        raise DataError("annotation without a shape")
    image, *other_names = _find_names(tree, file)
    about = Annotation(
        source=source,
        index=index,
        image=image,
        size_hw=_read_size(tree),
        questions=(),
        phrases=(),
        category="",
        read_mask=partial(_read_mask, [shape for group in groups.values() for shape in group], ignored),
        other_names=tuple(other_names),
    )
    if "text" in tree:
        questions, phrases = _read_texts(tree)
        return [replace(about, questions=questions, phrases=phrases)]
    return [_describe(about, label, group, ignored) for label, group in groups.items()]


def _describe(
    about: Annotation, label: str, shapes: Sequence[LabelmeShape], ignored: Sequence[LabelmeShape]
) -> Annotation:
    """The target of one label of a file."""
    questions, phrases = read_label(label)
    return replace(
        about,
        source=f"{about.source} `{label}`",
        questions=questions,
        phrases=phrases,
        category=label,
        read_mask=partial(_read_mask, shapes, ignored),
    )


def _find_names(tree: dict[str, Any], file: Path) -> list[str]:
    """Candidate paths of the image: `imagePath`, its file name, and the JSON's stem with image suffixes."""
    told = tree.get("imagePath")
    names = [file.with_suffix(form).name for suffix in IMAGE_SUFFIXES for form in (suffix, suffix.upper())]
    if isinstance(told, str) and told.strip():
        path = told.replace("\\", "/")  # LabelMe on Windows
        names = [path, PurePosixPath(path).name, *names]
    return names


def _read_size(tree: dict[str, Any]) -> tuple[int, int] | None:
    height, width = tree.get("imageHeight"), tree.get("imageWidth")
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _read_texts(tree: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    given, is_sentence = tree["text"], tree.get("is_sentence")
    if not isinstance(given, list) or not given or not isinstance(is_sentence, bool):
        raise DataError("`text` must be a list of texts, `is_sentence` true or false")
    texts = tuple(dict.fromkeys(map(check_text, given)))
    return (texts, ()) if is_sentence else ((), texts)


def _read_mask(shapes: Sequence[LabelmeShape], ignored: Sequence[LabelmeShape], size_hw: tuple[int, int]) -> RowMask:
    masks = draw_shapes([*shapes, *ignored], size_hw)
    if not masks.target.any():
        raise DataError("empty mask")
    return RowMask(encode_rle(masks.target), encode_rle(masks.ignore) if masks.ignore.any() else None)
