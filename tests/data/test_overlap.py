"""Images that an evaluation asks about are left out of training, whatever their file is called."""

from pathlib import Path

import pytest
from helpers import mask

from cores_core.data.overlap import image_key, without_held_out
from cores_core.data.store import Record, Region, Store, save_store, store_path
from cores_core.masks import encode_rle
from cores_core.sample import Query


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("refer_seg/images/mscoco/images/train2014/COCO_train2014_000000000009.jpg", "coco 000000000009"),
        ("coco/train2017/000000000009.jpg", "coco 000000000009"),
        ("PartImageNet/val/n01440764/n01440764_10026.JPEG", "PartImageNet/val/n01440764/n01440764_10026.JPEG"),
        ("other/1000000000009.jpg", "other/1000000000009.jpg"),
    ],
)
def test_two_names_of_an_image_of_coco_have_one_key(name: str, key: str) -> None:
    assert image_key(name) == key


def test_images_of_any_other_split_are_left_out_of_training(tmp_path: Path) -> None:
    _save(tmp_path, "cocostuff", "train", "coco/train2017/000000000001.jpg", "coco/train2017/000000000002.jpg")
    _save(tmp_path, "refcocog", "train", "train2014/COCO_train2014_000000000003.jpg")
    _save(tmp_path, "refcoco+", "testB", "train2014/COCO_train2014_000000000002.jpg")
    stores = [Store(tmp_path, name, "train") for name in ("cocostuff", "refcocog")]
    views = without_held_out(stores)
    assert [[record.image for record in view] for view in views] == [
        ["coco/train2017/000000000001.jpg"],
        ["train2014/COCO_train2014_000000000003.jpg"],
    ]
    assert [len(view) for view in views] == [1, 1]
    assert views[0].image_path(views[0][0]) == tmp_path / "coco/train2017/000000000001.jpg"


def _save(root: Path, name: str, split: str, *images: str) -> None:
    region = Region("", "object", encode_rle(mask("#.")), None, (Query("it", False),), "")
    save_store([Record(image, (1, 2), (region,)) for image in images], store_path(root, name, split))
