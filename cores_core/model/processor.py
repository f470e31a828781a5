"""From samples to tensors: tokens, the MLLM's view of an image, SAM's pixels, masks.

What an MLLM is given is the matter of its `MllmPrompts` (see `families/`), what a SAM is given that of its `Frame`. The
turns of one image share its prefix (system text, example, image). They are packed into one sequence, prefix first, then
one branch for each turn; `branches` tells which token belongs to which, and every branch's positions start again
where the prefix ends. Ids are built piece by piece, so labels need no counting and no search. A model whose layers
carry a state from token to token cannot branch: for it, each turn has a row of its own with the prefix in front.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cores_core.errors import DataError
from cores_core.masks import resize_mask
from cores_core.model.segmenter import Frame
from cores_core.model.tokenizer import Tokenizer, break_up_turn, token_id
from cores_core.prompts import PromptFormat
from cores_core.sample import ImageSize, Sample, Turn

IGNORED_LABEL = -100
PREFIX, PADDING = 0, -1
"""Values of `Batch.branches` beside the turns, which count from 1."""


@dataclass(frozen=True)
class Batch:
    """B images with N turns that segment in all, T tokens in the longest packed sequence, R rows: B if they are packed.

    Attributes:
        input_ids: (R, T) tokens; the image token already stands as often as the MLLM has states for the image.
        positions: (R, T) place of each token in its plain, unpacked sequence.
        branches: (R, T) 0 for the prefix, 1.. for the turns, -1 for padding.
        labels: (R, T) the token itself where it belongs to an answer, else -100.
        vision: tensors of the images by the names under which the MLLM takes them. sam_pixels: (B, 3, S, S).
        sizes: B image sizes. counts: B numbers of turns that segment.
        masks, ignores: for each image (N_b, H, W) bool targets, and pixels that count nowhere (None for none); both
            empty without targets.
        categories: N names of what the masks show.
        things: for each image the (category, kind) of all it is known to show; `thing_maps` (K, 4h, 4w) uint8 their
            masks in SAM's frame at the decoder's resolution, 0-255. Both empty where the samples tell nothing.
        keys: B names of the images' pixels, "" for none.
    """

    input_ids: Tensor
    positions: Tensor
    branches: Tensor
    labels: Tensor
    vision: Mapping[str, Tensor]
    sam_pixels: Tensor
    sizes: tuple[ImageSize, ...]
    counts: tuple[int, ...]
    masks: tuple[Tensor, ...] = ()
    ignores: tuple[Tensor | None, ...] = ()
    categories: tuple[str, ...] = ()
    things: tuple[tuple[tuple[str, str], ...], ...] = ()
    thing_maps: tuple[Tensor, ...] = ()
    keys: tuple[str, ...] = ()

    @property
    def image_index(self) -> Tensor:
        """(N,) the image of each query."""
        device = self.sam_pixels.device
        return torch.arange(len(self.counts), device=device).repeat_interleave(torch.tensor(self.counts, device=device))

    @property
    def predicts_label(self) -> Tensor:
        """(R, T-1) bool: the tokens whose next one belongs to an answer."""
        return self.labels[:, 1:] != IGNORED_LABEL

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device. On CUDA, pinned tensors are on their way when this returns."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=device.type == "cuda"))

    def pin_memory(self) -> "Batch":
        """The same batch in memory from which a GPU copies while it computes; a data loader calls this by its name."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        tensors = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        changes: dict[str, Any] = {name: change(value) for name, value in tensors.items() if torch.is_tensor(value)}
        masks, maps = (tuple(map(change, values)) for values in (self.masks, self.thing_maps))
        ignores = tuple(None if mask is None else change(mask) for mask in self.ignores)
        changes["vision"] = {name: change(tensor) for name, tensor in self.vision.items()}
        return replace(self, **changes, masks=masks, ignores=ignores, thing_maps=maps)


class Tokens(NamedTuple):
    """One row of the token tensors of a `Batch`, before padding, the first four of the same length; and its prefix."""

    ids: list[int]
    positions: list[int]
    branches: list[int]
    labels: list[int]
    prefix: "Prefix"


