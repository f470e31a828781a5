"""ReasonPart: one fixed question per part category, on PartImageNet val and PASCAL-Part val.

The benchmark of CoReS (arXiv:2404.05673, appendix C) was never published; this one follows the paper's description:
2,957 images of PartImageNet and 4,465 of PASCAL-Part, with one question that needs reasoning per part category. The
questions are ours, in `questions/reasonpart.yaml`, with a version that changes with any of them.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from cores_core.data.questions.bank import load_benchmark
from cores_core.data.sources.parts import read_parts
from cores_core.data.sources.reading import WHOLE, Rejections, Share
from cores_core.data.sources.vlparts import read_pascal_part
from cores_core.data.store import Record
from cores_core.sample import Query

HALVES = {"partimagenet": "PartImageNet", "pascal_part": "vlpart/pascal_part"}
"""Its two splits, and the folders of the raw data sets they are built from."""


def read_reasonpart(data_root: Path, folder: str, rejected: Rejections, share: Share = WHOLE) -> Iterator[Record]:
    """Read one split: the parts in the val split of a raw data set, each with its fixed question.

    Args:
        data_root: the folder of all data sets. folder: a value of `HALVES`.
        rejected: collects skipped items. share: which shard of the images to read.

    Raises:
        DataError: the raw data set is missing or damaged.
    """
    half = next(name for name, place in HALVES.items() if place == folder)
    questions = load_benchmark().questions[half]
    if half == "partimagenet":
        records = read_parts(data_root / folder, data_root, "val", rejected, share)
    else:
        records = read_pascal_part(data_root / folder, data_root, "val", rejected, share)
    for record in records:
        regions = []
        for region in record.regions:
            if region.kind != "part":
                continue
            if region.category in questions:
                regions.append(replace(region, queries=(Query(questions[region.category]),)))
            else:
                rejected.add(f"{record.image} {region.category}", "category without a question")
        if regions:
            yield replace(record, regions=tuple(regions))
        else:
            rejected.add(record.image, "image without a region")
