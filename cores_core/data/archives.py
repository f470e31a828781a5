"""ARCHIVES: files of the data sets that can be downloaded without a login or a form, with mirrors where there are some.

Sizes and SHA-256 digests are published by the owner, or by others who checked the same file:
- COCO, ADE20K: the url_checksums of TensorFlow Datasets (https://github.com/tensorflow/datasets).
- PACO: its README, without a size. PASCAL VOC 2010: DataEval (https://github.com/dataeval/dataeval), without a size.
- gRefCOCO: the hub's page of instances.json; for the other file, digests in several public repositories. No sizes.
- LLaVA-Instruct-150K: digests in several public repositories; a file that changes on the main branch is refused.
- RefCOCO, RefCOCO+, RefCOCOg: digests in several public repositories of the same snapshots of the Internet Archive.
  Their first home went down in 2022 and is the second address.
No digest was found for COCO-Stuff's label maps, refCLEF's annotations and its images: there the length that the server
states is checked, and the checksums inside the archive.

Not here: Mapillary Vistas (a form), PartImageNet and ReasonSeg (Google Drive), and the annotations of PASCAL-Part,
`train.json` and `val.json`, which VLPart's tools make from its .mat files: of pascal_part only the images are fetched.
Images that several data sets share are one archive, and are fetched once.
"""

from collections.abc import Mapping
from types import MappingProxyType

from cores_core.data.download import Archive

_COCO = ("http://images.cocodataset.org/zips/", "https://s3.amazonaws.com/images.cocodataset.org/zips/")
_UNC = "https://bvisionweb1.cs.unc.edu/licheng/referit/data/"
_SNAPSHOT = "https://web.archive.org/web/"
_GREFCOCO = "https://huggingface.co/datasets/FudanCVL/gRefCOCO/resolve/81eede59b3ac070049f597d023c0ff08d1fb80e9/"


def _coco(split: str, unpack_to: str, size: int, sha256: str) -> Archive:
    name, folder = f"{split}.zip", f"{split}/"
    return Archive(name, tuple(base + name for base in _COCO), unpack_to, size, sha256, ((folder, folder),))


def _refer(name: str, time: str, size: int | None, sha256: str | None) -> Archive:
    """An archive of referring expressions at a `time` (YYYYMMDDhhmmss) of the Internet Archive, or its first home.

    The archive takes the snapshot that is nearest to the time; `id_` behind it requests the unmodified bytes.
    """
    urls = (f"{_SNAPSHOT}{time}id_/{_UNC}{name}.zip", f"{_UNC}{name}.zip")
    return Archive(f"{name}.zip", urls, "refer_seg", size, sha256, ((f"{name}/", f"{name}/"),))


