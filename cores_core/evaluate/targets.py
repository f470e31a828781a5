"""Queries of benchmarks with their ground truth."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cores_core.data.absent import draw_absent
from cores_core.data.store import Record, Region, Store
from cores_core.evaluate.benchmarks import Asked, Benchmark
from cores_core.masks import Rle, encode_rle, rle_area
from cores_core.sample import Query


@dataclass(frozen=True)
class Target:
    """One query with its ground truth.

    Attributes:
        id: store, split, and indices of image, region and query: "reasonseg/val/12.0.0"; "reasonseg/val/12.absent.0" of
            a query without a target, see `list_targets`.
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

    @property
    def is_absent(self) -> bool:
        """Whether the image shows nothing of what is asked for."""
        return not rle_area(self.target)


def list_targets(store: Store, index: int, benchmark: Benchmark, no_target: int = 0) -> list[Target]:
    """All queries of a benchmark about one image of a store, given by its row index.

    Args:
        no_target: number of further queries, about things that the image does not show. They are drawn from other
            images (see `draw_absent`), depend on the index alone, and have an empty mask.
    """
    record = store[index]
    return _list_present(store, index, record, benchmark) + _list_absent(store, index, record, benchmark, no_target)


def _list_present(store: Store, index: int, record: Record, benchmark: Benchmark) -> list[Target]:
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


def _list_absent(store: Store, index: int, record: Record, benchmark: Benchmark, count: int) -> list[Target]:
    found: list[Target] = []
    for number in range(count):
        region = draw_absent(store, record, np.random.default_rng((index, number)), benchmark.kinds)
        if region is not None:
            _, query = _queries(region, benchmark.asked)[0]
            found.append(
                Target(
                    id=f"{store.name}/{store.split}/{index}.absent.{number}",
                    image=record.image,
                    category="",
                    question=query.text,
                    is_sentence=query.is_sentence,
                    target=encode_rle(np.zeros(record.size_hw, dtype=bool)),
                    ignore=None,
                )
            )
    return found


def _regions(record: Record, kinds: Sequence[str]) -> Iterator[tuple[int, Region]]:
    return ((number, region) for number, region in enumerate(record.regions) if region.kind in kinds)


def _queries(region: Region, asked: Asked) -> list[tuple[int, Query]]:
    queries = list(enumerate(region.queries))
    if asked == "phrase":
        queries = [(number, query) for number, query in queries if not query.is_sentence] or queries
    return queries if asked == "all" else queries[:1]
