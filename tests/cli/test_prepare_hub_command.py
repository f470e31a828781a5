"""`cores prepare-data hub/OWNER/NAME`: parquet data sets of the hub, and of a folder, end to end."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hub_server import HubServer, direct, serve_hub
from huggingface_hub import constants
from parquet_files import SIZE_HW, photo, reasonseg_rows, square, write
from PIL import Image

from cores_core.data.parquet import convert
from cores_core.data.store import Store
from cores_core.masks import decode_rle, encode_rle

NAME = "Ricky06662/ReasonSeg_val"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A server with five rows of ReasonSeg in two parquet files, and huggingface_hub directed to it."""
    with serve_hub() as server:
        direct(monkeypatch, server.url, tmp_path / "cache")
        rows, folder = reasonseg_rows(5), tmp_path / "made"
        for number, part in enumerate((slice(0, 3), slice(3, 5))):
            name = f"data/test-{number:05}-of-00002.parquet"
            write({column: values[part] for column, values in rows.items()}, folder / name)
        (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
        server.put(f"datasets/{NAME}", folder)
        yield server


def test_reasonseg_of_the_hub_is_read_by_its_known_columns_and_scored(cli, hub, tmp_path, model_folder):
    root = tmp_path / "data"
    outcome = cli("prepare-data", f"hub/{NAME}", "--split", "test", "--data-root", root, "--preview", 2)
    assert outcome.code == 0
    assert "known" in outcome.stdout
    assert "guessed" not in outcome.stdout
    store = Store(root, f"hub/{NAME}", "test")
    assert len(store) == 5
    for index, record in enumerate(store):
        region = record.regions[0]
        assert Path(record.image).name.startswith(f"id_{index}-")
        assert (root / record.image).read_bytes() == photo(index)["bytes"]
        assert np.array_equal(decode_rle(region.mask), square(index % 3, index % 5))
        assert [(query.text, query.is_sentence) for query in region.queries] == [
            (f"Which part is number {index}?", True) if index % 2 else (f"part {index}", False)
        ]
    with Image.open(root / f"prepared/hub/{NAME}/test.preview.png") as picture:
        assert picture.width > 400
    report = json.loads((root / f"prepared/hub/{NAME}/report.json").read_text())
    assert report["splits"]["test"]["expected"] == 200
    scored = cli("eval", "custom", "--data", f"hub/{NAME}", "--split", "test", "--data-root", root, "-m", model_folder)
    assert scored.code == 0
    assert "5 queries of 5 images" in scored.stdout
    assert "Ricky06662" in cli("prepare-data", "--list", "--data-root", root).stdout


def test_a_second_call_needs_no_network(cli, hub, tmp_path):
    root = tmp_path / "data"
    assert cli("prepare-data", f"hub/{NAME}", "--data-root", root).code == 0
    count = len(hub.requests)
    assert cli("prepare-data", f"hub/{NAME}", "--data-root", root).code == 0
    assert cli("prepare-data", "--data-root", root).code == 0
    assert len(hub.requests) == count


def test_a_check_shows_the_columns_and_writes_nothing(cli, hub, tmp_path):
    outcome = cli("prepare-data", f"hub/{NAME}", "--check", "--data-root", tmp_path / "data")
    assert outcome.code == 0
    assert "bool" in outcome.stdout
    assert not (tmp_path / "data").exists()


def test_without_a_network_the_cache_is_used(cli, hub, tmp_path, monkeypatch):
    assert cli("prepare-data", f"hub/{NAME}", "--check", "--data-root", tmp_path).code == 0
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert cli("prepare-data", f"hub/{NAME}", "--data-root", tmp_path).code == 0
    assert len(Store(tmp_path, f"hub/{NAME}", "test")) == 5
    outcome = cli("prepare-data", "hub/someone/other", "--data-root", tmp_path)
    assert outcome.code == 1
    assert "HF_HUB_OFFLINE is set and this data set is not in the cache: someone/other" in outcome.stderr
    assert "--from" in outcome.stderr


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("hub/someone/missing", (), "no such data set on the hub: someone/missing"),
        ("hub/someone", (), "not of the form hub/OWNER/NAME"),
        (f"hub/{NAME}", ("--split", "val"), f"{NAME} has no split val"),
        (f"hub/{NAME}", ("--columns", "mask=nothing"), "no such column: nothing"),
    ],
)
def test_what_is_not_there_is_one_error(cli, hub, tmp_path, name, options, message):
    outcome = cli("prepare-data", name, *options, "--data-root", tmp_path / "data")
    assert outcome.code == 1
    assert message in outcome.stderr
    assert not (tmp_path / "data").exists()


def test_a_gated_data_set_names_its_page(cli, hub, tmp_path):
    hub.repositories[f"datasets/{NAME}"].gate = 403
    outcome = cli("prepare-data", f"hub/{NAME}", "--data-root", tmp_path)
    assert outcome.code == 1
    assert f"{hub.url}/datasets/{NAME}" in outcome.stderr


def test_a_cut_connection_is_resumed_and_nothing_is_lost(cli, hub, tmp_path):
    repository = hub.repositories[f"datasets/{NAME}"]
    repository.cuts, repository.cut_after = 1, 700
    first = cli("prepare-data", f"hub/{NAME}", "--data-root", tmp_path / "data")
    if first.code:  # huggingface_hub gave up: the next call resumes
        assert "the connection to the hub broke" in first.stderr
        assert cli("prepare-data", f"hub/{NAME}", "--data-root", tmp_path / "data").code == 0
    assert len(Store(tmp_path / "data", f"hub/{NAME}", "test")) == 5


