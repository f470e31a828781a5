"""The table of benchmarks: data sets, which queries are asked, and which scores are reported.

ReasonSeg asks the first text of each image (as in the releases), ReasonPart the fixed question of each part category,
part data sets their first phrase, and referring data sets all expressions.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from cores_core.data.store import Record, Region, Store
from cores_core.evaluate.targets import Target
from cores_core.sample import Query

Asked = Literal["first", "phrase", "all"]
"""Which queries of a region are asked: its first one, its first phrase, or all."""

_SIZES = ("ciou_small", "ciou_medium", "ciou_large")
_PRECISION = ("precision_0.5", "precision_0.6", "precision_0.7", "precision_0.8", "precision_0.9")


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        title: displayed name.
        data: splits by data set; the first data set is the default. Empty: all other data sets.
        kinds: kinds of regions that are asked about ("part", "object").
        asked: which of their queries.
        scores: names of the scores to display, in order.
    """

    title: str
    data: Mapping[str, tuple[str, ...]]
    kinds: tuple[str, ...]
    asked: Asked
    scores: tuple[str, ...]


_UNC = ("val", "testA", "testB")

BENCHMARKS: Mapping[str, Benchmark] = MappingProxyType(
    {
        "reasonseg": Benchmark(
            title="ReasonSeg",
            data={"reasonseg": ("val", "test")},
            kinds=("object",),
            asked="first",
            scores=("giou", "ciou", *_SIZES, "giou_short", "ciou_short", "giou_long", "ciou_long"),
        ),
        "reasonpart": Benchmark(
            title="ReasonPart",
            data={"reasonpart": ("partimagenet", "pascal_part"), "partworld": ("test", "val")},
            kinds=("part",),
            asked="first",
            scores=("giou", "ciou", *_SIZES, "miou"),
        ),
        "parts": Benchmark(
            title="Part segmentation",
            data={
                "partimagenet": ("val",),
                "pascal_part": ("val",),
                "paco_lvis": ("val",),
                "partworld": ("test", "val"),
            },
            kinds=("part",),
            asked="phrase",
            scores=("miou", "giou", "ciou", *_SIZES),
        ),
        "referring": Benchmark(
            title="Referring segmentation",
            data={
                "refcoco": _UNC,
                "refcoco+": _UNC,
                "refcocog": ("val", "test"),
                "refclef": _UNC,
                "grefcoco": _UNC,
            },
            kinds=("object",),
            asked="all",
            scores=("ciou", "giou", *_PRECISION, "n_acc", "t_acc"),
        ),
        "custom": Benchmark(
            title="Your own data",
            data={},
            kinds=("part", "object"),
            asked="all",
            scores=("giou", "ciou", *_SIZES, "giou_short", "giou_long", "miou"),
        ),
    }
)


def benchmark_of(data: str) -> str:
    """Name of the first benchmark for a data set; "custom" if there is none."""
    return next((name for name, benchmark in BENCHMARKS.items() if data in benchmark.data), "custom")


def list_targets(store: Store, index: int, benchmark: Benchmark) -> list[Target]:
    """All queries of a benchmark about one image of a store, given by its row index."""
    record = store[index]
    return [
        Target(
            id=f"{store.name}/{store.split}/{index}.{number}.{asked}",
            image=record.image,
            category=region.category,
            question=query.text,
            is_sentence=query.is_sentence,
            target=region.mask,
            ignore=region.ignore,
        )
        for number, region in _regions(record, benchmark.kinds)
        for asked, query in _queries(region, benchmark.asked)
    ]


def _regions(record: Record, kinds: Sequence[str]) -> Iterator[tuple[int, Region]]:
    return ((number, region) for number, region in enumerate(record.regions) if region.kind in kinds)


def _queries(region: Region, asked: Asked) -> list[tuple[int, Query]]:
    queries = list(enumerate(region.queries))
    if asked == "phrase":
        queries = [(number, query) for number, query in queries if not query.is_sentence] or queries
    return queries if asked == "all" else queries[:1]