# https://cocodataset.org/#download
TRAIN2017 = _coco("train2017", "coco", 19336861798, "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929")
VAL2017 = _coco("val2017", "coco", 815585330, "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05")
TRAIN2014 = _coco(
    "train2014",
    "refer_seg/images/mscoco/images",
    13510573713,
    "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775",
)
# https://github.com/nightrome/cocostuff#downloads; calvin.inf.ed.ac.uk has moved to calvin-vision.net
STUFF_MAPS = Archive(
    "stuffthingmaps_trainval2017.zip",
    (
        "https://calvin-vision.net/wp-content/uploads/data/cocostuffdataset/stuffthingmaps_trainval2017.zip",
        "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/stuffthingmaps_trainval2017.zip",
    ),
    "cocostuff",
    None,
    None,
    (("train2017/", "train2017/"), ("val2017/", "val2017/")),
)
# http://sceneparsing.csail.mit.edu
ADE20K = Archive(
    "ADEChallengeData2016.zip",
    (
        "https://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
        "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
    ),
    "ade20k",
    967382037,
    "7ff1be44964418441f542a7cc1e1a650e7dc0fc275f5d23252bc9bbdbc977b29",
    (("ADEChallengeData2016/images/", "images/"), ("ADEChallengeData2016/annotations/", "annotations/")),
)
# https://github.com/facebookresearch/paco#dataset-setup
PACO = Archive(
    "paco_lvis_v1.zip",
    ("https://dl.fbaipublicfiles.com/paco/annotations/paco_lvis_v1.zip",),
    "vlpart/paco/annotations",
    None,
    "02ac4edb22c251e07853e6231d69aec3fad0a180f03de2f8c880650322debc80",
    tuple((f"paco_lvis_v1_{split}.json", f"paco_lvis_v1_{split}.json") for split in ("train", "val")),
)
# http://host.robots.ox.ac.uk/pascal/VOC/voc2010
VOC2010 = Archive(
    "VOCtrainval_03-May-2010.tar",
    ("http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar",),
    "vlpart/pascal_part",
    None,
    "1af4189cbe44323ab212bff7afbc7d0f55a267cc191eb3aac911037887e5c7d4",
    (("VOCdevkit/VOC2010/", "VOCdevkit/VOC2010/"),),
)
# https://github.com/lichengunc/refer and its issue 14
REFCLEF = _refer("refclef", "20220413011817", None, None)
REFCOCO = _refer(
    "refcoco", "20220413011718", 53993993, "7f924bb7ed8dc4568058e4ff626281918d56e5206f4c868c5a80f088f38c8bf0"
)
REFCOCO_PLUS = _refer(
    "refcoco+", "20220413011656", 45613210, "5f1238112d63199e68da54a28f201471909b21ded7ed79a57d51b4c1443c6b45"
)
REFCOCOG = _refer(
    "refcocog", "20220413012904", 56712951, "3d1f7e5b2ff2205940bf59de55f861f5f2cc1403fb980669933a7f9af1aa8211"
)
# https://github.com/lichengunc/refer and its issue 15
SAIAPR = Archive(
    "saiapr_tc-12.zip",
    (f"{_SNAPSHOT}20220515000000id_/{_UNC}images/saiapr_tc-12.zip", f"{_UNC}images/saiapr_tc-12.zip"),
    "refer_seg/images",
    None,
    None,
    (("saiapr_tc-12/", "saiapr_tc-12/"),),
)
# https://huggingface.co/datasets/FudanCVL/gRefCOCO
GREFS = Archive(
    "grefs(unc).json",
    (f"{_GREFCOCO}grefs(unc).json",),
    "refer_seg/grefcoco",
    None,
    "cc37c5ff95373c78a6a3f98b4c7bc67fde387ea8514752a1392db64223eb3366",
)
GREF_INSTANCES = Archive(
    "instances.json",
    (f"{_GREFCOCO}instances.json",),
    "refer_seg/grefcoco",
    None,
    "7f86adb7f4c39db19c7f02a3cc604d17f8016e4c4e8312652d0acc4eae3a2cbd",
)
# https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K
LLAVA_INSTRUCT = Archive(
    "llava_instruct_150k.json",
    ("https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K/resolve/main/llava_instruct_150k.json",),
    "llava_dataset",
    228941895,
    "6b68bc5ca2bfd8a71119af0e8454929668ccda6a334955ccc95d114fc8d082fa",
)

ARCHIVES: Mapping[str, tuple[Archive, ...]] = MappingProxyType(
    {
        "cocostuff": (STUFF_MAPS, VAL2017, TRAIN2017),
        "ade20k": (ADE20K,),
        "paco_lvis": (PACO, VAL2017, TRAIN2017),
        "pascal_part": (VOC2010,),
        "refclef": (REFCLEF, SAIAPR),
        "refcoco": (REFCOCO, TRAIN2014),
        "refcoco+": (REFCOCO_PLUS, TRAIN2014),
        "refcocog": (REFCOCOG, TRAIN2014),
        "grefcoco": (GREFS, GREF_INSTANCES, TRAIN2014),
        "llava_instruct": (LLAVA_INSTRUCT, TRAIN2017),
    }
)
"""By the names of data sets, annotations and small files first; one without an entry is to be fetched by hand."""
