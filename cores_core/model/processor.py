"""Collation: from samples to token ids, MLLM image tensors, SAM pixels and target masks.

`MllmPrompts` (implementations in `families/`) defines the inputs of an MLLM, `Frame` those of a SAM. All turns of one
image share its prefix (system text, in-context example, image) and are packed into one sequence: the prefix, then one
branch per turn. `sequence_ids` maps each token to its branch; positions in every branch start where the prefix ends.
Token ids are concatenated piece by piece, so labels need no search. Models with recurrent layers cannot branch; for
these, each turn has a row of its own that repeats the prefix.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from cores_core.errors import DataError
from cores_core.model.segmenter import Frame
from cores_core.model.tokenizer import Tokenizer, break_up_turn, token_id
from cores_core.prompts import PromptFormat
from cores_core.sample import ImageSize, Sample, Turn

IGNORED_LABEL = -100
PREFIX, PADDING = 0, -1
"""Values of `Batch.sequence_ids` for prefix and padding; turns count from 1."""


@dataclass(frozen=True)
class Batch:
    """B images with N masks in total, in R token rows (R = B if packed) of length T.

    Attributes:
        input_ids: (R, T) token ids; the image token is already repeated once per image state.
        position_ids: (R, T) position of each token in its unpacked sequence.
        sequence_ids: (R, T) 0 for the prefix, 1.. for the turns, -1 for padding.
        labels: (R, T) token ids of answers, -100 elsewhere.
        vision: image tensors by the argument names of the MLLM. sam_pixels: (B, 3, S, S).
        sizes: B image sizes. counts: B numbers of turns with a mask.
        masks, ignores: per image (N_b, H, W) bool targets and ignored pixels (None for none); empty without targets.
        image_index: (N,) image of each query.
        answer_index: (K,) positions in the flattened rows, R * T, whose next token belongs to an answer.
        chain_index: for each token of the chain, (N,) such positions before it, in the order of the queries.
        keys: B cache keys of the images' pixels, "" for none.
        extras: what losses beside the paper's need, by name (`Recipe.collate`); tensors in it, also those in tuples,
            move to the device with the batch.
    """

    input_ids: Tensor
    position_ids: Tensor
    sequence_ids: Tensor
    labels: Tensor
    vision: Mapping[str, Tensor]
    sam_pixels: Tensor
    sizes: tuple[ImageSize, ...]
    counts: tuple[int, ...]
    image_index: Tensor
    answer_index: Tensor
    chain_index: tuple[Tensor, ...]
    masks: tuple[Tensor, ...] = ()
    ignores: tuple[Tensor | None, ...] = ()
    keys: tuple[str, ...] = ()
    extras: Mapping[str, Any] = field(default_factory=dict)

    @property
    def answer_sequence_ids(self) -> Tensor:
        """(K,) sequence ids of the answers' tokens."""
        return self.sequence_ids.flatten().index_select(0, self.answer_index + 1)

    def to(self, device: torch.device) -> "Batch":
        """Copy the batch to a device. On CUDA, copies from pinned memory are asynchronous."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=device.type == "cuda"))

    def pin_memory(self) -> "Batch":
        """Copy the batch to pinned memory. Called by torch's DataLoader."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        return Batch(**{entry.name: _map_tensors(getattr(self, entry.name), change) for entry in fields(self)})


class Tokens(NamedTuple):
    """One token row of a `Batch` before padding (four lists of equal length), and its prefix."""

    ids: list[int]
    position_ids: list[int]
    sequence_ids: list[int]
    labels: list[int]
    prefix: "Prefix"


def batch_tensors(batch: Batch) -> dict[str, Any]:
    """A batch as plain tensors and values, for saving it to a file."""
    return {entry.name: getattr(batch, entry.name) for entry in fields(batch) if entry.name != "sizes"}


class Prefix(NamedTuple):
    """Shared prefix of an image's turns: its ids and, where they are produced together, the image tensors."""

    ids: list[int]
    vision: Mapping[str, Tensor]


