"""InstructPart: photographs of everyday objects, and instructions that need one part of an object.

    instructpart_part/InstructPart/test/data_test.json
    instructpart_part/InstructPart/test/images/<image>-<object>-<part>.jpg    or <image>.jpg
    instructpart_part/InstructPart/test/masks/<image>-<object>-<part>.png
    instructpart_part/InstructPart/train/train1800/...                        the same, data_train.json

`data_<split>.json` is a list of {"image_path", "part_list": [{"object", "part", "instruction", ...}, ...]}; blanks in
names of objects and parts are underscores in file names. A part has six instructions, which become its queries in this
order: one by people, its rewrite by a language model, a sentence that names part and object, the same with the
affordance, and these two as noun phrases.

Source: InstructPart (arXiv:2505.18291, ACL 2025), the read-me of https://github.com/zifuwan/InstructPart.
The read-me does not state the file type of the masks: .png is tried first, then .jpg.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cores_core.data.sources.reading import WHOLE, Rejections, Share, load_json, read_size
from cores_core.data.store import Record, Region
from cores_core.errors import DataError
from cores_core.formats.labelled import check_text
from cores_core.mask_images import load_mask_image
from cores_core.masks import encode_rle, rle_area
from cores_core.sample import Query

_SENTENCE_COUNT = 4
"""Of the six instructions the first four are sentences, the others noun phrases."""
_SUFFIXES = (".png", ".jpg")
_HINT = "see `cores prepare-data --list`"


@dataclass(frozen=True)
class _Part:
    """A part of an image in the JSON: name in reports, possible paths of its image, path of its mask without suffix."""

    source: str
    images: tuple[Path, ...]
    mask: Path
    category: str
    instructions: list[Any]


def read_instructpart(
    folder: Path, data_root: Path, split: str, rejected: Rejections, share: Share = WHOLE
) -> Iterator[Record]:
    """Read one split, a record per image in order of first occurrence, with a region per part.

    Args:
        folder: `instructpart_part/InstructPart`. data_root: image paths are stored relative to it.
        split: subfolder of `folder`: test, or train/train1800.
        rejected: collects skipped parts. share: which shard of the images to read.

    Raises:
        DataError: its JSON is missing or not a list.
    """
    place = folder / split
    path = place / f"data_{split.split('/')[0]}.json"
    entries = load_json(path)
    if not isinstance(entries, list):
        raise DataError(f"not a list of images with parts: {path}", hint=_HINT)
    groups: dict[Path, list[_Part]] = {}
    for part in _list_parts(entries, place, share.once(rejected)):
        image = next((image for image in part.images if image.is_file()), part.images[-1])
        groups.setdefault(image, []).append(part)
    for image, parts in share.of(list(groups.items())):
        try:
            size_hw = read_size(image)
        except DataError as error:
            rejected.items += [(part.source, error.message) for part in parts]
            continue
        regions = tuple(_read_regions(parts, size_hw, rejected))
        if regions:
            yield Record(image=image.relative_to(data_root).as_posix(), size_hw=size_hw, regions=regions)


def _list_parts(entries: list[Any], place: Path, rejected: Rejections) -> Iterator[_Part]:
    for index, entry in enumerate(entries):
        try:
            name, listed = Path(entry["image_path"]).name, list(entry["part_list"])
        except (KeyError, TypeError) as error:
            rejected.add(f"[{index}]", f"malformed entry ({type(error).__name__})")
            continue
        for item in listed:
            try:
                whole, part = check_text(item["object"]), check_text(item["part"])
                stem = f"{Path(name).stem}-{whole}-{part}".replace(" ", "_")
                instructions = item["instruction"]
                if not isinstance(instructions, list):
                    raise TypeError
            except (DataError, KeyError, TypeError):
                rejected.add(
                    f"[{index}] {name}", "a part whose `object`, `part` or `instruction` is missing or invalid"
                )
                continue
            images = (place / "images" / f"{stem}.jpg", place / "images" / name)
            yield _Part(f"[{index}] {stem}", images, place / "masks" / stem, f"{whole} {part}", instructions)


def _read_regions(parts: list[_Part], size_hw: tuple[int, int], rejected: Rejections) -> Iterator[Region]:
    for part in parts:
        try:
            texts = [check_text(text) for text in part.instructions]
            if not texts:
                raise DataError("a part without an instruction")
            candidates = [part.mask.with_name(part.mask.name + suffix) for suffix in _SUFFIXES]
            mask_image = load_mask_image(next((path for path in candidates if path.is_file()), candidates[0]), size_hw)
            mask = encode_rle(mask_image.target)
            if not rle_area(mask):
                raise DataError("its mask is empty")
        except DataError as error:
            rejected.add(part.source, error.message)
            continue
        if mask_image.note is not None:
            rejected.note(part.source, mask_image.note)
        ignore = None if mask_image.ignore is None else encode_rle(mask_image.ignore)
        queries = tuple(Query(text, is_sentence=number < _SENTENCE_COUNT) for number, text in enumerate(texts))
        yield Region(part.category, "part", mask, ignore, queries, part.source)
