"""The table of all data sets: reader, splits with published numbers of images, paths, licence and homepage.

Paths follow LISA's folder layout, which users of such models already have. `{split}` is the split's name on disk.
Counts are numbers of images, from papers and websites of the data sets; None if none is published.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from cores_core.data.parquet.convert import load_import
from cores_core.data.parquet.known import HUB, HUB_SETS
from cores_core.data.sources.custom import find_splits, read_custom
from cores_core.data.sources.gseval import read_gseval
from cores_core.data.sources.instructpart import read_instructpart
from cores_core.data.sources.multi_target import read_multi_target
from cores_core.data.sources.parts import read_parts
from cores_core.data.sources.reading import Rejections, Share
from cores_core.data.sources.reasonpart import HALVES, read_reasonpart
from cores_core.data.sources.reasonseg import read_reasonseg
from cores_core.data.sources.referring import REFERRING_FILES, read_referring
from cores_core.data.sources.semantic import read_ade20k, read_cocostuff, read_mapillary
from cores_core.data.sources.vlparts import read_paco, read_pascal_part
from cores_core.data.sources.vqa import read_vqa
from cores_core.data.store import Record
from cores_core.errors import DataError

Group = Literal["semantic", "parts", "referring", "reasoning", "rendered", "text", "custom"]
Reader = Callable[[Path, str, Rejections, Share], Iterator[Record]]
"""Called as (data root, split on disk, rejections, shard): yields the records of a shard; skipped items go to the
rejections, and annotations that cannot be read are a DataError."""

SMALLEST_RENDERED = 0.004
"""Minimum area of a PartWorld part as a fraction of the image; there is no minimum for photographs."""
CUSTOM = "custom/"
"""Name prefix of users' own data sets."""
LABEL_MAP_PIECES = 32
"""Number of pieces of a folder of label maps: reading them is slow, listing them is fast."""


@dataclass(frozen=True)
class DatasetSpec:
    """One data set.

    Attributes:
        group: training group, by which mixtures are weighted.
        splits: published number of images by split; None if unknown.
        annotations: annotation files or folders; if they change, a split is prepared again.
        images: image folders, relative to the data root; empty if they are not checked.
        licence, homepage: its terms, and where to get it.
        read: its reader, called with the split's name on disk.
        on_disk: split names on disk, where they differ.
        besides: optional files that are also read if they exist.
        pieces: number of resumable pieces per split; None: one per worker, because each piece parses the whole
            annotation file.
    """

    group: Group
    splits: Mapping[str, int | None]
    annotations: tuple[str, ...]
    images: tuple[str, ...]
    licence: str
    homepage: str
    read: Reader
    on_disk: Mapping[str, str] = field(default_factory=dict)
    besides: tuple[str, ...] = ()
    pieces: int | None = None

    def disk_name(self, split: str) -> str:
        """Name of a split in the raw data set."""
        return self.on_disk.get(split, split)

    @property
    def layout(self) -> tuple[str, ...]:
        """Paths to show, relative to the data root, with splits in shell syntax ({train,val})."""
        names = ",".join(map(self.disk_name, self.splits))
        names = f"{{{names}}}" if len(self.splits) > 1 else names
        return tuple(path.replace("{split}", names) for path in (*self.annotations, *self.images))

    def annotation_paths(self, data_root: Path, split: str) -> list[Path]:
        """Annotation files and folders of a split."""
        return [data_root / path.format(split=self.disk_name(split)) for path in self.annotations]

    def paths(self, split: str) -> list[str]:
        """Annotations, then images of a split, relative to the data root."""
        return [path.format(split=self.disk_name(split)) for path in (*self.annotations, *self.images)]

    def missing(self, data_root: Path, split: str) -> list[Path]:
        """Paths of a split that do not exist."""
        return [data_root / path for path in self.paths(split) if not (data_root / path).exists()]


def find_dataset(name: str, data_root: Path) -> DatasetSpec:
    """Find a data set by name.

    `custom/<name>` is a user's own, with a file or folder per split; `hub/<owner>/<name>` one of the hub.

    Raises:
        DataError: the name is unknown, or the data set is not under the data root.
    """
    if name in DATASETS:
        return DATASETS[name]
    if name.startswith(HUB):
        return _find_hub_set(name, data_root)
    places = find_splits(data_root / name) if name.startswith(CUSTOM) else {}
    if not places:
        hint = (
            "`cores prepare-data --list` names all; your own go to custom/<name>/<split>.jsonl (.json) in the data root"
        )
        raise DataError(f"unknown data set: {name}", hint=hint)
    return DatasetSpec(
        group="custom",
        splits=dict.fromkeys(places),
        annotations=(f"{name}/{{split}}",),
        images=(),
        licence="yours",
        homepage="",
        read=lambda root, place, rejected, share: read_custom(root / name / place, root, rejected, share),
        on_disk=places,
    )


