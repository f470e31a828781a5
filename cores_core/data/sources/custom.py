"""Users' own data under `custom/<name>/`, with each split in one of these formats:

    <split>.jsonl    a row per image and target; see `jsonl.py`
    <split>.json     COCO JSON, or an export of Label Studio; see `formats/coco.py` and `formats/label_studio.py`
    <split>/         a folder of LabelMe files; see `labelme_folder.py`. Only if there are no files as above.

If a split has both a JSONL and a JSON file, the JSONL is read. Images of JSON and LabelMe files are searched next to
them, in `images/` and in `<split>/`, below the data root. All targets of an image become one record.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from cores_core.data.sources.jsonl import read_jsonl
from cores_core.data.sources.labelme_folder import read_labelme_folder
from cores_core.data.sources.reading import WHOLE, Rejections, Share, find_inside, load_json, read_turn
from cores_core.data.store import Record, Region
from cores_core.errors import DataError
from cores_core.formats.coco import read_coco
from cores_core.formats.coco_entries import is_coco
from cores_core.formats.label_studio import is_label_studio, read_label_studio
from cores_core.formats.labelled import Annotation
from cores_core.masks import rle_area
from cores_core.sample import Query

Group = tuple[str, list[Annotation]]
"""The path of an image, relative to the data root, and its targets."""
_TURNED = "its image is turned by EXIF within the same size: its mask is taken as drawn on the upright image"


def find_splits(folder: Path) -> dict[str, str]:
    """File or folder name by split of a user's data set, in alphabetical order."""
    files = {path.stem: path.name for suffix in (".json", ".jsonl") for path in folder.glob(f"[!.]*{suffix}")}
    if files:
        return dict(sorted(files.items()))
    return {place.name: place.name for place in sorted(folder.glob("[!.]*")) if any(place.glob("[!.]*.json"))}


def read_custom(path: Path, data_root: Path, rejected: Rejections, share: Share = WHOLE) -> Iterator[Record]:
    """Read one split of a user's data set, images in order of first occurrence.

    Args:
        path: its file or folder. data_root: image paths are stored relative to it.
        rejected: collects invalid entries. share: which shard of the images to read.

    Raises:
        DataError: the file is missing or has an unknown format.
    """
    for name, annotations in _read_groups(path, data_root, rejected, share):
        try:
            size_hw, is_turned = read_turn(data_root / name)
        except DataError as error:
            rejected.items += [(annotation.source, error.message) for annotation in annotations]
            continue
        regions = tuple(_read_regions(annotations, size_hw, rejected))
        if is_turned:
            rejected.notes += [(region.source, _TURNED) for region in regions if rle_area(region.mask)]
        if regions:
            yield Record(image=name, size_hw=size_hw, regions=regions)


def _read_groups(path: Path, data_root: Path, rejected: Rejections, share: Share) -> Iterable[Group]:
    if path.is_dir():
        places = [path, path.parent / "images", path.parent]
        return _locate_all(read_labelme_folder(path, rejected, share), places, data_root, rejected)
    once = share.once(rejected)
    if path.suffix == ".jsonl":
        beside = path.with_suffix(".json")
        if beside.exists():
            once.note(beside.name, f"not read, because {path.name} exists")
        annotations, places = read_jsonl(path, data_root, once), [path.parent]
    else:
        annotations = _read_json(path, once)
        places = [path.parent, path.parent / "images", path.with_suffix("")]
    return share.of(_locate_all(annotations, places, data_root, once))


def _read_json(path: Path, rejected: Rejections) -> Iterator[Annotation]:
    def reject(key: str, index: int, reason: str) -> None:
        rejected.add(f"{path.name} {key}[{index}]", reason)

    tree = load_json(path)
    if is_coco(tree):
        annotations = read_coco(tree, str(path), reject)
    elif is_label_studio(tree):
        annotations = read_label_studio(tree, str(path), reject)
    else:
        hint = "LabelMe files need a folder per split; docs/own_data.md shows all formats"
        raise DataError(f"neither COCO JSON nor an export of Label Studio: {path}", hint=hint)
    return (replace(annotation, source=f"{path.name} {annotation.source}") for annotation in annotations)


def _locate_all(
    annotations: Iterable[Annotation], places: Sequence[Path], data_root: Path, rejected: Rejections
) -> list[Group]:
    """Group annotations by image; those whose image path is invalid are rejected."""
    groups: dict[str, list[Annotation]] = {}
    for annotation in annotations:
        try:
            name = _locate(annotation, places, data_root).as_posix()
        except DataError as error:
            rejected.add(annotation.source, error.message)
        else:
            groups.setdefault(name, []).append(annotation)
    return list(groups.items())


def _locate(annotation: Annotation, places: Sequence[Path], data_root: Path) -> Path:
    """Path of an image relative to the data root: the first candidate that exists, otherwise the first valid one.

    Raises:
        DataError: no candidate is below the data root.
    """
    names = (annotation.image, *annotation.other_names)
    if len(names) * len(places) == 1:
        return find_inside(names[0], places[0], data_root)
    found, errors = [], []
    for name in names:
        for place in places:
            try:
                found.append(find_inside(name, place, data_root))
                if (data_root / found[-1]).is_file():
                    return found[-1]
            except DataError as error:
                errors.append(error)
            except OSError:  # e.g. a name that is too long
                errors.append(DataError("image cannot be read"))
    if not found:
        raise errors[0]
    return found[0]


def _read_regions(
    annotations: Sequence[Annotation], size_hw: tuple[int, int], rejected: Rejections
) -> Iterator[Region]:
    for annotation in annotations:
        try:
            if annotation.size_hw not in (None, size_hw):
                raise DataError("image of another size than its annotations")
            found = annotation.read_mask(size_hw)
        except DataError as error:
            rejected.add(annotation.source, error.message)
            continue
        if found.note is not None:
            rejected.note(annotation.source, found.note)
        questions = (Query(text) for text in annotation.questions)
        queries = (*questions, *(Query(text, is_sentence=False) for text in annotation.phrases))
        yield Region(annotation.category, "object", found.mask, found.ignore, queries, annotation.source)
