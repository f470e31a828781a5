"""ReasonSeg: images with LabelMe files that contain questions.

Raw layout: `reason_seg/ReasonSeg/<split>/<name>.{jpg,json}`; `explanatory/train.json` has text answers for some of the
training images. The JSON has no image size. Two files of the test split have no shape: their target is empty.

Source: LISA (arXiv:2308.00692). Evaluation uses only the first text of each image, which is the first query.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cores_core.data.sources.labelme import check_drawn_size, draw_shapes, parse_shapes
from cores_core.data.sources.reading import WHOLE, Rejections, Share, load_annotation, load_json, read_size
from cores_core.data.store import Record, Region
from cores_core.errors import DataError
from cores_core.masks import encode_rle
from cores_core.sample import Query

Explanations = tuple[tuple[str, str], ...]
"""Pairs of question and text answer."""
_EXPLANATIONS = Path("explanatory/train.json")
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_HINT = "see `cores prepare-data --list`"


def read_reasonseg(
    folder: Path, data_root: Path, split: str, rejected: Rejections, share: Share = WHOLE
) -> Iterator[Record]:
    """Read one split: a record with one region per image, sorted by file name.

    An image with a shape that cannot be drawn is rejected, as its mask would be incomplete.

    Args:
        folder: `reason_seg/ReasonSeg`. data_root: image paths are stored relative to it.
        split: subfolder of `folder`.
        rejected: collects skipped items. share: which shard of the images to read.

    Raises:
        DataError: there is no such split, or it has no annotations.
    """
    is_explained = (folder / _EXPLANATIONS).is_file() and split == "train"
    explanations = read_explanations(folder, share.once(rejected)) if is_explained else {}
    for image, annotation in _pair_files(folder / split, rejected, share):
        try:
            name = image.relative_to(data_root).as_posix()
            record = _read_record(image, annotation, name, rejected, explanations.get(image.name, ()))
        except DataError as error:
            rejected.add(f"{split}/{annotation.name}", error.message)
            continue
        yield record


def read_explanations(folder: Path, rejected: Rejections | None = None) -> Mapping[str, Explanations]:
    """Questions with their text answers, by the image's file name, in the order of the file.

    Args:
        folder: `reason_seg/ReasonSeg`.
        rejected: collects skipped entries; None to drop them.

    Raises:
        DataError: `explanatory/train.json` is missing or not a list.
    """
    path = folder / _EXPLANATIONS
    entries = load_json(path)
    if not isinstance(entries, list):
        raise DataError(f"not a list of explanations: {path}", hint=_HINT)
    found: dict[str, dict[tuple[str, str], None]] = {}
    for index, entry in enumerate(entries):
        try:
            query, answer, image = _check_texts([_get(entry, key) for key in ("query", "outputs", "image")])
            if not (query and answer and image):
                raise DataError("empty text")
        except DataError as error:
            if rejected is not None:
                rejected.add(f"{path.name}[{index}]", error.message)
            continue
        found.setdefault(image, {})[query, answer] = None
    return {image: tuple(answers) for image, answers in found.items()}


def _pair_files(folder: Path, rejected: Rejections, share: Share) -> Iterator[tuple[Path, Path]]:
    """Pair images and annotations by name without the last suffix (names may contain dots); reject unpaired ones."""
    try:
        files = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"no such folder of ReasonSeg: {folder}", hint=_HINT) from error
    annotations = {file.stem: file for file in files if file.suffix.lower() == ".json"}
    if not annotations:
        raise DataError(f"no annotation of ReasonSeg (.json) in: {folder}", hint=_HINT)
    images: dict[str, Path] = {}
    for file in files:
        if file.suffix.lower() in _IMAGE_SUFFIXES and images.setdefault(file.stem, file) != file:
            share.once(rejected).add(f"{folder.name}/{file.name}", "another image has this name")
    for name in share.of(sorted(annotations.keys() | images.keys())):
        if name not in annotations:
            rejected.add(f"{folder.name}/{images[name].name}", "annotation is missing")
        elif name not in images:
            rejected.add(f"{folder.name}/{annotations[name].name}", "image is missing")
        else:
            yield images[name], annotations[name]


def _read_record(image: Path, annotation: Path, name: str, rejected: Rejections, explained: Explanations) -> Record:
    tree = load_annotation(annotation)
    shapes = parse_shapes(_get(tree, "shapes"))
    queries = tuple(_explain(query, explained) for query in _read_queries(tree, annotation, rejected))
    size_hw = read_size(image)
    check_drawn_size(tree, size_hw)
    masks = draw_shapes(shapes, size_hw)
    ignore = encode_rle(masks.ignore) if masks.ignore.any() else None
    source = f"{annotation.parent.name}/{annotation.name}"
    region = Region("", "object", encode_rle(masks.target), ignore, queries, source)
    return Record(image=name, size_hw=size_hw, regions=(region,))


def _explain(query: Query, explained: Explanations) -> Query:
    """Add the text answer to the same question, or else, as in LISA, to the first explained question of the image."""
    if not explained or not query.is_sentence:
        return query
    return Query(query.text, query.is_sentence, dict(explained).get(query.text, explained[0][1]))


def _read_queries(tree: Any, annotation: Path, rejected: Rejections) -> tuple[Query, ...]:
    given, is_sentence = _get(tree, "text"), _get(tree, "is_sentence")
    if not isinstance(given, list) or not isinstance(is_sentence, bool):
        raise DataError("a value is missing or of another type")
    texts = _check_texts(given)
    if not any(texts):
        raise DataError("annotation without a text")
    rejected.items += [(f"{annotation.parent.name}/{annotation.name}", "empty text")] * texts.count("")
    return tuple(Query(text, is_sentence) for text in dict.fromkeys(texts) if text)


def _get(tree: Any, key: str) -> Any:
    return tree.get(key) if isinstance(tree, dict) else None


def _check_texts(values: list[Any]) -> list[str]:
    """The texts without leading and trailing whitespace.

    Raises:
        DataError: one is not a text, or has an unpaired surrogate, which cannot be encoded.
    """
    if not all(isinstance(value, str) for value in values):
        raise DataError("a value is missing or of another type")
    try:
        "".join(values).encode()
    except UnicodeEncodeError as error:
        raise DataError("a text is not Unicode") from error
    return [value.strip() for value in values]
