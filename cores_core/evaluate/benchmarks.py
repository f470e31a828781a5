"""The table of benchmarks: data sets, which queries are asked, and which scores are reported.

ReasonSeg asks the first text of each image (as in the releases), ReasonPart the fixed question of each part category,
part data sets their first phrase, and referring data sets all expressions. Where several objects answer a question, the
mask is their union (StAR, arXiv:2603.14382), and AP counts them apart. Must not import slow libraries: the command
line reads this file for its help.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Asked = Literal["first", "phrase", "all"]
"""Which queries of a region are asked: its first one, its first noun phrase, or all."""

_SIZES = ("ciou_small", "ciou_medium", "ciou_large")
_PRECISION = ("precision_0.5", "precision_0.6", "precision_0.7", "precision_0.8", "precision_0.9")


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        title: its name in tables and reports.
        summary: its task and scores, in one line for the command's help.
        data: allowed splits by data set, the default first in both. Empty: data sets of no other benchmark.
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
_SINGLE_SPLIT = ("test", "train", "val")
"""Names that the single split of a hub data set may have, where it is not published."""
_REASONSEG = {
    "reasonseg": ("val", "test"),
    "hub/Ricky06662/ReasonSeg_val": ("test",),
    "hub/Ricky06662/ReasonSeg_test": ("test",),
}
_REASONSEG_SCORES = ("giou", "ciou", *_SIZES, "giou_short", "ciou_short", "giou_long", "ciou_long")
_AP_SCORES = ("ap_50", "ap")

BENCHMARKS: Mapping[str, Benchmark] = MappingProxyType(
    {
        "reasonseg": Benchmark(
            title="ReasonSeg",
            summary="ReasonSeg: questions that need reasoning, the first text of each image. gIoU and cIoU.",
            data=_REASONSEG,
            kinds=("object",),
            asked="first",
            scores=_REASONSEG_SCORES,
        ),
        "reasonseg-all": Benchmark(
            title="ReasonSeg, all texts",
            summary="ReasonSeg: all texts of each image, not only the first. gIoU and cIoU, also by length.",
            data=_REASONSEG,
            kinds=("object",),
            asked="all",
            scores=_REASONSEG_SCORES,
        ),
        "reasonseg-r": Benchmark(
            title="ReasonSeg-R",
            summary="ReasonSeg-R: ReasonSeg test with corrected annotations. gIoU and cIoU.",
            data={"hub/sj9909/ReasonSeg_refine": _SINGLE_SPLIT},
            kinds=("object",),
            asked="all",
            scores=_REASONSEG_SCORES,
        ),
        "reasonseg-x": Benchmark(
            title="ReasonSeg-X",
            summary="ReasonSeg-X: questions grouped by type of reasoning; mIoU is over the types. gIoU and cIoU.",
            data={"hub/sj9909/ReasonSegX_test": _SINGLE_SPLIT, "hub/sj9909/ReasonSegX_val": _SINGLE_SPLIT},
            kinds=("object",),
            asked="all",
            scores=("giou", "ciou", *_SIZES, "miou"),
        ),
        "instructpart": Benchmark(
            title="InstructPart",
            summary="InstructPart: instructions by people that refer to a part of an object. gIoU, cIoU, Pr@X.",
            data={"instructpart": ("test",)},
            kinds=("part",),
            asked="first",
            scores=("giou", "ciou", *_PRECISION, *_SIZES, "miou"),
        ),
        "instructpart-names": Benchmark(
            title="InstructPart, names of parts",
            summary="InstructPart: the part named directly, without reasoning. gIoU, cIoU, Pr@X.",
            data={"instructpart": ("test",)},
            kinds=("part",),
            asked="phrase",
            scores=("giou", "ciou", *_PRECISION, *_SIZES, "miou"),
        ),
        "muse": Benchmark(
            title="MUSE",
            summary="MUSE: questions about several objects; the target is their union. gIoU, cIoU, AP of instances.",
            data={
                "muse": ("val",),
                "hub/sj9909/MUSE_val": _SINGLE_SPLIT,
                "hub/sj9909/MUSE_test_few": _SINGLE_SPLIT,
                "hub/sj9909/MUSE_test_many": _SINGLE_SPLIT,
            },
            kinds=("object",),
            asked="all",
            scores=("giou", "ciou", *_SIZES, *_AP_SCORES),
        ),
        "mmr": Benchmark(
            title="MMR",
            summary="MMR: questions about several objects and parts, the union of all targets. gIoU, cIoU, AP.",
            data={
                "mmr": ("val", "test_obj", "test_part", "test_mixed"),
                "hub/sj9909/MMR_val": _SINGLE_SPLIT,
                "hub/sj9909/MMR_test_obj": _SINGLE_SPLIT,
                "hub/sj9909/MMR_test_part": _SINGLE_SPLIT,
                "hub/sj9909/MMR_test_mixed": _SINGLE_SPLIT,
            },
            kinds=("object",),
            asked="all",
            scores=("giou", "ciou", *_SIZES, *_AP_SCORES),
        ),
        "gseval": Benchmark(
            title="GSEval",
            summary="GSEval (GroundingSuite): descriptions of stuff, parts, several or single objects. gIoU by class.",
            data={"gseval": ("test",)},
            kinds=("object", "part"),
            asked="all",
            scores=("giou", "ciou", *_SIZES, "miou"),
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
