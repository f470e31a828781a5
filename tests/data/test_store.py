"""A prepared store gives back, row by row, what was written."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from cores_core.data import store as store_module
from cores_core.data.store import Record, Region, Store, save_store, store_path
from cores_core.errors import DataError
from cores_core.masks import encode_rle
from cores_core.sample import Query


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    """Ten rows in batches of four."""
    monkeypatch.setattr(store_module, "ROWS_PER_BATCH", 4)
    return [_record(number) for number in range(10)]


def test_rows_equal_what_was_written_in_any_order(tmp_path: Path, records: list[Record]) -> None:
    store = _write(tmp_path, records)
    assert len(store) == 10
    for index in np.random.default_rng(0).permutation(10):
        assert store[int(index)] == records[index]
    assert list(store) == records


@pytest.mark.parametrize("index", [-1, 10, 1000])
def test_there_is_no_row_outside(tmp_path: Path, records: list[Record], index: int) -> None:
    with pytest.raises(IndexError):
        _write(tmp_path, records)[index]


def test_a_row_is_read_without_the_others(
    tmp_path: Path, records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, parsed = _write(tmp_path, records), []
    parse = store_module._record
    monkeypatch.setattr(store_module, "_record", lambda row: parsed.append(row) or parse(row))
    assert store[7] == records[7]
    assert len(parsed) == 1


def test_an_empty_store_has_no_rows(tmp_path: Path) -> None:
    assert len(_write(tmp_path, [])) == 0


def test_another_process_gets_the_path_and_not_the_rows(tmp_path: Path, records: list[Record]) -> None:
    store = _write(tmp_path, records)
    sent = pickle.dumps(store)
    assert len(sent) < 500
    assert list(pickle.loads(sent)) == records


def test_image_paths_are_below_the_data_root(tmp_path: Path, records: list[Record]) -> None:
    store = _write(tmp_path, records)
    assert store.image_path(records[3]) == tmp_path / "images/3.jpg"


def test_writing_tells_how_many_there_were(tmp_path: Path, records: list[Record]) -> None:
    assert save_store(iter(records), tmp_path / "a.arrow") == 10


def test_an_interrupted_writing_leaves_the_old_store(tmp_path: Path, records: list[Record]) -> None:
    store = _write(tmp_path, records[:2])

    def interrupted() -> object:
        yield from records[:5]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_store(interrupted(), store_path(tmp_path, "things", "train"))
    assert list(Store(tmp_path, "things", "train")) == list(store)
    assert [path.name for path in store_path(tmp_path, "things", "train").parent.iterdir()] == ["train.arrow"]


def test_a_missing_store_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not prepared") as caught:
        Store(tmp_path, "partworld", "train")
    assert "cores prepare-data partworld" in str(caught.value.hint)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 0.999])
def test_a_cut_off_file_is_refused(tmp_path: Path, records: list[Record], kept: float) -> None:
    _write(tmp_path, records)
    path = store_path(tmp_path, "things", "train")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(DataError, match="damaged"):
        Store(tmp_path, "things", "train")


@pytest.mark.parametrize("content", [b"hello", b"\x00" * 5000, b"ARROW1\x00\x00" + b"\x07" * 5000 + b"ARROW1"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    path = store_path(tmp_path, "things", "train")
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        Store(tmp_path, "things", "train")


def test_the_prepared_partworld_has_a_report(partworld_root: Path) -> None:
    report = json.loads((partworld_root / "prepared/partworld/report.json").read_text())
    for split, images in (("train", 6), ("val", 3), ("test", 3)):
        store = Store(partworld_root, "partworld", split)
        assert report["splits"][split]["images"] == len(store) == images
        assert report["splits"][split]["regions"] == sum(len(record.regions) for record in store)
        assert all(store.image_path(record).is_file() for record in store)


def _write(root: Path, records: list[Record]) -> Store:
    save_store(records, store_path(root, "things", "train"))
    return Store(root, "things", "train")


def _record(number: int) -> Record:
    mask = np.arange(12).reshape(3, 4) < number
    regions = tuple(
        Region(
            category=f"Fish {part}",
            kind="part",
            mask=encode_rle(mask),
            ignore=encode_rle(~mask) if number % 2 else None,
            queries=(Query(f"Where is „{part}“, number {number}?"), Query(part, is_sentence=False)),
            source=f"{number},{number + 1}",
        )
        for part in ("Tail", "Head")[: number % 3]
    )
    return Record(image=f"images/{number}.jpg", size_hw=(3, 4), regions=regions)


def test_its_categories_are_those_of_its_regions(partworld_root: Path) -> None:
    store = Store(partworld_root, "partworld", "train")
    expected = {region.category: region.kind for record in store for region in record.regions}
    assert store.categories() == dict(sorted(expected.items()))
    assert list(store.categories()) == sorted(expected)
