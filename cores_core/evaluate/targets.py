"""What a benchmark asks: one question about one image, and the mask that answers it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cores_core.data.store import Record, Region, Store
from cores_core.evaluate.benchmarks import Asked, Benchmark
from cores_core.masks import Rle
from cores_core.sample import Query


@dataclass(frozen=True)
class Target:
    """One query and its truth.

    Attributes:
        id: store, split, and the numbers of image, region and query there: "reasonseg/val/12.0.0".
        image: its path relative to the data root.
        category: what the target is, if that is known.
        question, is_sentence: what is asked; a sentence (long) or a phrase (short).
        target, ignore: the truth, and pixels that count nowhere (None for none).
    """

    id: str
    image: str
    category: str
    question: str
    is_sentence: bool
    target: Rle
    ignore: Rle | None


def list_targets(store: Store, index: int, benchmark: Benchmark) -> list[Target]:
    """All that a benchmark asks of one image of a store, by the image's number."""
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
