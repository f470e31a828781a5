"""PACO-LVIS and PASCAL-Part in VLPart's format: COCO-style JSON with categories like "dog:head", or "dog" for wholes.

Raw layout (LISA's): `vlpart/paco/annotations/paco_lvis_v1_<split>.json` with the images of `coco/`, and
`vlpart/pascal_part/<split>.json` with `vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages`.

Source: VLPart (arXiv:2305.11173), PACO (arXiv:2301.01795); LISA (arXiv:2308.00692) for the two phrases per part.
Deviation: LISA makes one target per annotation, so "dog head" can mean one of several heads. Here the target is the
union of all instances of a category in the image, as in PartImageNet, because a question names the category.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from cores_core.data.questions.bank import load_part_wordings
from cores_core.data.questions.topics import load_written
from cores_core.data.sources.parts import check_image, load_images, merge_annotations
from cores_core.data.sources.reading import WHOLE, Rejections, Share
from cores_core.data.store import Record, Region
from cores_core.errors import DataError
from cores_core.sample import Query

PACO_IMAGES = "coco"
"""Relative to the data root; PACO's file names start with `train2017/` or `val2017/`."""
PASCAL_PART_IMAGES = "VOCdevkit/VOC2010/JPEGImages"
"""Relative to the data set's folder."""
Questions = Mapping[str, tuple[str, ...]]
"""Questions by raw category, such as "bird:beak"."""
_SPELLINGS = {"colied tube": "coiled tube"}
"""Corrected spellings of PACO's parts, for phrases."""


def read_paco(
    folder: Path, data_root: Path, split: str, rejected: Rejections, share: Share = WHOLE
) -> Iterator[Record]:
    """Yield a record for each image with a usable region, and a region for each category in it.

    Args:
        folder: `vlpart/paco`. data_root: image paths are stored relative to it; it also holds `coco/`.
        split: "train" or "val"; only "train" has questions beside the phrases.
        rejected: receives skipped images and categories with reasons.
        share: the shard of the images to read.

    Raises:
        DataError: the JSON is missing or malformed.
    """
    annotations = folder / f"annotations/paco_lvis_v1_{split}.json"
    return _read(
        annotations, data_root / PACO_IMAGES, data_root, rejected, share, _questions("paco_lvis", split, data_root)
    )


def read_pascal_part(
    folder: Path, data_root: Path, split: str, rejected: Rejections, share: Share = WHOLE
) -> Iterator[Record]:
    """Read one split of PASCAL-Part; the folder is `vlpart/pascal_part`, other arguments are as for `read_paco`.

    Raises:
        DataError: the JSON is missing or malformed.
    """
    images, questions = folder / PASCAL_PART_IMAGES, _questions("pascal_part", split, data_root)
    return _read(folder / f"{split}.json", images, data_root, rejected, share, questions)


def _questions(name: str, split: str, data_root: Path) -> Questions:
    """Questions by raw category, for training only; evaluation asks for parts by name."""
    if split != "train":
        return {}
    written = load_written(data_root, name)
    bank = {
        f"{whole}:{part}": wordings.questions["train"] for (whole, part), wordings in load_part_wordings(name).items()
    }
    return {label: (*bank.get(label, ()), *written.get(label, ())) for label in (*bank, *written)}


def _read(
    annotations: Path, folder: Path, data_root: Path, rejected: Rejections, share: Share, questions: Questions
) -> Iterator[Record]:
    for image in share.of(load_images(annotations, share.once(rejected))):
        path = folder / image.file_name
        name = path.relative_to(data_root).as_posix()
        try:
            size_hw = check_image(image, path)
        except DataError as error:
            rejected.add(name, error.message)
            continue
        regions = []
        for label, of_label in image.labels.items():
            try:
                category, kind, phrases = _word(label)
                mask, source = merge_annotations(of_label, size_hw, name, rejected)
            except DataError as error:
                rejected.add(f"{name} {label}", error.message)
                continue
            asked = [
                *(Query(phrase, is_sentence=False) for phrase in phrases),
                *map(Query, questions.get(label, ())),
            ]
            regions.append(Region(category, kind, mask, None, tuple(asked), source))
        if regions:
            yield Record(image=name, size_hw=size_hw, regions=tuple(regions))
        else:
            rejected.add(name, "image without a region")


def _word(label: str) -> tuple[str, str, tuple[str, ...]]:
    """Parse a label to category, kind and phrases: "car_(automobile):door_handle" is the part "car door handle".

    Raises:
        DataError: a name is empty, or there are more than two levels.
    """
    words = [" ".join(piece.partition("_(")[0].replace("_", " ").split()) for piece in label.split(":")]
    if not all(words) or len(words) > 2:
        raise DataError(f"malformed category: `{label}`")
    if len(words) == 1:
        return words[0], "object", (words[0],)
    whole, part = words
    spelled = _SPELLINGS.get(part, part)
    return f"{whole} {part}", "part", (f"{spelled} of the {whole}", f"{whole} {spelled}")