def test_a_benchmark_finds_the_only_split_of_a_set_of_the_hub(cli, tmp_path, model_folder):
    columns = reasonseg_rows(2) | {"reasoning_type": ["spatial", "commonsense"]}
    write(columns, tmp_path / "files/data/train-00000-of-00001.parquet")
    name = "hub/sj9909/ReasonSegX_test"
    assert cli("prepare-data", name, "--from", tmp_path / "files", "--data-root", tmp_path).code == 0
    outcome = cli("eval", "reasonseg-x", "--data-root", tmp_path, "-m", model_folder)
    assert outcome.code == 0
    assert "spatial" in outcome.stdout
    assert f"{name}/train" in outcome.stdout


def test_the_options_are_for_the_hub_alone(cli, tmp_path):
    outcome = cli("prepare-data", "partworld", "--split", "test", "--data-root", tmp_path)
    assert outcome.code == 2
    assert "only for hub/OWNER/NAME" in outcome.stderr


def test_a_folder_is_read_with_given_columns_and_what_is_wrong_is_named(cli, tmp_path):
    masks = [[encode_rle(square(0, 0)), encode_rle(square(2, 4))], [encode_rle(square(1, 1))] * 2, [], None]
    rle = pa.struct([("size", pa.list_(pa.int64())), ("counts", pa.string())])
    columns = {
        "img": [photo(number)["bytes"] for number in (1, 1, 2, 3)],
        "ask": [["first?", "second?"], ["all of them"], ["none?"], [""]],
        "where": pa.array(masks, pa.list_(rle)),
    }
    write(columns, tmp_path / "files/val.parquet")
    root = tmp_path / "data"
    chosen = ("--from", tmp_path / "files", "--columns", "image=img,question=ask,mask=where", "--data-root", root)
    outcome = cli("prepare-data", "hub/me/mine", *chosen)
    assert outcome.code == 0
    assert "left out 1: a question or phrase is empty or not a text (val.parquet:3)" in outcome.stderr
    assert "cores" in cli("prepare-data", "--data-root", root).stderr
    first, second = Store(root, "hub/me/mine", "val")
    assert [region.queries[0].text for region in first.regions] == ["first?", "second?", "all of them"]
    assert np.array_equal(decode_rle(first.regions[1].mask), square(2, 4))
    assert np.array_equal(decode_rle(first.regions[2].mask), square(1, 1))
    assert not decode_rle(second.regions[0].mask).any()


def test_a_path_in_a_folder_is_an_image_of_it(cli, tmp_path):
    folder = tmp_path / "files"
    (folder / "images").mkdir(parents=True)
    (folder / "images/a.png").write_bytes(photo(4)["bytes"])
    columns = {"file_name": ["images/a.png", "../a.png", "images/b.png"], "phrase": ["it"] * 3}
    write(
        {**columns, "segmentation": [json.dumps(encode_rle(square(1, 2)))] * 3}, folder / "train-00000-of-00001.parquet"
    )
    outcome = cli("prepare-data", "hub/me/mine", "--from", folder, "--data-root", tmp_path)
    assert outcome.code == 0
    assert "a path outside of the data set" in outcome.stderr
    assert "a file that its row names is missing" in outcome.stderr
    (record,) = Store(tmp_path, "hub/me/mine", "train")
    assert record.size_hw == SIZE_HW


def test_an_interrupted_import_resumes_after_its_finished_row_groups(cli, hub, tmp_path, monkeypatch):
    read, groups = convert._read_group, []

    def stop_in_the_second(files, path, group, reader, rejected):
        groups.append((path, group))
        if len(groups) == 2:
            raise KeyboardInterrupt
        return read(files, path, group, reader, rejected)

    monkeypatch.setattr(convert, "_read_group", stop_in_the_second)
    outcome = cli("prepare-data", f"hub/{NAME}", "--data-root", tmp_path)
    assert outcome.code != 0
    assert not (tmp_path / f"hub/{NAME}/test.jsonl").exists()
    assert cli("prepare-data", f"hub/{NAME}", "--data-root", tmp_path).code == 0
    assert groups[2:] == [("data/test-00000-of-00002.parquet", 1), ("data/test-00001-of-00002.parquet", 0)]
    assert len(Store(tmp_path, f"hub/{NAME}", "test")) == 5
    assert not list((tmp_path / f"hub/{NAME}/import").glob(".*"))


def test_a_split_of_which_files_are_missing_is_one_error(cli, tmp_path):
    write(reasonseg_rows(2), tmp_path / "files/data/test-00000-of-00003.parquet")
    outcome = cli("prepare-data", "hub/me/mine", "--from", tmp_path / "files", "--data-root", tmp_path)
    assert outcome.code == 1
    assert "only 1 of 3 files of the split test are in" in outcome.stderr


def test_a_damaged_file_is_one_error(cli, tmp_path):
    path = write(reasonseg_rows(2), tmp_path / "files/test.parquet")
    path.write_bytes(path.read_bytes()[:-20])
    outcome = cli("prepare-data", "hub/me/mine", "--from", tmp_path / "files", "--data-root", tmp_path)
    assert outcome.code == 1
    assert "not a parquet file, or damaged" in outcome.stderr