def _find_hub_set(name: str, data_root: Path) -> DatasetSpec:
    places = find_splits(data_root / name)
    if not places:
        hint = f"get it with: cores prepare-data {name} --data-root {data_root}"
        raise DataError(f"not under {data_root}: {name}", hint=hint)
    known = HUB_SETS.get(name.removeprefix(HUB))
    return DatasetSpec(
        group="custom" if known is None else "reasoning",
        splits=dict.fromkeys(places, None if known is None else known.rows),
        annotations=(f"{name}/{{split}}",),
        images=(),
        licence="see its page" if known is None else known.licence,
        homepage=f"https://huggingface.co/datasets/{name.removeprefix(HUB)}",
        read=partial(_read_hub_set, name),
        on_disk=places,
    )


def _read_hub_set(name: str, root: Path, place: str, rejected: Rejections, share: Share) -> Iterator[Record]:
    report, once = load_import(root / name, Path(place).stem), share.once(rejected)
    if report is not None:
        once.items += report.left_out
        once.notes += report.notes
    return read_custom(root / name / place, root, rejected, share)


def _read_folder(folder: str, read: Callable[..., Iterator[Record]]) -> Reader:
    return lambda root, split, rejected, share: read(root / folder, root, split, rejected, share)


def _referring(name: str, splits: Mapping[str, int | None], homepage: str) -> DatasetSpec:
    files, folder = REFERRING_FILES[name], f"refer_seg/{name}"
    return DatasetSpec(
        group="referring",
        splits=splits,
        annotations=(f"{folder}/{files.refs}", f"{folder}/instances.json"),
        images=(files.images,),
        licence="annotations Apache-2.0, images as COCO's or IAPR TC-12's",
        homepage=homepage,
        read=lambda root, split, rejected, share: read_referring(root / folder, root, split, rejected, files, share),
    )


def _multi_target(file: str, on_disk: Mapping[str, str], homepage: str) -> DatasetSpec:
    return DatasetSpec(
        group="reasoning",
        splits=dict.fromkeys(on_disk),
        annotations=(file,),
        images=(),
        licence="see its page, images as COCO's",
        homepage=homepage,
        read=lambda root, split, rejected, share: read_multi_target(
            root / file.format(split=split), root, rejected, share
        ),
        on_disk=on_disk,
    )


_REFER, _GREFER = "https://github.com/lichengunc/refer", "https://github.com/henghuiding/gRefCOCO"
_UNC = {"train": 16994, "val": 1500, "testA": 750, "testB": 750}

