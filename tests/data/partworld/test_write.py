"""PartWorld on disk: the layout of PartImageNet, the same bytes however it is made, and resumed where it stopped."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO  # type: ignore[import-untyped, unused-ignore]

from cores_core.data.partworld import write
from cores_core.data.partworld.catalog import OBJECT_IDS, PART_IDS, part_label
from cores_core.data.partworld.scene import render_scene
from cores_core.data.partworld.write import LEAST_PIXELS, split_seed, write_partworld
from cores_core.errors import DataError

IMAGES = {"train": 5, "val": 2}


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "SHARD_SIZE", 3)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("partworld")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "SHARD_SIZE", 3)
        write_partworld(root, IMAGES, seed=1, workers=1)
    return root


def test_the_json_lists_every_image_and_the_forty_parts(written: Path) -> None:
    parts, whole = COCO(written / "train.json"), COCO(written / "train_whole.json")
    assert {c["name"]: c["id"] for c in parts.loadCats(parts.getCatIds())} == dict(PART_IDS)
    assert {c["name"]: c["id"] for c in whole.loadCats(whole.getCatIds())} == dict(OBJECT_IDS)
    assert len(parts.imgs) == len(whole.imgs) == IMAGES["train"]
    for image in parts.imgs.values():
        path = written / "train" / image["file_name"]
        assert path.name.startswith(f"{path.parent.name}_")
        assert Image.open(path).size == (image["width"], image["height"])


def test_annotations_are_the_masks_of_the_scene(written: Path) -> None:
    coco = COCO(written / "val.json")
    scene = render_scene(split_seed(1, "val"), index=1)
    image_id = next(i for i, image in coco.imgs.items() if image["file_name"].endswith("_1.JPEG"))
    expected = [
        (PART_IDS[part_label(thing.category, part)], mask)
        for thing in scene.objects
        for part, mask in thing.parts.items()
        if mask.sum() >= LEAST_PIXELS
    ]
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=image_id))
    assert [annotation["category_id"] for annotation in annotations] == [category_id for category_id, _ in expected]
    for annotation, (_, mask) in zip(annotations, expected, strict=True):
        assert np.array_equal(coco.annToMask(annotation), mask)
        assert annotation["area"] == mask.sum()
        assert isinstance(annotation["segmentation"]["counts"], str)


def test_splits_never_share_a_scene(written: Path) -> None:
    assert split_seed(1, "train") != split_seed(1, "val")
    contents = [path.read_bytes() for path in written.rglob("*.JPEG")]
    assert len(set(contents)) == len(contents) == sum(IMAGES.values())


def test_two_workers_write_the_same_bytes_as_one(written: Path, tmp_path: Path) -> None:
    finished: list[int] = []
    write_partworld(tmp_path, IMAGES, seed=1, workers=2, progress=finished.append)
    assert _contents(tmp_path) == _contents(written)
    assert finished == [3, 2, 2]


def test_a_deleted_image_comes_back_and_the_others_are_kept(tmp_path: Path) -> None:
    write_partworld(tmp_path, {"val": 3}, seed=2, workers=1)
    before = _contents(tmp_path)
    deleted, *kept = sorted(tmp_path.rglob("*.JPEG"))
    times = [path.stat().st_mtime_ns for path in kept]
    deleted.unlink()
    write_partworld(tmp_path, {"val": 3}, seed=2, workers=1)
    assert _contents(tmp_path) == before
    assert [path.stat().st_mtime_ns for path in kept] == times


def test_an_interrupt_leaves_no_half_written_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Image.Image, "save", interrupt)
        write_partworld(tmp_path, {"val": 2}, seed=1, workers=1)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_another_seed_does_not_mix_into_the_same_folder(tmp_path: Path) -> None:
    write_partworld(tmp_path, {"val": 1}, seed=1, workers=1)
    with pytest.raises(DataError, match="seed 1"):
        write_partworld(tmp_path, {"val": 1}, seed=2, workers=1)


def test_json_has_no_trace_of_the_machine(written: Path) -> None:
    record = json.loads((written / "val.json").read_text())
    assert set(record) == {"images", "annotations", "categories"}
    assert set(record["annotations"][0]) == {
        "id", "image_id", "category_id", "segmentation", "area", "bbox", "iscrowd"
    }  # fmt: skip


def _contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
