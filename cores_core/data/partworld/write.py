"""Render PartWorld to disk in the layout of PartImageNet, so that the same loader reads both.

    <root>/<split>.json               parts: COCO style, compressed RLE, the 40 categories of the catalog
    <root>/<split>_whole.json         whole objects: the 11 super-categories
    <root>/<split>/<synset>/<synset>_<index>.JPEG

PartImageNet stores an image in the folder of its WordNet synset. PartWorld has no synsets: the folder is "n9" and the
seven-digit object id of the image's first object ("n90000002": fish), numbers that WordNet does not use.
Resuming: the annotations of finished shards are kept in <root>/.shards; a later call with the same seed renders only
missing shards. Files are written to a temporary name and renamed, the JSON files last.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from PIL import Image

from cores_core.data.partworld.catalog import OBJECT_IDS, PART_IDS, part_label
from cores_core.data.partworld.scene import Scene, render_scene
from cores_core.errors import DataError
from cores_core.files import read_json, replacing, save_text
from cores_core.masks import bounding_box, encode_rle
from cores_core.sample import BoolMask
from cores_core.signals import end_with_parent, stop_signals_held

SHARD_SIZE = 64
DRAWING = 1
"""Version of the renderer; increase it when the same seed gives other images. Shards of other versions are rejected."""
JPEG_QUALITY = 92
LEAST_PIXELS = 16
"""Minimum number of visible pixels of an annotated part or object."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Shard:
    """A contiguous range of images of one split, the unit of work and of resuming."""

    drawing: int
    seed: int
    split: str
    first: int
    count: int


def write_partworld(
    root: Path, images: Mapping[str, int], seed: int, workers: int, progress: Callable[[int], None] | None = None
) -> None:
    """Write every split of `images` (name to number of images) under `root`; the bytes do not depend on `workers`.

    Args:
        root: folder of the data set; created if missing.
        images: number of images by split, such as {"train": 20000, "val": 500}.
        seed: splits of the same seed have no scene in common.
        workers: number of processes; 1 renders in this process.
        progress: called with the number of images of each finished shard.

    Raises:
        DataError: `root` contains images of another seed or renderer version.
    """
    for split, count in images.items():
        shards = [
            Shard(DRAWING, seed, split, first, min(SHARD_SIZE, count - first)) for first in range(0, count, SHARD_SIZE)
        ]
        for shard in shards:
            _check_recipe(root, shard)
        records: list[Json] = []
        for shard, of_shard in zip(shards, _finish_all(root, shards, workers), strict=True):
            records += of_shard
            if progress is not None:
                progress(shard.count)
        _write_json(root / f"{split}_whole.json", _coco(records, "objects", OBJECT_IDS))
        _write_json(root / f"{split}.json", _coco(records, "parts", PART_IDS))


def split_seed(seed: int, split: str) -> int:
    """The seed of `render_scene` for one split."""
    return int(np.random.SeedSequence((seed, crc32(split.encode()))).generate_state(1, np.uint64)[0])


def _finish_all(root: Path, shards: list[Shard], workers: int) -> Iterator[list[Json]]:
    """Finish shards and yield the records of each in order."""
    if workers <= 1 or len(shards) <= 1:
        yield from (_finish_shard(root, shard) for shard in shards)
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"), end_with_parent)
    try:
        with stop_signals_held():
            finished = pool.map(_finish_shard, [root] * len(shards), shards)
        yield from finished
    finally:
        pool.shutdown(cancel_futures=True)  # after an interrupt, no further shard is started


def _finish_shard(root: Path, shard: Shard) -> list[Json]:
    """Render the shard unless it is finished; return one record per image."""
    path = _shard_path(root, shard)
    finished = _read_shard(path)
    if finished is not None and finished["shard"] == asdict(shard):
        records: list[Json] = finished["records"]
        for record in records:
            image_path = root / shard.split / record["file_name"]
            if not image_path.exists():
                _write_image(image_path, render_scene(split_seed(shard.seed, shard.split), record["index"]))
        return records
    records = []
    for index in range(shard.first, shard.first + shard.count):
        scene = render_scene(split_seed(shard.seed, shard.split), index)
        record = _describe(scene, index)
        _write_image(root / shard.split / record["file_name"], scene)
        records.append(record)
    _write_json(path, {"shard": asdict(shard), "records": records})
    return records


def _describe(scene: Scene, index: int) -> Json:
    """One image and its annotations as JSON values; annotations have no id yet."""
    height, width = scene.image.shape[:2]
    synset = f"n9{OBJECT_IDS[scene.objects[0].category.title()]:07d}"
    parts = [
        (PART_IDS[part_label(thing.category, part)], mask)
        for thing in scene.objects
        for part, mask in thing.parts.items()
    ]
    objects = [(OBJECT_IDS[thing.category.title()], thing.mask) for thing in scene.objects]
    return {
        "index": index,
        "file_name": f"{synset}/{synset}_{index}.JPEG",
        "width": width,
        "height": height,
        "parts": _annotate(parts),
        "objects": _annotate(objects),
    }


def _annotate(labelled_masks: list[tuple[int, BoolMask]]) -> list[Json]:
    """COCO annotations, without ids, of (category id, (H, W) mask) pairs."""
    return [
        {
            "category_id": category_id,
            "segmentation": encode_rle(mask),
            "area": int(mask.sum()),
            "bbox": [float(side) for side in bounding_box(mask)],
            "iscrowd": 0,
        }
        for category_id, mask in labelled_masks
        if int(mask.sum()) >= LEAST_PIXELS
    ]


def _coco(records: list[Json], kind: str, category_ids: Mapping[str, int]) -> Json:
    """Join the records of a split; `kind` is "parts" or "objects". Ids start at 1, because COCOeval reserves 0."""
    annotations = [{"image_id": record["index"] + 1, **annotation} for record in records for annotation in record[kind]]
    return {
        "images": [
            {"id": record["index"] + 1, **{key: record[key] for key in ("file_name", "width", "height")}}
            for record in records
        ],
        "annotations": [{"id": number, **annotation} for number, annotation in enumerate(annotations, start=1)],
        "categories": [
            {"id": category_id, "name": name, "supercategory": name.split()[0]}  # "Car Side Mirror" is of "Car"
            for name, category_id in category_ids.items()
        ],
    }


def _check_recipe(root: Path, shard: Shard) -> None:
    """Check that the folder has the same seed and renderer version.

    Raises:
        DataError: it has another.
    """
    finished = _read_shard(_shard_path(root, shard))
    if finished is None:
        return
    found = finished["shard"]
    if (found["seed"], found["drawing"]) != (shard.seed, shard.drawing):
        raise DataError(
            f"{root} contains PartWorld of seed {found['seed']} (drawing {found['drawing']}), "
            f"not of seed {shard.seed} (drawing {shard.drawing})",
            hint="choose another folder, or delete this one",
        )


def _shard_path(root: Path, shard: Shard) -> Path:
    return root / ".shards" / f"{shard.split}_{shard.first}.json"


def _read_shard(path: Path) -> Json | None:
    """Read a shard finished by an earlier call; None if there is none."""
    if not path.exists():
        return None
    content: Json = read_json(path)
    return content


def _write_image(path: Path, scene: Scene) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished:
        Image.fromarray(scene.image).save(unfinished, format="JPEG", quality=JPEG_QUALITY)


def _write_json(path: Path, content: Json) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_text(json.dumps(content, separators=(",", ":")), path)
