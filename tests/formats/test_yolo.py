"""YOLO's files: their polygons, filled as ultralytics fills them, are the masks; and what it needs lies beside them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fillers import blob_mask, fill_by_opencv, measure_iou, odd_masks
from helpers import mask

from cores_core.errors import DataError
from cores_core.formats.labelled import LabelledImage, LabelledMask
from cores_core.formats.yolo import save_yolo
from cores_core.sample import BoolMask

DOT, BAR = mask("#...", "...."), mask("..##", "..##")


def image(path: str, **masks: BoolMask) -> LabelledImage:
    labelled = tuple(LabelledMask(label, target) for label, target in masks.items())
    return LabelledImage(path, (2, 4) if not masks else next(iter(masks.values())).shape, labelled)


def load(path: Path, size_hw: tuple[int, int], to_pixels: Callable[[Any], Any] = np.trunc) -> dict[int, BoolMask]:
    """The masks of a file by class, read as ultralytics reads them, float32, fractions cut off; supervision rounds."""
    masks: dict[int, BoolMask] = {}
    for line in path.read_text().splitlines():
        number, *shares = line.split()
        assert len(shares) >= 6
        points = np.array(shares, dtype=np.float32).reshape(-1, 2)
        assert ((points >= 0) & (points <= 1)).all()
        filled = fill_by_opencv([to_pixels(points * np.array(size_hw[::-1], dtype=np.float32))], size_hw)
        masks[int(number)] = masks.get(int(number), np.zeros(size_hw, dtype=bool)) | filled
    return masks


def test_at_tolerance_0_every_mask_comes_back_to_the_pixel(tmp_path: Path) -> None:
    targets = [target for target in odd_masks() if target.any()]
    save_yolo([image(f"{n}.png", it=target) for n, target in enumerate(targets)], tmp_path, tolerance=0)
    for number, target in enumerate(targets):
        for to_pixels in (np.trunc, np.round):
            assert np.array_equal(load(tmp_path / f"labels/{number}.txt", target.shape, to_pixels)[0], target)


def test_coordinates_are_exact_in_large_images(tmp_path: Path) -> None:
    target = np.zeros((4001, 5003), dtype=bool)
    target[3990:, 4990:] = target[17, 23:4000] = True
    save_yolo([image("a.png", it=target)], tmp_path, tolerance=0)
    assert np.array_equal(load(tmp_path / "labels/a.txt", target.shape)[0], target)


def test_at_the_usual_tolerance_iou_is_as_stated(tmp_path: Path) -> None:
    target = blob_mask(200, 300, 0, smoothness=15)
    save_yolo([image("a.png", it=target)], tmp_path)
    assert measure_iou(load(tmp_path / "labels/a.txt", target.shape)[0], target) > 0.99


def test_classes_are_the_labels_in_order_and_stand_in_data_yaml(tmp_path: Path) -> None:
    names = save_yolo(
        [image("a/x.png", **{"Wer, bitte?": DOT, "dog": BAR}), image("b/x.png", dog=DOT), image("c.png")], tmp_path
    )
    assert names == ["Wer, bitte?", "dog"]
    assert yaml.safe_load((tmp_path / "data.yaml").read_text(encoding="utf-8")) == {
        "train": "images",
        "val": "images",
        "names": {0: "Wer, bitte?", 1: "dog"},
    }
    assert sorted(load(tmp_path / "labels/a/x.txt", (2, 4))) == [0, 1]
    assert sorted(load(tmp_path / "labels/b/x.txt", (2, 4))) == [1]
    assert (tmp_path / "labels/c.txt").read_text() == ""


def test_components_are_lines_of_one_class(tmp_path: Path) -> None:
    save_yolo([image("a.png", dog=DOT | BAR)], tmp_path)
    lines = (tmp_path / "labels/a.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["0", "0"]


@pytest.mark.parametrize(
    ("paths", "reason"),
    [
        (["a.png", "a.jpg"], r"labels/a\.txt: a\.png and a\.jpg"),
        (["/x/a.png", "/y/a.png"], "same label file"),
        (["../a.png"], "outside its folder"),
        ([""], "outside its folder"),
    ],
)
def test_names_that_collide_or_lead_out_are_one_error(tmp_path: Path, paths: list[str], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        save_yolo([image(path) for path in paths], tmp_path)
    assert not (tmp_path / "data.yaml").exists()
