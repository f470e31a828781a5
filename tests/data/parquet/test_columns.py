"""Which columns are guessed, and what is said if one cannot be."""

import pyarrow as pa
import pytest
from parquet_files import IMAGE

from cores_core.data.parquet.columns import map_columns, parse_columns
from cores_core.errors import DataError

BOOLS = pa.list_(pa.list_(pa.bool_()))
RLE = pa.struct([("size", pa.list_(pa.int64())), ("counts", pa.string())])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"image": IMAGE, "text": pa.string(), "mask": BOOLS, "image_id": pa.string(), "ann_id": pa.string()},
            "image=image,mask=mask,text=text,id=image_id",
        ),
        (
            {"Img": pa.binary(), "questions": pa.list_(pa.string()), "masks": pa.list_(RLE), "category": pa.string()},
            "image=Img,mask=masks,question=questions,category=category",
        ),
        (
            {"file_name": pa.string(), "caption": pa.string(), "segmentation": RLE, "id": pa.int64()},
            "image=file_name,mask=segmentation,phrase=caption,id=id",
        ),
        (
            {"rendering": IMAGE, "problem": pa.string(), "mask": IMAGE},
            "image=rendering,mask=mask,question=problem",
        ),
    ],
)
def test_usual_names_with_a_fitting_type_are_guessed(fields: dict[str, pa.DataType], expected: str) -> None:
    assert str(map_columns(pa.schema(fields.items()), {})) == expected


def test_given_columns_come_first_and_end_the_guessing_of_texts() -> None:
    schema = pa.schema({"image": IMAGE, "text": pa.string(), "note": pa.string(), "mask": BOOLS}.items())
    assert str(map_columns(schema, parse_columns("question=note, mask=none"))) == "image=image,mask=none,question=note"


def test_a_field_of_a_struct_is_named_with_a_dot() -> None:
    objects = pa.struct([("segmentation", pa.list_(RLE)), ("name", pa.string())])
    schema = pa.schema({"image": IMAGE, "query": pa.string(), "objects": objects}.items())
    assert map_columns(schema, {"mask": "objects.segmentation"}).mask == "objects.segmentation"
    with pytest.raises(DataError, match=r"no such column: objects.nothing"):
        map_columns(schema, {"mask": "objects.nothing"})


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        ("image", "not of the form ROLE=COLUMN: image", "the roles are image, mask"),
        ("qestion=text", "unknown role: qestion", "did you mean question?"),
        ("image=img", "no such column: img", "the columns are image, text, mask"),
        ("text=mask2", "no such column: mask2", "the columns are"),
    ],
)
def test_a_wrong_column_is_one_error(given: str, message: str, hint: str) -> None:
    schema = pa.schema({"image": IMAGE, "text": pa.string(), "mask": BOOLS}.items())
    with pytest.raises(DataError) as caught:
        map_columns(schema, parse_columns(given))
    assert caught.value.message == message
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text": pa.string(), "mask": BOOLS}, r"no column seems to hold the image: text \(string\)"),
        ({"image": IMAGE, "text": pa.string()}, "no column seems to hold the mask"),
        ({"image": IMAGE, "mask": BOOLS}, "no column with questions or phrases"),
    ],
)
def test_a_role_that_cannot_be_guessed_is_one_error(fields: dict[str, pa.DataType], message: str) -> None:
    with pytest.raises(DataError, match=message):
        map_columns(pa.schema(fields.items()), {})
