"""The table of benchmarks: data sets, which queries are asked, and which scores are reported.

ReasonSeg asks the first text of each image (as in the releases), ReasonPart the fixed question of each part category,
part data sets their first phrase, and referring data sets all expressions. Must not import slow libraries: the command
line reads this file for its help.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Asked = Literal["first", "phrase", "all"]
"""Which queries of a region are asked: its first one, its first phrase, or all."""

_SIZES = ("ciou_small", "ciou_medium", "ciou_large")
_PRECISION = ("precision_0.5", "precision_0.6", "precision_0.7", "precision_0.8", "precision_0.9")


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        title: its name in tables and reports.
        summary: its task and scores, in one line for the command's help.
        data: splits by data set; the first data set is the default. Empty: all other data sets.
        kinds: kinds of regions that are asked about ("part", "object").
        asked: which of their queries.
        scores: names of the scores to display, in order.
    """

    title: str
    summary: str
    data: Mapping[str, tuple[str, ...]]
    kinds: tuple[str, ...]
    asked: Asked
    scores: tuple[str, ...]


_UNC = ("val", "testA", "testB")

BENCHMARKS: Mapping[str, Benchmark] = MappingProxyType(
    {
        "reasonseg": Benchmark(
            title="ReasonSeg",
            summary="ReasonSeg: questions that need reasoning, the first text of each image. gIoU and cIoU.",
            data={"reasonseg": ("val", "test")},
            kinds=("object",),
            asked="first",
            scores=("giou", "ciou", *_SIZES, "giou_short", "ciou_short", "giou_long", "ciou_long"),
        ),
        "reasonpart": Benchmark(
            title="ReasonPart",
            summary="ReasonPart: a question that needs reasoning about each part of an object. gIoU, cIoU, mIoU.",
            data={"reasonpart": ("partimagenet", "pascal_part"), "partworld": ("test", "val")},
            kinds=("part",),
            asked="first",
            scores=("giou", "ciou", *_SIZES, "miou"),
        ),
        "parts": Benchmark(
            title="Part segmentation",
            summary="Part segmentation by name (PartImageNet, PASCAL-Part, PACO). mIoU over categories.",
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
            summary="Referring expressions (RefCOCO/+/g, refCLEF, gRefCOCO). cIoU, gIoU, Pr@X, N-acc, T-acc.",
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
            summary="Your own data, custom/<name>: every question about every target.",
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
