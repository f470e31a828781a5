"""Average precision of predicted instances by pycocotools' COCOeval: AP50 and AP50:95, as in LISA++ (arXiv:2312.17240).

Every query counts as an image with one category, so AP does not depend on names. The objects of a target are its
instances if the data set has them apart, else the whole target is one object; a query without a target has none. At
most 100 predicted instances of a query count, those with the highest scores. Ignored pixels count like others.
"""

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cores_core.evaluate.items import Item
from cores_core.masks import Rle, rle_area

AP_NAMES = ("ap_50", "ap")
_ALL_AREAS, _HUNDRED = 0, 2
"""Indices of COCOeval's area range "all" and of its limit of 100 detections."""


def score_instances(items: Sequence[Item]) -> Mapping[str, float | None]:
    """AP50 and AP50:95 of items, 0-1; None if no item has instances or there is no object.

    An item without instances among others counts as one for which nothing was found; empty instances are left out.
    """
    truth = [(number, rle, None) for number, item in enumerate(items) for rle in _objects(item)]
    found = [
        (number, instance.mask, instance.score)
        for number, item in enumerate(items)
        for instance in item.instances or ()
        if rle_area(instance.mask)
    ]
    if not truth or all(item.instances is None for item in items):
        return dict.fromkeys(AP_NAMES)
    with redirect_stdout(io.StringIO()):  # COCO and COCOeval print
        evaluation = COCOeval(_as_coco(truth, items), _as_coco(found, items), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, 0, _ALL_AREAS, _HUNDRED]  # (IoUs 0.5, 0.55, ..., 0.95; recalls)
    return {"ap_50": float(np.mean(precision[0])), "ap": float(np.mean(precision))}


def _objects(item: Item) -> list[Rle]:
    return [rle for rle in item.target_instances or (item.target,) if rle_area(rle)]


def _as_coco(masks: Sequence[tuple[int, Rle, float | None]], items: Sequence[Item]) -> COCO:
    annotations: list[dict[str, Any]] = [
        {
            "id": index,
            "image_id": number,
            "category_id": 1,
            "segmentation": dict(rle),
            "area": rle_area(rle),
            "iscrowd": 0,
            **({} if score is None else {"score": score}),
        }
        for index, (number, rle, score) in enumerate(masks, start=1)
    ]
    coco = COCO()
    sizes = (item.target["size"] for item in items)
    images = [{"id": number, "height": height, "width": width} for number, (height, width) in enumerate(sizes)]
    coco.dataset = {"images": images, "categories": [{"id": 1}], "annotations": annotations}
    coco.createIndex()
    return coco
