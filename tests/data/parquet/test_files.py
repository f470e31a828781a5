"""Splits by the paths of parquet files."""

import pytest

from cores_core.data.parquet.files import splits_of


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("data/test-00000-of-00002.parquet", "test"),
        ("data/val-00000-of-00001-0a1b2c3d4e5f.parquet", "val"),
        ("default/train/0000.parquet", "train"),
        ("en/testA/0003.parquet", "testA"),
        ("test.parquet", "test"),
        ("data/train_0.parquet", "train"),
        ("part-00000.parquet", "train"),
        ("0000.parquet", "train"),
    ],
)
def test_the_split_is_part_of_the_path(name: str, split: str) -> None:
    assert splits_of([name, "README.md"]) == {split: [name]}
