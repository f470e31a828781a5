"""`cores prepare-data`: what newcomers, and people with data of their own, see and get."""

import json

import numpy as np
import pytest
from helpers import noise_image
from PIL import Image

from cores_core.data.store import Store


@pytest.fixture
def own(tmp_path):
    """A data root with somebody's own data: two good lines and a bad one."""
    folder = tmp_path / "custom/fish"
    folder.mkdir(parents=True)
    Image.fromarray(noise_image(30, 40)).save(folder / "a.png")
    good = {"image": "a.png", "questions": ["What steers it?"], "mask": [[5, 5, 30, 5, 30, 20]]}
    lines = [json.dumps(good), json.dumps(good | {"image": "gone.png"}), json.dumps(good | {"phrases": ["the tail"]})]
    (folder / "train.jsonl").write_text("\n".join(lines))
    return tmp_path


def test_the_list_shows_where_everything_belongs(cli, tmp_path):
    outcome = cli("prepare-data", "--list", "--data-root", tmp_path)
    assert outcome.code == 0
    assert "partworld" in outcome.stdout


@pytest.mark.parametrize("options", [(), ("--check",)])
def test_all_on_an_empty_root_shows_what_to_do_next(cli, tmp_path, options):
    outcome = cli("prepare-data", "all", "--data-root", tmp_path, *options)
    assert outcome.code == 1
    assert f"no data set under {tmp_path} could be used" in outcome.stderr
    assert "refcoco: https://github.com/lichengunc/refer" in outcome.stdout
    assert "refer_seg/refcoco/refs(unc).p" in outcome.stdout
    assert f"cores prepare-data refcoco --data-root {tmp_path} --download" in outcome.stdout
    assert not (tmp_path / "prepared").exists()


def test_own_data_is_prepared_and_what_is_wrong_is_named(cli, own):
    outcome = cli("prepare-data", "custom/fish", "--data-root", own)
    assert outcome.code == 0
    assert "left out 1: image is missing (train.jsonl:2)" in outcome.stderr
    assert outcome.stderr.splitlines()[-1].startswith("left out 1 in all")
    store = Store(own, "custom/fish", "train")
    assert len(store) == 1
    assert [query.text for query in store[0].regions[1].queries] == ["What steers it?", "the tail"]
    report = json.loads((own / "prepared/custom/fish/report.json").read_text())
    assert report["splits"]["train"]["left_out"][0][0] == "train.jsonl:2"


def test_own_data_may_be_coco_and_what_is_wrong_is_named(cli, own):
    (own / "custom/fish/val.json").write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "a.png", "height": 30, "width": 40}],
                "categories": [{"id": 1, "name": "tail"}],
                "annotations": [
                    {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[5, 5, 30, 5, 30, 20]]},
                    {"id": 2, "image_id": 9, "category_id": 1, "segmentation": [[5, 5, 30, 5, 30, 20]]},
                ],
            }
        )
    )
    outcome = cli("prepare-data", "custom/fish", "--data-root", own)
    assert outcome.code == 0
    assert "fish val: left out 1: unknown image id (val.json annotations[1])" in outcome.stderr
    assert len(Store(own, "custom/fish", "val")) == 1
    report = json.loads((own / "prepared/custom/fish/report.json").read_text())
    assert report["splits"]["val"]["left_out"] == [["val.json annotations[1]", "unknown image id"]]


@pytest.mark.parametrize("options", [(), ("--check",)])
def test_a_data_set_of_which_nothing_can_be_used_exits_with_1(cli, tmp_path, options):
    folder = tmp_path / "custom/fish"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text(json.dumps({"image": "gone.png", "questions": ["What?"], "mask": []}))
    outcome = cli("prepare-data", "custom/fish", "--data-root", tmp_path, *options)
    assert outcome.code == 1
    assert "left out 1: image is missing" in outcome.stderr
    assert "nothing in custom/fish" in outcome.stderr


def test_a_check_writes_nothing(cli, own):
    outcome = cli("prepare-data", "custom/fish", "--check", "--data-root", own)
    assert outcome.code == 0
    assert "left out 1" in outcome.stderr
    assert not (own / "prepared").exists()


def test_what_has_not_changed_is_not_read_again(cli, own):
    cli("prepare-data", "custom/fish", "--data-root", own)
    path = own / "prepared/custom/fish/train.arrow"
    first = path.stat().st_mtime_ns
    cli("prepare-data", "custom/fish", "--data-root", own)
    assert path.stat().st_mtime_ns == first
    with (own / "custom/fish/train.jsonl").open("a") as file:
        file.write("\n")
    cli("prepare-data", "custom/fish", "--data-root", own)
    assert path.stat().st_mtime_ns > first


def test_a_preview_is_a_picture(cli, own):
    outcome = cli("prepare-data", "custom/fish", "--preview", 2, "--data-root", own)
    assert outcome.code == 0
    with Image.open(own / "prepared/custom/fish/train.preview.png") as picture:
        assert picture.width > 400
        assert len(np.unique(np.asarray(picture))) > 50


