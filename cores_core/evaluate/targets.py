"""Queries of benchmarks with their ground truth."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cores_core.data.store import Record, Region, Store
from cores_core.evaluate.benchmarks import Asked, Benchmark
from cores_core.masks import Rle
from cores_core.sample import Query


@dataclass(frozen=True)
class Target:
    """One query with its ground truth.

    Attributes:
        id: store, split, and indices of image, region and query: "reasonseg/val/12.0.0".
        image: its path relative to the data root.
        category: category of the target, or "".
        question, is_sentence: the query's text; a sentence (long) or a phrase (short).
        target, ignore: ground truth mask, and ignored pixels (None for none).
        instances: the objects of the target, if the data set has them apart; else empty.
    """

    id: str
    image: str
    category: str
    question: str
    is_sentence: bool
    target: Rle
    ignore: Rle | None
    instances: tuple[Rle, ...] = ()


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
            instances=region.instances,
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