DATASETS: Mapping[str, DatasetSpec] = MappingProxyType(
    {
        "partworld": DatasetSpec(
            group="rendered",
            splits={"train": None, "val": None, "test": None},
            annotations=("partworld/{split}.json", "partworld/{split}_whole.json"),
            images=("partworld/{split}",),
            licence="none",
            homepage="cores prepare-data partworld",
            read=_read_folder("partworld", partial(read_parts, smallest=SMALLEST_RENDERED)),
        ),
        "cocostuff": DatasetSpec(
            group="semantic",
            splits={"train": 118287, "val": 5000},
            annotations=("cocostuff/{split}",),
            images=("coco/{split}",),
            licence="annotations CC BY 4.0, images as COCO's",
            homepage="https://github.com/nightrome/cocostuff (stuffthingmaps_trainval2017.zip)",
            read=_read_folder("cocostuff", read_cocostuff),
            on_disk={"train": "train2017", "val": "val2017"},
            pieces=LABEL_MAP_PIECES,
        ),
        "mapillary": DatasetSpec(
            group="semantic",
            splits={"train": 18000, "val": 2000},
            annotations=("mapillary/config_v2.0.json", "mapillary/{split}/v2.0/labels"),
            images=("mapillary/{split}/images",),
            licence="CC BY-NC-SA 4.0",
            homepage="https://www.mapillary.com/dataset/vistas",
            read=_read_folder("mapillary", read_mapillary),
            on_disk={"train": "training", "val": "validation"},
            pieces=LABEL_MAP_PIECES,
        ),
        "ade20k": DatasetSpec(
            group="semantic",
            splits={"train": 20210, "val": 2000},
            annotations=("ade20k/annotations/{split}",),
            images=("ade20k/images/{split}",),
            licence="annotations BSD-3-Clause, images for research only",
            homepage="http://sceneparsing.csail.mit.edu (ADEChallengeData2016.zip)",
            read=_read_folder("ade20k", read_ade20k),
            on_disk={"train": "training", "val": "validation"},
            pieces=LABEL_MAP_PIECES,
        ),
        "paco_lvis": DatasetSpec(
            group="parts",
            splits={"train": None, "val": None},
            annotations=("vlpart/paco/annotations/paco_lvis_v1_{split}.json",),
            images=("coco/train2017", "coco/val2017"),
            licence="annotations MIT, images as COCO's",
            homepage="https://github.com/facebookresearch/paco",
            read=_read_folder("vlpart/paco", read_paco),
            besides=("questions/paco_lvis.jsonl",),
        ),
        "pascal_part": DatasetSpec(
            group="parts",
            splits={"train": None, "val": 4465},
            annotations=("vlpart/pascal_part/{split}.json",),
            images=("vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages",),
            licence="PASCAL VOC's terms",
            homepage="https://github.com/facebookresearch/VLPart",
            read=_read_folder("vlpart/pascal_part", read_pascal_part),
            besides=("questions/pascal_part.jsonl",),
        ),
        "partimagenet": DatasetSpec(
            group="parts",
            splits={"train": None, "val": 2957},
            annotations=("PartImageNet/{split}.json",),
            images=("PartImageNet/{split}",),
            licence="ImageNet's terms",
            homepage="https://github.com/TACJu/PartImageNet",
            read=_read_folder("PartImageNet", read_parts),
            besides=("questions/partimagenet.jsonl",),
        ),
        "refclef": _referring("refclef", dict.fromkeys(("train", "val", "testA", "testB")), _REFER),
        "refcoco": _referring("refcoco", _UNC, _REFER),
        "refcoco+": _referring("refcoco+", _UNC | {"train": 16992}, _REFER),
        "refcocog": _referring("refcocog", {"train": 21899, "val": 1300, "test": 2600}, _REFER),
        "grefcoco": _referring("grefcoco", _UNC, _GREFER),
        "reasonseg": DatasetSpec(
            group="reasoning",
            splits={"train": 239, "val": 200, "test": 779},
            annotations=("reason_seg/ReasonSeg/{split}",),
            images=(),
            licence="none stated; images of OpenImages and ScanNet",
            homepage="https://github.com/dvlab-research/LISA (ReasonSeg)",
            read=_read_folder("reason_seg/ReasonSeg", read_reasonseg),
        ),
        "reasonpart": DatasetSpec(
            group="reasoning",
            splits={"partimagenet": 2957, "pascal_part": 4465},
            annotations=("{split}/val.json",),
            images=(),
            licence="questions Apache-2.0, all else as its parts",
            homepage="built from partimagenet and pascal_part: cores prepare-data reasonpart",
            read=read_reasonpart,
            on_disk=HALVES,
        ),
        "instructpart": DatasetSpec(
            group="reasoning",
            splits={"train": 1800, "test": 600},
            annotations=("instructpart_part/InstructPart/{split}",),
            images=(),
            licence="MIT, according to its read-me",
            homepage="https://github.com/zifuwan/InstructPart",
            read=_read_folder("instructpart_part/InstructPart", read_instructpart),
            on_disk={"train": "train/train1800"},
        ),
        "muse": _multi_target("muse_{split}.json", {"val": "val"}, "https://github.com/MaverickRen/PixelLM"),
        "mmr": _multi_target(
            "MMR/MMR_{split}.json",
            {
                "train": "train",
                "val": "val",
                "test_obj": "test_obj_only",
                "test_part": "test_part_only",
                "test_mixed": "test_mixed",
            },
            "https://github.com/jdg900/MMR",
        ),
        "gseval": DatasetSpec(
            group="reasoning",
            splits={"test": None},
            annotations=("GSEval/GroundingSuite-Eval.jsonl",),
            images=("coco/unlabeled2017",),
            licence="Apache-2.0, images as COCO's",
            homepage="https://huggingface.co/datasets/hustvl/GSEval",
            read=lambda root, _, rejected, share: read_gseval(
                root / "GSEval/GroundingSuite-Eval.jsonl", root, rejected, share
            ),
        ),
        "llava_instruct": DatasetSpec(
            group="text",
            splits={"train": None},
            annotations=("llava_dataset/{split}.json",),
            images=("coco/train2017",),
            licence="annotations CC BY-NC 4.0, images as COCO's",
            homepage="https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K",
            read=_read_folder("llava_dataset", read_vqa),
            on_disk={"train": "llava_instruct_150k"},
        ),
    }
)
