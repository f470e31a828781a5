"""LLaVA-Instruct-150k: text conversations about images of COCO.

Raw layout (LISA's): `llava_dataset/llava_instruct_150k.json`, a list of `{id, image, conversations}`, with the images
of `coco/train2017`. Optional: the paper trains without it, because its free text conflicts with the answer template.

Source: LLaVA (arXiv:2304.08485).
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from cores_core.data.sources.reading import WHOLE, Rejections, Share, load_json, read_size
from cores_core.data.store import Record
from cores_core.errors import DataError
from cores_core.prompts import IMAGE
from cores_core.sample import Turn

VQA_IMAGES = "coco/train2017"
"""Relative to the data root."""


def read_vqa(folder: Path, data_root: Path, split: str, rejected: Rejections, share: Share = WHOLE) -> Iterator[Record]:
    """Read all conversations, one record each, in the order of the file.

    Args:
        folder: `llava_dataset`. data_root: image paths are stored relative to it; it also holds `coco/`.
        split: the file name without suffix.
        rejected: collects skipped items. share: which shard of the conversations to read.

    Raises:
        DataError: the file is missing or not a list.
    """
    path = folder / f"{split}.json"
    entries = load_json(path)
    if not isinstance(entries, list):
        raise DataError(f"not a list of conversations: {path}", hint="see `cores prepare-data --list`")
    for number, entry in share.of(list(enumerate(entries))):
        try:
            yield _read_record(entry, data_root)
        except DataError as error:
            rejected.add(f"{path.name}[{number}]", error.message)


def _read_record(entry: Any, data_root: Path) -> Record:
    if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
        raise DataError("conversation without an image")
    name = PurePosixPath(entry["image"])
    if name.is_absolute() or ".." in name.parts or not entry["image"].isprintable():
        raise DataError("image outside of its folder")
    dialogue = _read_dialogue(entry.get("conversations"))
    image = f"{VQA_IMAGES}/{name}"
    return Record(image=image, size_hw=read_size(data_root / image), regions=(), dialogue=dialogue)


def _read_dialogue(said: Any) -> tuple[Turn, ...]:
    """Parse alternating questions and answers; the image placeholder is removed.

    Raises:
        DataError: they do not alternate, or one is empty or not a text.
    """
    if not isinstance(said, list) or not said or len(said) % 2:
        raise DataError("conversation that is not questions and answers")
    texts = []
    for number, entry in enumerate(said):
        speaker, text = (entry.get("from"), entry.get("value")) if isinstance(entry, dict) else (None, None)
        if speaker != ("gpt" if number % 2 else "human") or not isinstance(text, str):
            raise DataError("conversation that is not questions and answers")
        texts.append(text.replace(IMAGE, "").strip())
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise DataError("a text is not Unicode") from error
    if not all(texts):
        raise DataError("empty text")
    return tuple(Turn(*pair, segments=False) for pair in zip(texts[::2], texts[1::2], strict=True))