def batch_tensors(batch: Batch) -> dict[str, Any]:
    """A batch as plain tensors and values, to be kept and looked at."""
    return {entry.name: getattr(batch, entry.name) for entry in fields(batch) if entry.name != "sizes"}


class Prefix(NamedTuple):
    """What the turns of an image share: its tokens, and the tensors of the image that came with them, if any."""

    ids: list[int]
    vision: Mapping[str, Tensor]


class MllmPrompts(Protocol):
    """How one kind of multimodal LLM is given an image, a question and an answer.

    `packs` tells whether the turns of an image may share its prefix in one row; `added_ids` are tokens around the image
    that the model did not have.
    """

    tokenizer: Tokenizer
    max_tokens: int
    packs: bool
    end_id: int
    pad_id: int
    added_ids: tuple[int, ...]

    def prefix(self, sample: Sample) -> Prefix:
        """All that stands before the question: system text, in-context example, image."""

    def question(self, turn: Turn) -> list[int]:
        """Ids of what stands between the prefix and the answer, with what was said before."""

    def answer(self, turn: Turn) -> list[int]:
        """Ids of a turn's answer with the end token."""

    def vision(self, samples: Sequence[Sample], prefixes: Sequence[Prefix]) -> Mapping[str, Tensor]:
        """The tensors of the images of a batch by the names under which the model takes them."""

    def save_pretrained(self, folder: Path) -> None:
        """Write what it can be loaded from."""


