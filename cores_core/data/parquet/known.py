"""Data sets of the hub in parquet with known columns, sizes and terms.

Columns and sizes are those of the cards of https://huggingface.co/datasets/Ricky06662/ReasonSeg_val and ReasonSeg_test
(Seg-Zero, arXiv:2503.06520), whose only split is `test`, and of the evaluation code and the read-me of StAR
(arXiv:2603.14382, https://huggingface.co/sj9909), which reads the same columns. Masks are nested booleans.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

HUB = "hub/"
"""Name prefix of data sets of the hub."""
_REASONSEG = {"image": "image", "text": "text", "mask": "mask", "id": "image_id"}


@dataclass(frozen=True)
class HubSet:
    """A data set of the hub.

    Attributes:
        title: what it is. columns: as in `columns.py`. rows: number of rows of its only split, None if unpublished.
        licence: according to its card. homepage: of its paper or code.
    """

    title: str
    columns: Mapping[str, str]
    rows: int | None
    licence: str
    homepage: str


_SEG_ZERO, _STAR = "https://arxiv.org/abs/2503.06520", "https://arxiv.org/abs/2603.14382"
_UNSTATED = "see its card"

HUB_SETS: Mapping[str, HubSet] = MappingProxyType(
    {
        "Ricky06662/ReasonSeg_val": HubSet(
            "ReasonSeg val, one text an image", _REASONSEG, 200, "CC BY-NC 4.0", _SEG_ZERO
        ),
        "Ricky06662/ReasonSeg_test": HubSet(
            "ReasonSeg test, one text an image", _REASONSEG, 779, "CC BY-NC 4.0", _SEG_ZERO
        ),
        "sj9909/ReasonSeg_refine": HubSet(
            "ReasonSeg-R: ReasonSeg test with corrected annotations", _REASONSEG, None, _UNSTATED, _STAR
        ),
        "sj9909/ReasonSegX_val": HubSet(
            "ReasonSeg-X val", _REASONSEG | {"category": "reasoning_type"}, 156, _UNSTATED, _STAR
        ),
        "sj9909/ReasonSegX_test": HubSet(
            "ReasonSeg-X test", _REASONSEG | {"category": "reasoning_type"}, 773, _UNSTATED, _STAR
        ),
        **{
            f"sj9909/{name}": HubSet(
                f"{name.replace('_', ' ')}, all targets in one mask", _REASONSEG, None, _UNSTATED, _STAR
            )
            for name in (
                "MUSE_val",
                "MUSE_test_few",
                "MUSE_test_many",
                "MMR_val",
                "MMR_test_mixed",
                "MMR_test_obj",
                "MMR_test_part",
            )
        },
    }
)