class MllmPrompts(Protocol):
    """Encodes images, questions and answers for one kind of multimodal LLM.

    `packs` is whether the turns of an image can share its prefix in one row. `added_ids` are ids of tokens around the
    image that were added to the vocabulary.
    """

    tokenizer: Tokenizer
    max_tokens: int
    packs: bool
    end_id: int
    pad_id: int
    added_ids: tuple[int, ...]

    def prefix(self, sample: Sample) -> Prefix:
        """Everything before the question: system text, in-context example, image."""

    def question(self, turn: Turn) -> list[int]:
        """Ids between the prefix and the answer: earlier turns and the question."""

    def answer(self, turn: Turn) -> list[int]:
        """Ids of a turn's answer with the end token."""

    def vision(self, samples: Sequence[Sample], prefixes: Sequence[Prefix]) -> Mapping[str, Tensor]:
        """Image tensors of a batch by the argument names of the model."""

    def save_pretrained(self, folder: Path) -> None:
        """Save tokenizer (and processor) files."""


class Processor:
    """Collates samples for one model: prompts for its MLLM, images in the frame of its SAM."""

    def __init__(self, mllm: MllmPrompts, prompt: PromptFormat, frame: Frame) -> None:
        self.mllm = mllm
        self.prompt = prompt
        self.frame = frame
        self.chain_ids = tuple(token_id(mllm.tokenizer, token) for token in prompt.chain)
        self._special = tuple(token for token in mllm.tokenizer.get_added_vocab() if token not in prompt.chain)

    @property
    def new_ids(self) -> tuple[int, ...]:
        """Ids of the tokens added to the vocabulary: chain tokens and `MllmPrompts.added_ids`."""
        return (*self.chain_ids, *self.mllm.added_ids)

    @property
    def tokenizer(self) -> Tokenizer:
        """Tokenizer of the MLLM, including the chain tokens."""
        return self.mllm.tokenizer

    def collate(self, samples: Sequence[Sample], answers: Sequence[Sequence[Sequence[int]]] | None = None) -> Batch:
        """Make a batch.

        Args:
            samples: B images with their turns.
            answers: answer ids per image and turn, replacing the text of the turn. An empty list leaves the answer
                open, for generation.
        """
        given = answers if answers is not None else [None] * len(samples)
        rows = [self.tokenize(sample, ids) for sample, ids in zip(samples, given, strict=True)]
        return self.collate_tokenized(samples, rows)

    def collate_tokenized(self, samples: Sequence[Sample], tokens: Sequence[Sequence[Tokens]]) -> Batch:
        """Make a batch of B images from the rows returned by `tokenize` for each."""
        rows = [row for rows in tokens for row in rows]
        shown = [sample for sample, rows in zip(samples, tokens, strict=True) for _ in rows]
        vision = self.mllm.vision(shown, [row.prefix for row in rows])
        return replace(self.collate_images(samples), vision=vision, **self._stack_rows(rows))

    def collate_turns(self, image: Batch, sample: Sample, rows: Sequence[Tokens]) -> Batch:
        """Make a batch of other turns about an image that is in a batch already, whose image tensors are used again.

        Args:
            image: a batch of this image alone.
            sample: the image with the turns, whose rows `tokenize` returned.
        """
        vision = image.vision if self.mllm.packs else self.mllm.vision([sample] * len(rows), [r.prefix for r in rows])
        count = sum(turn.segments for turn in sample.turns)
        index = image.image_index.new_zeros(count)
        return replace(image, vision=vision, counts=(count,), image_index=index, **self._stack_rows(rows))

    def collate_images(self, samples: Sequence[Sample]) -> Batch:
        """Make a batch of SAM's pixels and the target masks, without tokens and MLLM image tensors."""
        has_masks = any(sample.masks for sample in samples)
        sam = [self.frame.pixels(Image.fromarray(sample.image)) for sample in samples]
        empty = torch.zeros(len(samples), 0, dtype=torch.long)
        counts = [sum(turn.segments for turn in sample.turns) for sample in samples]
        return Batch(
            input_ids=empty,
            position_ids=empty,
            sequence_ids=empty,
            labels=empty,
            vision={},
            sam_pixels=torch.stack([pixels for pixels, _ in sam]),
            sizes=tuple(size for _, size in sam),
            counts=tuple(counts),
            image_index=torch.arange(len(samples)).repeat_interleave(torch.tensor(counts)),
            answer_index=empty.flatten(),
            chain_index=(empty.flatten(),) * len(self.chain_ids),
            masks=tuple(_stack_masks(sample) for sample in samples) if has_masks else (),
            ignores=tuple(_stack_ignores(sample) for sample in samples) if has_masks else (),
            keys=tuple(sample.key for sample in samples),
        )

    def answer_ids(self, turn: Turn) -> list[int]:
        """Ids of a turn's answer with the end token."""
        return self.mllm.answer(break_up_turn(turn, self._special, self.prompt.chain))

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids to text, keeping chain tokens and dropping the end token."""
        kept = [i for i in ids if i != self.mllm.end_id]
        return str(self.tokenizer.decode(kept, skip_special_tokens=False)).strip()

    def tokenize(
        self, sample: Sample, answers: Sequence[Sequence[int]] | None = None, prefix: Prefix | None = None
    ) -> list[Tokens]:
        """Token rows of an image's turns: one if packed, else one per turn.

        Args:
            answers: of each turn, as for `collate`.
            prefix: of the image and its in-context example, if already known.

        Raises:
            DataError: a question is too long.
        """
        turns = [break_up_turn(turn, self._special, self.prompt.chain) for turn in sample.turns]
        answers = [self.mllm.answer(turn) for turn in turns] if answers is None else answers
        prefix = prefix or self.mllm.prefix(sample)
        rows = [_begin_row(prefix)] if self.mllm.packs else [_begin_row(prefix) for _ in turns]
        start = len(prefix.ids)
        for branch, (turn, answer) in enumerate(zip(turns, answers, strict=True), start=1):
            question = self.mllm.question(turn)
            room = self.mllm.max_tokens - start - len(question)
            if not turn.segments and room > 0:
                answer = answer[:room]  # text answers may be truncated, answers with chain tokens may not
            length = len(question) + len(answer)
            if start + length > self.mllm.max_tokens:
                most = self.mllm.max_tokens
                raise DataError(
                    f"the question is too long: {start + length} tokens with its prompt, at most {most}",
                    hint="shorten the question",
                )
            row = rows[0 if self.mllm.packs else branch - 1]
            row.ids.extend([*question, *answer])
            row.position_ids.extend(range(start, start + length))
            row.sequence_ids.extend([branch] * length)
            row.labels.extend([*[IGNORED_LABEL] * len(question), *answer])
        return rows

    def _stack_rows(self, rows: Sequence[Tokens]) -> dict[str, Any]:
        """The fields of a batch that token rows determine, padded to equal length."""
        *columns, _ = zip(*rows, strict=True)
        fill = (self.mllm.pad_id, 0, PADDING, IGNORED_LABEL)
        ids, position_ids, sequence_ids, labels = (
            _pad(column, value) for column, value in zip(columns, fill, strict=True)
        )
        return {
            "input_ids": ids,
            "position_ids": position_ids,
            "sequence_ids": sequence_ids,
            "labels": labels,
            "answer_index": _before(labels != IGNORED_LABEL),
            "chain_index": tuple(_before(ids == chain_id) for chain_id in self.chain_ids),
        }


def _begin_row(prefix: Prefix) -> Tokens:
    start = len(prefix.ids)
    return Tokens(list(prefix.ids), list(range(start)), [PREFIX] * start, [IGNORED_LABEL] * start, prefix)


def _map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Apply `change` to a tensor, or to all tensors in a tuple or mapping; other values stay as they are."""
    if torch.is_tensor(value):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _map_tensors(item, change) for name, item in value.items()}
    return tuple(_map_tensors(item, change) for item in value) if isinstance(value, tuple) else value


def _stack_masks(sample: Sample) -> Tensor:
    height, width = sample.image.shape[:2]
    return torch.from_numpy(np.stack(sample.masks)) if sample.masks else torch.zeros(0, height, width, dtype=torch.bool)


def _stack_ignores(sample: Sample) -> Tensor | None:
    if all(mask is None for mask in sample.ignores):
        return None
    blank = np.zeros_like(sample.masks[0])
    return torch.from_numpy(np.stack([blank if mask is None else mask for mask in sample.ignores]))


def _before(tokens: Tensor) -> Tensor:
    """Positions in the flattened rows before the tokens that are True in (R, T)."""
    return functional.pad(tokens[:, 1:], (0, 1)).flatten().nonzero().flatten()


def _pad(rows: Sequence[list[int]], value: int) -> Tensor:
    longest = max(len(row) for row in rows)
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])