@pytest.mark.parametrize("name", ["nothing", "custom/nothing"])
def test_an_unknown_name_is_one_error(cli, tmp_path, name):
    outcome = cli("prepare-data", name, "--data-root", tmp_path)
    assert outcome.code == 1
    assert name in outcome.stderr
    assert "--list" in outcome.stderr


FEW = ("--images", 2, "--val-images", 1, "--test-images", 1, "--workers", 1)


def test_without_a_name_on_an_empty_root_partworld_is_rendered_and_the_next_commands_work(cli, tmp_path, model_folder):
    outcome = cli("prepare-data", "--data-root", tmp_path, *FEW)
    assert outcome.code == 0
    assert [len(Store(tmp_path, "partworld", split)) for split in ("train", "val", "test")] == [2, 1, 1]
    assert "no data set is here: rendering partworld" in outcome.stderr
    assert "cores prepare-data refcoco --data-root" in outcome.stdout  # how to get the rest
    assert "https://www.mapillary.com/dataset/vistas" in outcome.stdout
    command = f"cores eval reasonpart --data partworld --data-root {tmp_path}"
    assert f"cores train --data-root {tmp_path}" in outcome.stderr
    assert command in outcome.stderr
    assert cli(*command.split()[1:], "--model", model_folder, "--protocol", "teacher_forced").code == 0


def test_without_a_name_what_is_here_is_prepared_and_nothing_else(cli, own):
    outcome = cli("prepare-data", "--data-root", own)
    assert outcome.code == 0
    assert len(Store(own, "custom/fish", "train")) == 1
    assert not (own / "partworld").exists()
    assert 'cores train --preset finetune --set "data=[custom/fish]"' in outcome.stderr
    path = own / "prepared/custom/fish/train.arrow"
    first = path.stat().st_mtime_ns
    assert cli("prepare-data", "--data-root", own).code == 0
    assert path.stat().st_mtime_ns == first


def test_without_a_name_splits_that_an_interrupt_left_out_are_rendered(cli, tmp_path):
    cli("prepare-data", "--data-root", tmp_path, *FEW)
    (tmp_path / "partworld/test.json").unlink()
    (tmp_path / "prepared/partworld/val.arrow").unlink()
    (tmp_path / "prepared/partworld/test.arrow").unlink()
    path = tmp_path / "prepared/partworld/train.arrow"
    first = path.stat().st_mtime_ns
    assert cli("prepare-data", "--data-root", tmp_path, *FEW, "--images", 9).code == 0
    assert [len(Store(tmp_path, "partworld", split)) for split in ("train", "val", "test")] == [2, 1, 1]
    assert path.stat().st_mtime_ns == first


def test_without_a_name_partworld_of_another_seed_is_kept(cli, tmp_path):
    cli("prepare-data", "partworld", "--data-root", tmp_path, *FEW, "--seed", 5, "--test-images", 0)
    outcome = cli("prepare-data", "--data-root", tmp_path, *FEW, "--val-images", 40)
    assert outcome.code == 0
    assert len(Store(tmp_path, "partworld", "val")) == 1


def test_without_a_name_a_damaged_set_stops_no_other_and_is_named(cli, own):
    folder = own / "custom/bird"
    folder.mkdir()
    (folder / "train.json").write_text("{")
    outcome = cli("prepare-data", "--data-root", own)
    assert outcome.code == 0
    assert "custom/bird: " in outcome.stderr
    assert len(Store(own, "custom/fish", "train")) == 1


@pytest.mark.parametrize("option", [("--preview", 1), ("--download",), ("--questions", "generate")])
def test_a_check_is_not_combined_with_what_writes(cli, own, option):
    outcome = cli("prepare-data", "custom/fish", "--check", *option, "--data-root", own)
    assert outcome.code == 2
    assert "writes nothing" in outcome.stderr


def test_rendering_no_images_at_all_is_wrong_usage(cli, tmp_path):
    none = ("--images", 0, "--val-images", 0, "--test-images", 0)
    outcome = cli("prepare-data", "partworld", *none, "--data-root", tmp_path)
    assert outcome.code == 2
    assert "all are 0" in outcome.stderr


def test_without_a_name_a_check_writes_nothing(cli, own, tmp_path):
    assert cli("prepare-data", "--check", "--data-root", own).code == 0
    assert not (own / "prepared").exists()
    outcome = cli("prepare-data", "--check", "--data-root", tmp_path / "empty")
    assert outcome.code == 1
    assert not (tmp_path / "empty").exists()


@pytest.mark.parametrize("options", [("--download",), ("--questions", "generate", "--llm", "any")])
def test_downloads_and_questions_need_names(cli, tmp_path, options):
    outcome = cli("prepare-data", "--data-root", tmp_path, *options)
    assert outcome.code == 2
    assert "name the data sets" in outcome.stderr
