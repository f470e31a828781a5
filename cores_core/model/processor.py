"""From samples to tensors: tokens, the MLLM's pixels, SAM's pixels. The only place that knows sizes, means and padding.

The turns of one image share its prefix (system text, example, image). They are packed into one sequence, prefix first,
then one branch for each turn; `branches` tells which token belongs to which, and every branch's positions start again
where the prefix ends. Ids are built piece by piece, so labels need no counting and no search.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cores_core import prompts
from cores_core.errors import DataError
from cores_core.images import fit_hw
from cores_core.masks import resize_mask
from cores_core.prompts import PromptFormat
from cores_core.sample import ImageSize, Sample, Turn

IGNORED_LABEL = -100
MAX_PREFIXES = 64  # in-context examples whose ids are kept
PADDED_AT_ONCE = 1 << 22
"""Pixels that are held of an image that is padded to a square, whose area is that of its longest side."""
MAX_CROPPED_ASPECT = 64
"""Aspect ratio above which only the middle of an image is resized before the centre crop, which bounds the memory."""
DECODER_SCALE = 4
"""Pixels a side that SAM's decoder makes of one patch."""
PREFIX, PADDING = 0, -1
"""Values of `Batch.branches` beside the turns, which count from 1."""

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SAM_MEAN, SAM_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Batch:
    """B images with N turns that segment in all, T tokens in the longest packed sequence.

    Attributes:
        input_ids: (B, T) tokens; image tokens already repeated as often as the vision tower has patches.
        positions: (B, T) rotary position of each token.
        branches: (B, T) 0 for the prefix, 1.. for the turns, -1 for padding.
        labels: (B, T) the token itself where it belongs to an answer, else -100.
        mllm_pixels: (B, 3, s, s). sam_pixels: (B, 3, S, S).
        sizes: B image sizes. counts: B numbers of turns that segment.
        masks, ignores: for each image (N_b, H, W) bool targets, and pixels that count nowhere (None for none); both
            empty without targets.
        categories: N names of what the masks show.
        things: for each image the (category, kind) of all it is known to show; `thing_maps` (R, 4h, 4w) uint8 their
            masks in SAM's frame at the decoder's resolution, 0-255. Both empty where the samples tell nothing.
        keys: B names of the images' pixels, "" for none.
    """

    input_ids: Tensor
    positions: Tensor
    branches: Tensor
    labels: Tensor
    mllm_pixels: Tensor
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
        """(B, T-1) bool: the tokens whose next one belongs to an answer."""
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
        return replace(self, **changes, masks=masks, ignores=ignores, thing_maps=maps)


class Tokens(NamedTuple):
    """One row of the token tensors of a `Batch`, before padding; all four of the same length."""

    ids: list[int]
    positions: list[int]
    branches: list[int]
    labels: list[int]


def batch_tensors(batch: Batch) -> dict[str, Any]:
    """A batch as plain tensors and values, to be kept and looked at."""
    return {entry.name: getattr(batch, entry.name) for entry in fields(batch) if entry.name != "sizes"}


class Tokenizer(Protocol):
    """What a processor needs of a tokenizer. Those of transformers have it, and so has `SentencePieceTokenizer`."""

    def convert_tokens_to_ids(self, token: str) -> int:
        """The id of a token."""

    def convert_ids_to_tokens(self, index: int) -> str:
        """The token of an id."""

    def encode(self, text: str, add_special_tokens: bool = ...) -> list[int]:
        """Text to ids."""

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = ...) -> str:
        """Ids to text."""

    def add_tokens(self, tokens: Sequence[str], special_tokens: bool = ...) -> int:
        """Add tokens behind those there are."""

    def save_pretrained(self, folder: Path) -> Any:
        """Write what it can be loaded from."""


@dataclass(frozen=True)
class ImageFormat:
    """How images meet the two encoders: square sizes in pixels, tokens an image, `pad` or `crop` for the MLLM.

    `sam_grid` is how many patches SAM's square has a side.
    """

    mllm_size: int
    mllm_tokens: int
    mllm_fit: Literal["pad", "crop"]
    sam_size: int
    sam_grid: int


