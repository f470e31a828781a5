"""Prepared stores: one memory-mapped Arrow file per data set and split.

A row is one image with its regions. Opening takes no time, processes share memory pages, and row `i` is read in O(1).
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from cores_core.errors import DataError
from cores_core.files import replacing
from cores_core.masks import Rle
from cores_core.sample import Query, Turn

ROWS_PER_BATCH = 256
_QUERY = pa.struct([("text", pa.string()), ("is_sentence", pa.bool_()), ("answer", pa.string())])
_TURN = pa.struct([("question", pa.string()), ("answer", pa.string())])
_REGION = pa.struct(
    [
        ("category", pa.string()),
        ("kind", pa.string()),
        ("mask", pa.string()),
        ("ignore", pa.string()),
        ("queries", pa.list_(_QUERY)),
        ("source", pa.string()),
        ("instances", pa.string()),
    ]
)
_SCHEMA = pa.schema(
    [
        ("image", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("regions", pa.list_(_REGION)),
        ("dialogue", pa.list_(_TURN)),
    ]
)


@dataclass(frozen=True)
class Region:
    """One target in an image with its queries.

    Attributes:
        category: e.g. "Fish Tail".
        kind: "part" or "object".
        mask: its pixels. ignore: pixels excluded from losses and scores, or None.
        queries: at least one; evaluation uses the first unless it asks all.
        source: ids in the raw data set.
        instances: the objects whose union is the mask, if the data set has them apart; else empty.
    """

    category: str
    kind: str
    mask: Rle
    ignore: Rle | None
    queries: tuple[Query, ...]
    source: str
    instances: tuple[Rle, ...] = ()


@dataclass(frozen=True)
class Record:
    """One image: its path relative to the data root, its (height, width), its regions; or a text conversation."""

    image: str
    size_hw: tuple[int, int]
    regions: tuple[Region, ...]
    dialogue: tuple[Turn, ...] = ()


class Store:
    """A prepared data set and split, read row by row from a memory map."""

    def __init__(self, data_root: Path, name: str, split: str) -> None:
        """Open a prepared split.

        Raises:
            DataError: it is not prepared, prepared by another version, or the file is damaged.
        """
        self.data_root = data_root
        self.name = name
        self.split = split
        path = store_path(data_root, name, split)
        hint = f"prepare it with: cores prepare-data {name} --data-root {data_root}"
        if not path.is_file():
            raise DataError(f"`{name}` is not prepared, no such file: {path}", hint=hint)
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            if reader.schema != _SCHEMA:
                raise DataError(f"prepared by another version of cores: {path}", hint=hint)
            self._batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        except pa.ArrowInvalid as error:
            raise DataError(f"damaged prepared store: {path}", hint=hint) from error
        self._length: int = sum(batch.num_rows for batch in self._batches)

    def __reduce__(self) -> tuple[type["Store"], tuple[Path, str, str]]:
        return Store, (self.data_root, self.name, self.split)  # unpickling maps the file again

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))

    def image_names(self) -> list[str]:
        """Paths of all images relative to the data root, in order."""
        return [name for batch in self._batches for name in batch.column("image").to_pylist()]

    def categories(self) -> dict[str, str]:
        """Kind of every category by name, in alphabetical order; reads only these two columns."""
        found: dict[str, str] = {}
        for batch in self._batches:
            regions = batch.column("regions").flatten()
            names = pa.Table.from_arrays([regions.field("category"), regions.field("kind")], names=["name", "kind"])
            for row in names.group_by(["name", "kind"]).aggregate([]).to_pylist():
                found[row["name"]] = row["kind"]
        return dict(sorted(found.items()))

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < self._length:
            raise IndexError(index)
        batch = self._batches[index // ROWS_PER_BATCH]
        return _record(batch.slice(index % ROWS_PER_BATCH, 1).to_pylist()[0])

    @property
    def seed(self) -> int | None:
        """The seed of a rendered data set; None for photographs."""
        report = report_path(self.data_root, self.name)
        seed: int | None = json.loads(report.read_text(encoding="utf-8")).get("seed") if report.is_file() else None
        return seed

    def image_path(self, record: Record) -> Path:
        """Path of a record's image."""
        return self.data_root / record.image


def find_stores(data_root: Path) -> list[Store]:
    """All prepared stores under a data root, in alphabetical order."""
    folder = data_root / "prepared"
    paths = sorted(path for path in folder.rglob("*.arrow") if not any(p.startswith(".") for p in path.parts))
    return [Store(data_root, path.parent.relative_to(folder).as_posix(), path.stem) for path in paths]


def store_path(data_root: Path, name: str, split: str) -> Path:
    """Path of a prepared store."""
    return data_root / "prepared" / name / f"{split}.arrow"


def report_path(data_root: Path, name: str) -> Path:
    """Path of the report of a prepared data set."""
    return data_root / "prepared" / name / "report.json"


def save_store(records: Iterable[Record], path: Path) -> int:
    """Write records to a store, atomically. Returns their number."""
    count = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        replacing(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, _SCHEMA) as writer,
    ):
        rows: list[dict[str, Any]] = []
        for record in records:
            rows.append(_row(record))
            count += 1
            if len(rows) == ROWS_PER_BATCH:
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=_SCHEMA))
                rows = []
        if rows:
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=_SCHEMA))
    return count


def _row(record: Record) -> dict[str, Any]:
    regions = [
        {
            "category": region.category,
            "kind": region.kind,
            "mask": json.dumps(region.mask),
            "ignore": None if region.ignore is None else json.dumps(region.ignore),
            "queries": [asdict(query) for query in region.queries],
            "source": region.source,
            "instances": json.dumps(region.instances),
        }
        for region in record.regions
    ]
    height, width = record.size_hw
    dialogue = [{"question": turn.question, "answer": turn.answer} for turn in record.dialogue]
    return {"image": record.image, "height": height, "width": width, "regions": regions, "dialogue": dialogue}


def _record(row: dict[str, Any]) -> Record:
    regions = tuple(
        Region(
            category=entry["category"],
            kind=entry["kind"],
            mask=json.loads(entry["mask"]),
            ignore=None if entry["ignore"] is None else json.loads(entry["ignore"]),
            queries=tuple(Query(**query) for query in entry["queries"]),
            source=entry["source"],
            instances=tuple(json.loads(entry["instances"])),
        )
        for entry in row["regions"]
    )
    dialogue = tuple(Turn(**turn, segments=False) for turn in row["dialogue"])
    return Record(row["image"], (row["height"], row["width"]), regions, dialogue)
