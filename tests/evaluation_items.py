"""Items of evaluations for tests."""

from cores_core.evaluate.items import Item
from cores_core.masks import encode_rle
from cores_core.metrics import measure_overlap
from cores_core.sample import BoolMask


def make_item(key: str, image: str, predicted: BoolMask, target: BoolMask) -> Item:
    """The item of a mask without a coarse one, for a question about a fish's tail."""
    return Item(
        id=key,
        image=image,
        category="Fish Tail",
        question="What steers the fish?",
        is_sentence=True,
        answer="",
        well_formed=True,
        overlap=measure_overlap(predicted, target),
        coarse_overlap=None,
        mask=encode_rle(predicted),
        coarse_mask=None,
        target=encode_rle(target),
        ignore=None,
        seconds=0.1,
    )