class Processor:
    """Tokenizer, prompt format and image transforms of one model."""

    def __init__(self, tokenizer: Tokenizer, prompt: PromptFormat, images: ImageFormat, max_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.images = images
        self.max_tokens = max_tokens
        self.chain_ids = tuple(self.token_id(token) for token in prompt.chain)
        self.end_id = self.token_id(prompts.END)
        self._prefixes: dict[str | None, list[int]] = {}

    def token_id(self, token: str) -> int:
        """Id of a special token; checked round trip, because some tokenizers put a blank piece in front."""
        index = int(self.tokenizer.convert_tokens_to_ids(token))
        if self.tokenizer.convert_ids_to_tokens(index) != token:
            raise DataError(f"the tokenizer does not know the token {token}")
        return index

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

    def collate_tokenized(self, samples: Sequence[Sample], rows: Sequence[Tokens]) -> Batch:
        """Make a batch of B images with the tokens that `tokenize` gave for each."""
        columns = zip(*rows, strict=True)
        fill = (self.token_id(prompts.UNKNOWN), 0, PADDING, IGNORED_LABEL)
        ids, positions, branches, labels = (_pad(column, value) for column, value in zip(columns, fill, strict=True))
        return Batch(
            input_ids=ids,
            positions=positions,
            branches=branches,
            labels=labels,
            mllm_pixels=torch.stack([mllm_pixels(Image.fromarray(sample.image), self.images) for sample in samples]),
            **self._pictures(samples),
        )

    def collate_pictures(self, samples: Sequence[Sample]) -> Batch:
        """Make a batch for SAM alone: no tokens, no pixels for the MLLM."""
        empty = torch.zeros(len(samples), 0, dtype=torch.long)
        return Batch(
            input_ids=empty,
            positions=empty,
            branches=empty,
            labels=empty,
            mllm_pixels=torch.zeros(len(samples), 3, 0, 0),
            **self._pictures(samples),
        )

    def _pictures(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """All of a batch that SAM and the losses need."""
        has_masks = any(sample.masks for sample in samples)
        sam = [sam_pixels(Image.fromarray(sample.image), self.images.sam_size) for sample in samples]
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
                thing_maps(sample, size.resized_hw, self.images)
                for sample, (_, size) in zip(samples, sam, strict=True)
                if sample.scene
            ),
        }

    def answer_ids(self, turn: Turn) -> list[int]:
        """Ids of a turn's answer with the end token."""
        return self._encode(f"{prompts.render_answer(turn, self.prompt)}{prompts.END}")

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated ids, special tokens of the chain included, the end token left out."""
        return str(self.tokenizer.decode([i for i in ids if i != self.end_id], skip_special_tokens=False)).strip()

    def _prefix_ids(self, example: str | None) -> list[int]:
        if example not in self._prefixes:
            if len(self._prefixes) >= MAX_PREFIXES:
                self._prefixes.clear()
            self._prefixes[example] = self._encode_prefix(example)
        return self._prefixes[example]

    def _encode_prefix(self, example: str | None) -> list[int]:
        image = [self.token_id(prompts.IMAGE)] * self.images.mllm_tokens
        return [
            self.token_id(prompts.BEGIN),
            *self._encode(prompts.render_prefix(self.prompt, example)),
            self.token_id(prompts.IMAGE_START),
            *image,
            self.token_id(prompts.IMAGE_END),
        ]

    def tokenize(self, sample: Sample, answers: Sequence[Sequence[int]] | None = None) -> Tokens:
        """The packed sequence of an image's turns, with the ids of other answers if they are given; see `collate`.

        Raises:
            DataError: a question is too long.
        """
        answers = [self.answer_ids(turn) for turn in sample.turns] if answers is None else answers
        ids = list(self._prefix_ids(sample.example))
        start = len(ids)
        positions, branches, labels = list(range(start)), [PREFIX] * start, [IGNORED_LABEL] * start
        for branch, (turn, answer) in enumerate(zip(sample.turns, answers, strict=True), start=1):
            question = self._encode(prompts.render_question(turn, self.prompt))
            room = self.max_tokens - start - len(question)
            if not turn.segments and room > 0:
                answer = answer[:room]  # words may be cut off, a chain may not
            length = len(question) + len(answer)
            if start + length > self.max_tokens:
                raise DataError(
                    f"the question is too long: {start + length} tokens with its prompt, at most {self.max_tokens}",
                    hint="shorten the question",
                )
            ids += [*question, *answer]
            positions += range(start, start + length)
            branches += [branch] * length
            labels += [*[IGNORED_LABEL] * len(question), *answer]
        return Tokens(ids, positions, branches, labels)

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))


def sam_pixels(image: Image.Image, size: int) -> tuple[Tensor, ImageSize]:
    """Longest side to `size` (antialiased bilinear), normalise, zero-pad right and bottom: (3, size, size)."""
    width, height = image.size
    resized_hw = fit_hw((height, width), size)
    resized = np.asarray(image.resize(resized_hw[::-1], Image.Resampling.BILINEAR))
    pixels = _normalise(resized.astype(np.float32), SAM_MEAN, SAM_STD)
    padded = torch.zeros(3, size, size)
    padded[:, : resized_hw[0], : resized_hw[1]] = pixels
    return padded, ImageSize(original_hw=(height, width), resized_hw=resized_hw)


def mllm_pixels(image: Image.Image, images: ImageFormat) -> Tensor:
    """The vision tower's square: shortest side to size and centre crop, or padded to a square; bicubic."""
    size, longest, shortest = images.mllm_size, max(image.size), min(image.size)
    if images.mllm_fit == "crop":
        ends = max((longest - MAX_CROPPED_ASPECT * shortest) // 2, 0)
        image = _crop_middle(image, *(side - 2 * ends if side == longest else side for side in image.size))
        width, height = image.size
        image = image.resize((size * width // shortest, size * height // shortest), Image.Resampling.BICUBIC)
        image = _crop_middle(image, size, size)
    else:
        for _ in range(2):  # rows first, then columns, as Pillow resizes a square: the pixels are the same
            image = _resize_padded_rows(image, longest, size).transpose(Image.Transpose.TRANSPOSE)
    return _normalise(np.asarray(image, dtype=np.float32) / np.float32(255), CLIP_MEAN, CLIP_STD)


def _resize_padded_rows(image: Image.Image, padded: int, size: int) -> Image.Image:
    """Pad each row at both ends to `padded` pixels and resize it to `size`, a band of rows at a time."""
    resized = Image.new("RGB", (size, image.height))
    step = max(PADDED_AT_ONCE // padded, 1)
    for top in range(0, image.height, step):
        rows = min(step, image.height - top)
        band = Image.new("RGB", (padded, rows), tuple(int(255 * mean) for mean in CLIP_MEAN))
        band.paste(image.crop((0, top, image.width, top + rows)), ((padded - image.width) // 2, 0))
        resized.paste(band.resize((size, rows), Image.Resampling.BICUBIC), (0, top))
    return resized


def _crop_middle(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def thing_maps(sample: Sample, resized_hw: tuple[int, int], images: ImageFormat) -> Tensor:
    """How much of each decoder pixel (4 a patch and side) each thing covers, (R, 4h, 4w) uint8 from 0 to 255."""
    square = np.zeros((len(sample.scene), images.sam_size, images.sam_size), dtype=np.uint8)
    for thing, frame in zip(sample.scene, square, strict=True):
        mask = thing.mask.astype(np.uint8) * 255
        frame[: resized_hw[0], : resized_hw[1]] = resize_mask(mask, resized_hw)
    side = DECODER_SCALE * images.sam_grid
    return torch.from_numpy(np.stack([resize_mask(frame, (side, side)) for frame in square]))


def _normalise(pixels: NDArray[np.float32], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    scaled = (pixels - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)))


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