class Processor:
    """All that a model is given: prompts for its MLLM (`prompts`), and images in the frame of its SAM."""

    def __init__(self, mllm: MllmPrompts, prompt: PromptFormat, frame: Frame) -> None:
        self.mllm = mllm
        self.prompt = prompt
        self.frame = frame
        self.chain_ids = tuple(token_id(mllm.tokenizer, token) for token in prompt.chain)
        self._special = tuple(token for token in mllm.tokenizer.get_added_vocab() if token not in prompt.chain)

    @property
    def new_ids(self) -> tuple[int, ...]:
        """Ids of the tokens that the MLLM did not have: those of the chain, and what its prompts add."""
        return (*self.chain_ids, *self.mllm.added_ids)

    @property
    def tokenizer(self) -> Tokenizer:
        """The MLLM's tokenizer, with the tokens of the chain."""
        return self.mllm.tokenizer

    def collate(self, samples: Sequence[Sample], answers: Sequence[Sequence[Sequence[int]]] | None = None) -> Batch:
        """Make a batch.

        Args:
            samples: B images with their turns.
            answers: for each image and turn the ids of the answer, in place of the turn's own text. An empty list
                leaves the answer open, for generation.
        """
        given = answers if answers is not None else [None] * len(samples)
        rows = [self.tokenize(sample, ids) for sample, ids in zip(samples, given, strict=True)]
        return self.collate_tokenized(samples, rows)

    def collate_tokenized(self, samples: Sequence[Sample], tokens: Sequence[Sequence[Tokens]]) -> Batch:
        """Make a batch of B images with the rows that `tokenize` gave for each."""
        rows = [row for rows in tokens for row in rows]
        *columns, prefixes = zip(*rows, strict=True)
        fill = (self.mllm.pad_id, 0, PADDING, IGNORED_LABEL)
        ids, positions, branches, labels = (_pad(column, value) for column, value in zip(columns, fill, strict=True))
        shown = [sample for sample, rows in zip(samples, tokens, strict=True) for _ in rows]
        return Batch(
            input_ids=ids,
            positions=positions,
            branches=branches,
            labels=labels,
            vision=self.mllm.vision(shown, prefixes),
            **self._pictures(samples),
        )

    def collate_pictures(self, samples: Sequence[Sample]) -> Batch:
        """Make a batch for SAM alone: no tokens, no pixels for the MLLM."""
        empty = torch.zeros(len(samples), 0, dtype=torch.long)
        return Batch(
            input_ids=empty, positions=empty, branches=empty, labels=empty, vision={}, **self._pictures(samples)
        )

    def _pictures(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """All of a batch that SAM and the losses need."""
        has_masks = any(sample.masks for sample in samples)
        sam = [self.frame.pixels(Image.fromarray(sample.image)) for sample in samples]
        return {
            "sam_pixels": torch.stack([pixels for pixels, _ in sam]),
            "sizes": tuple(size for _, size in sam),
            "counts": tuple(sum(turn.segments for turn in sample.turns) for sample in samples),
            "masks": tuple(_stack_masks(sample) for sample in samples) if has_masks else (),
            "ignores": tuple(_stack_ignores(sample) for sample in samples) if has_masks else (),
            "categories": tuple(category for sample in samples for category in sample.categories),
            "keys": tuple(sample.key for sample in samples),
            "things": tuple(tuple((thing.category, thing.kind) for thing in sample.scene) for sample in samples),
            "thing_maps": tuple(
                thing_maps(sample, size.resized_hw, self.frame)
                for sample, (_, size) in zip(samples, sam, strict=True)
                if sample.scene
            ),
        }

    def answer_ids(self, turn: Turn) -> list[int]:
        """Ids of a turn's answer with the end token."""
        return self.mllm.answer(break_up_turn(turn, self._special, self.prompt.chain))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated ids, special tokens of the chain included, the end token left out."""
        kept = [i for i in ids if i != self.mllm.end_id]
        return str(self.tokenizer.decode(kept, skip_special_tokens=False)).strip()

    def tokenize(self, sample: Sample, answers: Sequence[Sequence[int]] | None = None) -> list[Tokens]:
        """The rows of an image's turns, one if they are packed, with the ids of other answers if given; see `collate`.

        Raises:
            DataError: a question is too long.
        """
        turns = [break_up_turn(turn, self._special, self.prompt.chain) for turn in sample.turns]
        answers = [self.mllm.answer(turn) for turn in turns] if answers is None else answers
        prefix = self.mllm.prefix(sample)
        rows = [_begin_row(prefix)] if self.mllm.packs else [_begin_row(prefix) for _ in turns]
        start = len(prefix.ids)
        for branch, (turn, answer) in enumerate(zip(turns, answers, strict=True), start=1):
            question = self.mllm.question(turn)
            room = self.mllm.max_tokens - start - len(question)
            if not turn.segments and room > 0:
                answer = answer[:room]  # words may be cut off, a chain may not
            length = len(question) + len(answer)
            if start + length > self.mllm.max_tokens:
                most = self.mllm.max_tokens
                raise DataError(
                    f"the question is too long: {start + length} tokens with its prompt, at most {most}",
                    hint="shorten the question",
                )
            row = rows[0 if self.mllm.packs else branch - 1]
            row.ids.extend([*question, *answer])
            row.positions.extend(range(start, start + length))
            row.branches.extend([branch] * length)
            row.labels.extend([*[IGNORED_LABEL] * len(question), *answer])
        return rows


def _begin_row(prefix: Prefix) -> Tokens:
    start = len(prefix.ids)
    return Tokens(list(prefix.ids), list(range(start)), [PREFIX] * start, [IGNORED_LABEL] * start, prefix)


def thing_maps(sample: Sample, resized_hw: tuple[int, int], frame: Frame) -> Tensor:
    """How much of each pixel of the decoder's masks each thing covers, (K, s, s) uint8 from 0 to 255."""
    square = np.zeros((len(sample.scene), frame.side, frame.side), dtype=np.uint8)
    for thing, canvas in zip(sample.scene, square, strict=True):
        mask = thing.mask.astype(np.uint8) * 255
        canvas[: resized_hw[0], : resized_hw[1]] = resize_mask(mask, resized_hw)
    side = (frame.mask_side, frame.mask_side)
    return torch.from_numpy(np.stack([resize_mask(canvas, side) for canvas in square]))


def _stack_masks(sample: Sample) -> Tensor:
    height, width = sample.image.shape[:2]
    return torch.from_numpy(np.stack(sample.masks)) if sample.masks else torch.zeros(0, height, width, dtype=torch.bool)


def _stack_ignores(sample: Sample) -> Tensor | None:
    if all(mask is None for mask in sample.ignores):
        return None
    blank = np.zeros_like(sample.masks[0])
    return torch.from_numpy(np.stack([blank if mask is None else mask for mask in sample.ignores]))


def _pad(rows: Sequence[list[int]], value: int) -> Tensor:
    longest = max(len(row) for row in rows)
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])
