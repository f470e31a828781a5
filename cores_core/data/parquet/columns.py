"""Which columns of a parquet data set hold images, texts and masks: given by the user, or guessed from the schema.

    image      struct{bytes, path} (the hub's Image feature), encoded bytes, or a path in the data set
    question   a sentence or a list of them;  phrase: noun phrases;  text: a question if it ends in . ? ! else a phrase
    mask       see `masks.py`; `none`: no row has a target
    category   a name, for scores by category
    id         used in the names of image files, by which predictions of other systems are matched

A column inside a struct is written with a dot: `mask=objects.segmentation`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches

import pyarrow as pa

from cores_core.errors import DataError

NONE = "none"
"""Value of `mask` if no row has a target."""
_NAMES: Mapping[str, tuple[str, ...]] = {
    "image": ("image", "img", "picture", "photo", "image_bytes", "image_path", "file_name", "jpg", "png"),
    "question": ("questions", "question", "queries", "query", "problem", "instructions", "instruction"),
    "phrase": ("phrases", "phrase", "expressions", "expression", "caption", "captions", "referring_expression"),
    "text": ("text", "texts", "sentence", "sentences", "prompt", "ref", "refs"),
    "mask": (
        "masks",
        "mask",
        "segmentations",
        "segmentation",
        "gt_mask",
        "rle",
        "rles",
        "polygons",
        "polygon",
        "label",
    ),
    "category": ("category", "category_name", "class_name", "reasoning_type"),
    "id": ("image_id", "file_name", "id"),
}
"""Usual names of columns by role, the most specific first."""
_TEXT_ROLES = ("question", "phrase", "text")


@dataclass(frozen=True)
class ColumnMap:
    """Column of each role, None for those that are not used; see the module's docstring.

    Raises:
        DataError: there is no text.
    """

    image: str
    mask: str
    question: str | None = None
    phrase: str | None = None
    text: str | None = None
    category: str | None = None
    id: str | None = None

    def __post_init__(self) -> None:
        if not any(getattr(self, role) for role in _TEXT_ROLES):
            raise DataError(
                "no column with questions or phrases", hint="name one: --columns question=COLUMN, phrase= or text="
            )

    @property
    def used(self) -> Mapping[str, str]:
        """Columns by role."""
        return {role: name for role, name in asdict(self).items() if name is not None}

    def __str__(self) -> str:
        return ",".join(f"{role}={name}" for role, name in self.used.items())


def parse_columns(given: str) -> dict[str, str]:
    """Parse `image=img,question=text,mask=mask`.

    Raises:
        DataError: it has another form, or an unknown role.
    """
    known = [field.name for field in fields(ColumnMap)]
    found = {}
    for pair in given.split(","):
        role, is_pair, name = (part.strip() for part in pair.partition("="))
        if not (role and is_pair and name):
            raise DataError(f"not of the form ROLE=COLUMN: {pair}", hint=f"the roles are {', '.join(known)}")
        if role not in known:
            meant = get_close_matches(role, known, n=1)
            raise DataError(f"unknown role: {role}", hint=f"did you mean {(meant or known)[0]}?")
        found[role] = name
    return found


def map_columns(schema: pa.Schema, given: Mapping[str, str]) -> ColumnMap:
    """The given columns, and for other roles the columns with a usual name and a fitting type.

    Args:
        given: columns by role. If it has a text role, no other text is guessed.

    Raises:
        DataError: a given column does not exist, or there is none for images, texts or masks.
    """
    for role, name in given.items():
        if not (role == "mask" and name == NONE):
            column_type(schema, name)
    found = dict(given)
    has_text = any(role in given for role in _TEXT_ROLES)
    for role in (field.name for field in fields(ColumnMap)):
        if role not in found and not (has_text and role in _TEXT_ROLES):
            guessed = [name for name in _guesses(schema, role) if name not in found.values()]
            found.update((role, name) for name in guessed[:1])
    for role in ("image", "mask"):
        if role not in found:
            columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
            hint = f"name it: --columns {role}=COLUMN" + (f", or mask={NONE} without targets" if role == "mask" else "")
            raise DataError(f"no column seems to hold the {role}: {columns}", hint=hint)
    return ColumnMap(**found)


def column_type(schema: pa.Schema, name: str) -> pa.DataType:
    """Type of a column, or of a field inside a struct column.

    Raises:
        DataError: there is none.
    """
    first, *inner = name.split(".")
    if schema.get_field_index(first) < 0:
        raise DataError(f"no such column: {name}", hint=f"the columns are {', '.join(schema.names)}")
    kind = schema.field(first).type
    for part in inner:
        if not pa.types.is_struct(kind) or kind.get_field_index(part) < 0:
            raise DataError(f"no such column: {name}", hint=f"{first} is of type {schema.field(first).type}")
        kind = kind.field(part).type
    return kind


def list_depth(kind: pa.DataType) -> tuple[int, pa.DataType]:
    """How many lists are around the values, and the type of these."""
    depth = 0
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind, depth = kind.value_type, depth + 1
    return depth, kind


def is_text(kind: pa.DataType) -> bool:
    """Whether values are texts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_binary(kind: pa.DataType) -> bool:
    """Whether values are bytes."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def is_image(kind: pa.DataType) -> bool:
    """Whether values are of the hub's Image feature: struct{bytes, path}."""
    return bool(pa.types.is_struct(kind)) and kind.get_field_index("bytes") >= 0


def is_rle(kind: pa.DataType) -> bool:
    """Whether values are COCO RLEs: struct{size, counts}."""
    return bool(pa.types.is_struct(kind)) and min(kind.get_field_index(name) for name in ("size", "counts")) >= 0


def _guesses(schema: pa.Schema, role: str) -> Iterator[str]:
    by_name = {name.lower(): name for name in reversed(schema.names)}
    for name in _NAMES[role]:
        if name in by_name and _fits(schema.field(by_name[name]).type, role):
            yield by_name[name]
    if role == "image":
        yield from (field.name for field in schema if is_image(field.type) and field.name.lower() not in _NAMES["mask"])


def _fits(kind: pa.DataType, role: str) -> bool:
    depth, value = list_depth(kind)
    if role == "image":
        return depth == 0 and (is_image(value) or is_binary(value) or is_text(value))
    if role == "mask":
        is_number = pa.types.is_boolean(value) or pa.types.is_integer(value) or pa.types.is_floating(value)
        return is_image(value) or is_rle(value) or is_binary(value) or is_text(value) or (depth > 0 and is_number)
    if role == "id":
        return depth == 0 and bool(is_text(value) or pa.types.is_integer(value))
    return is_text(value) and depth <= (1 if role in _TEXT_ROLES else 0)
