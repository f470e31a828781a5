"""The stream of training samples over all data sets: a pure function of (seed, position).

All random choices are seeded by (seed, epoch, index), so a resumed run sees the same samples as an uninterrupted one.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cores_core.config import MixtureConfig
from cores_core.data.absent import draw_absent
from cores_core.data.overlap import StoreView
from cores_core.data.store import Record, Region, Store
from cores_core.errors import DataError
from cores_core.images import fit_hw, load_image, resize_image
from cores_core.masks import Rle, decode_rle, resize_mask, rle_area
from cores_core.prompts import (
    EXAMPLES,
    PromptFormat,
    render_dialogue,
    render_example,
    render_explained,
    render_rejection,
    render_turn,
)
from cores_core.sample import Annotation, BoolMask, Query, RgbImage, Sample, Turn

AugmentQuery = Callable[[Query, np.random.Generator], Query]


@dataclass(frozen=True)
class SampleOptions:
    """Options for turning images into samples.

    Attributes:
        queries: maximum number of queries per image.
        max_image_size: downscale images and masks to this length of the longer side, in pixels; None for no limit.
        random_flip: flip images horizontally with probability 0.5. Not for data with questions about left and right.
        explanatory: probability that a query with a text answer is answered by that text only; half of the others get
            the answer template followed by the text (as in LISA, arXiv:2308.00692).
        no_target: probability that a query is replaced by one about something that the image does not show, answered
            by a rejection, or by the template and an empty mask for a model that does not reject.
        keep: cache loaded images in memory.
        with_annotations: include all annotated regions of an image in its samples.
        with_key: include a key of the pixels in samples, for which each image file is hashed on loading.
        augment_query: random change of a query before it is put into its template; None for none. Must be picklable.
    """

    queries: int
    max_image_size: int | None = None
    random_flip: bool = False
    explanatory: float = 0.1
    no_target: float = 0.0
    keep: bool = False
    with_annotations: bool = False
    with_key: bool = False
    augment_query: AugmentQuery | None = None


class Mixture:
    """An infinite stream of training samples; `mixture[position]` always returns the same sample."""

    def __init__(
        self,
        stores: Sequence[Store | StoreView],
        prompt: PromptFormat,
        options: SampleOptions,
        seed: int,
        weights: Sequence[float] | None = None,
    ) -> None:
        """Combine stores.

        Args:
            weights: sampling weights of the stores; images are then drawn with replacement, as in the releases. None
                iterates over all images of all stores once per epoch.

        Raises:
            DataError: there are no images, or a weighted store is empty.
        """
        self._stores = stores
        self._prompt = prompt
        self._options = options
        self._seed = seed
        self._starts = np.cumsum([0, *(len(store) for store in stores)])
        self._epoch = (-1, np.zeros(0, dtype=np.int64))
        self._kept: dict[int, _Shown] = {}
        if self._starts[-1] == 0 or (weights is not None and not all(map(len, stores))):
            raise DataError("the training data is empty", hint="prepare it again, or remove the empty set from `data`")
        self._shares = None if weights is None else np.asarray(weights) / np.sum(weights)

    @property
    def images(self) -> int:
        """Number of images per epoch."""
        return int(self._starts[-1])

    def __getitem__(self, position: int) -> Sample:
        return self.draw(position, self._options.queries)

    def draw(self, position: int, queries: int) -> Sample:
        """The sample at a position with at most `queries` queries."""
        index, rng = self._place(position)
        shown = self._kept.get(index) or self._read(index)
        asked = draw_queries(shown.record, queries, rng)
        if self._options.augment_query is not None:
            asked = [(region, self._options.augment_query(query, rng)) for region, query in asked]
        regions = shown.record.regions
        drawn = [
            _AskedTurn(self._word(query, regions[number], rng), regions[number].category, number)
            for number, query in asked
        ]
        if self._options.no_target:
            drawn = [self._replace(one, index, shown.record, rng) for one in drawn]
        turns = [one.turn for one in drawn]
        if shown.record.dialogue:
            turns.append(render_dialogue(shown.record.dialogue, int(rng.integers(len(shown.record.dialogue)))))
        masked = [one for one in drawn if one.turn.segments]
        if self._options.random_flip and rng.random() < 0.5:
            shown = shown.mirrored()
        return Sample(
            image=shown.image,
            turns=tuple(sorted(turns, key=lambda turn: not turn.segments)),
            masks=tuple(shown.mask(one.region) for one in masked),
            ignores=tuple(shown.ignore(one.region) for one in masked),
            categories=tuple(one.category for one in masked),
            annotations=shown.annotations() if self._options.with_annotations else (),
            example=render_example(*EXAMPLES[rng.integers(len(EXAMPLES))])
            if self._prompt.context == "random"
            else None,
            key=shown.key,
        )

    def _replace(self, one: "_AskedTurn", index: int, record: Record, rng: np.random.Generator) -> "_AskedTurn":
        """With probability `no_target`, another turn: a question about another image of the same store."""
        if rng.random() >= self._options.no_target:
            return one
        store, _ = self._locate(index)
        absent = draw_absent(store, record, rng)
        if absent is None:
            return one
        query = absent.queries[int(rng.integers(len(absent.queries)))]
        if self._options.augment_query is not None:
            query = self._options.augment_query(query, rng)
        render = render_rejection if self._prompt.rejects else render_turn
        return _AskedTurn(render(query, self._prompt, rng), absent.category, None)

    def _word(self, query: Query, region: Region, rng: np.random.Generator) -> Turn:
        if self._prompt.rejects and not rle_area(region.mask):
            return render_rejection(query, self._prompt, rng)
        if self._prompt.chain_of_thought:
            known = f"It is the {region.category.lower()}." if region.category else ""
            return render_turn(query, self._prompt, rng, reason=query.answer or known)
        if query.answer is None:
            return render_turn(query, self._prompt, rng)
        if rng.random() < self._options.explanatory:
            return render_dialogue([Turn(query.text, query.answer, segments=False)], 0)
        explained = rng.random() < 0.5
        return render_explained(query, self._prompt, rng) if explained else render_turn(query, self._prompt, rng)

    def _place(self, position: int) -> tuple[int, np.random.Generator]:
        """Map a position to an image index (over all stores) and the random generator of its sample."""
        if self._shares is not None:
            rng = np.random.default_rng((self._seed, position))
            which = int(rng.choice(len(self._shares), p=self._shares))
            return int(rng.integers(self._starts[which], self._starts[which + 1])), rng
        epoch, place = divmod(position, self.images)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, np.random.default_rng((self._seed, epoch)).permutation(self.images))
        index = int(self._epoch[1][place])
        return index, np.random.default_rng((self._seed, epoch, index))

    def _locate(self, index: int) -> tuple[Store | StoreView, int]:
        """The store of an image, and its row there."""
        which = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._stores[which], index - int(self._starts[which])

    def _read(self, index: int) -> "_Shown":
        store, row = self._locate(index)
        record = store[row]
        path, size_hw, longest = store.image_path(record), record.size_hw, self._options.max_image_size
        image = load_image(path)
        if longest is not None and longest < max(size_hw):
            size_hw = fit_hw(size_hw, longest)
            image = resize_image(image, size_hw)
        regions = record.regions
        shown = _Shown(
            record=record,
            image=image,
            masks=tuple(_pack(region.mask, size_hw) for region in regions),
            ignores=tuple(None if region.ignore is None else _pack(region.ignore, size_hw) for region in regions),
            key=_name_pixels(path, size_hw) if self._options.with_key else "",
        )
        if self._options.keep:
            self._kept[index] = shown
        return shown


def share_out(groups: Sequence[str], config: MixtureConfig) -> list[float] | None:
    """Sampling weight of each data set from the weight of its group; None to iterate over every image once per epoch.

    Raises:
        DataError: all weights are 0.
    """
    if len(groups) == 1 or config.even:
        return None
    named = ["semantic" if group == "parts" else group for group in groups]
    weights = [getattr(config, group) / named.count(group) for group in named]
    if not any(weights):
        raise DataError("all data sets have weight 0 in `mixture`", hint="set mixture.even=true, or a weight above 0")
    return weights


def draw_queries(record: Record, count: int, rng: np.random.Generator) -> list[tuple[int, Query]]:
    """Draw up to `count` different regions of an image; returns pairs of region index and one of its queries."""
    chosen = [int(i) for i in rng.permutation(len(record.regions))[:count]]
    return [(i, record.regions[i].queries[int(rng.integers(len(record.regions[i].queries)))]) for i in chosen]


class _AskedTurn(NamedTuple):
    """A turn, the category that it asks for, and the index of its region; None if the image does not show it."""

    turn: Turn
    category: str
    region: int | None


@dataclass(frozen=True)
class _Shown:
    """A loaded image and the masks of its regions, packed to one bit per pixel."""

    record: Record
    image: RgbImage
    masks: tuple[NDArray[np.uint8], ...]
    ignores: tuple[NDArray[np.uint8] | None, ...]
    key: str
    is_mirrored: bool = False

    def mirrored(self) -> "_Shown":
        image, key = np.ascontiguousarray(self.image[:, ::-1]), self.key and f"{self.key} mirrored"
        return replace(self, image=image, key=key, is_mirrored=True)

    def mask(self, region: int | None) -> BoolMask:
        if region is None:
            return np.zeros(self.image.shape[:2], dtype=bool)
        return self._unpack(self.masks[region])

    def ignore(self, region: int | None) -> BoolMask | None:
        packed = None if region is None else self.ignores[region]
        return None if packed is None else self._unpack(packed)

    def annotations(self) -> tuple[Annotation, ...]:
        regions: tuple[Region, ...] = self.record.regions
        return tuple(Annotation(region.category, region.kind, self.mask(i)) for i, region in enumerate(regions))

    def _unpack(self, packed: NDArray[np.uint8]) -> BoolMask:
        height, width = self.image.shape[:2]
        mask: BoolMask = np.unpackbits(packed, count=height * width).view(np.bool_).reshape(height, width)
        return np.ascontiguousarray(mask[:, ::-1]) if self.is_mirrored else mask


def _name_pixels(path: Path, size_hw: tuple[int, int]) -> str:
    """Key of an image: the hash of the file's content (a path may be overwritten with another image) and its size."""
    with path.open("rb") as file:
        return f"{hashlib.file_digest(file, 'sha256').hexdigest()} {size_hw[0]}x{size_hw[1]}"


def _pack(rle: Rle, size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    coverage = resize_mask(decode_rle(rle).astype(np.uint8) * np.uint8(255), size_hw)
    return np.packbits(coverage > 127)
