"""Prompts for LLaVA 1 and 1.5: one square image, and a conversation in one of the templates of the releases.

The image is placed between system text and question, so all turns share system text, in-context example and image.
Source: the CoReS and LISA releases, with their templates `llava_v1`, `llava_v0` and `llava_llama_2`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cores_core import prompts
from cores_core.images import normalise
from cores_core.model.processor import Prefix
from cores_core.model.tokenizer import Tokenizer, encode, token_id
from cores_core.prompts import PromptFormat
from cores_core.sample import Sample, Turn

MAX_PREFIXES = 64  # in-context examples whose ids are cached
PADDED_AT_ONCE = 1 << 22
"""Pixels of a padded image in memory at a time: the full padded square may be far larger than the image."""
MAX_CROPPED_ASPECT = 64
"""Aspect ratio above which an image is cropped before it is resized, to bound the memory."""
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Square:
    """Image preprocessing for a CLIP vision tower: side in pixels, number of image tokens, fit by `pad` or `crop`."""

    side: int
    tokens: int
    fit: Literal["pad", "crop"]


class LlavaPrompts:
    """Ids and pixels for a LLaVA, see `MllmPrompts`."""

    def __init__(self, tokenizer: Tokenizer, prompt: PromptFormat, square: Square, max_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.square = square
        self.max_tokens = max_tokens
        self.packs = True
        self.end_id, self.pad_id = token_id(tokenizer, prompts.END), token_id(tokenizer, prompts.UNKNOWN)
        self.added_ids: tuple[int, ...] = (
            token_id(tokenizer, prompts.IMAGE_START),
            token_id(tokenizer, prompts.IMAGE_END),
        )
        self._prefixes: dict[str | None, list[int]] = {}

    def prefix(self, sample: Sample) -> Prefix:
        """Ids of system text, in-context example, the user's role and one image token per patch; no tensors."""
        example = sample.example
        if example not in self._prefixes:
            if len(self._prefixes) >= MAX_PREFIXES:
                self._prefixes.clear()
            self._prefixes[example] = self._encode_prefix(example)
        return Prefix(self._prefixes[example], {})

    def question(self, turn: Turn) -> list[int]:
        """Ids between the image and the answer: earlier turns, the question, the assistant's role."""
        return encode(self.tokenizer, prompts.render_question(turn, self.prompt))

    def answer(self, turn: Turn) -> list[int]:
        """Ids of a turn's answer with the end token."""
        return encode(self.tokenizer, f"{prompts.render_answer(turn, self.prompt)}{prompts.END}")

    def vision(self, samples: Sequence[Sample], prefixes: Sequence[Prefix]) -> Mapping[str, Tensor]:
        """`pixel_values` of the vision tower, (B, 3, s, s), normalised."""
        return {"pixel_values": torch.stack([square_pixels(Image.fromarray(s.image), self.square) for s in samples])}

    def save_pretrained(self, folder: Path) -> None:
        """Save the tokenizer."""
        self.tokenizer.save_pretrained(folder)

    def _encode_prefix(self, example: str | None) -> list[int]:
        (start, end), image = self.added_ids, token_id(self.tokenizer, prompts.IMAGE)
        text = encode(self.tokenizer, prompts.render_prefix(self.prompt, example))
        return [token_id(self.tokenizer, prompts.BEGIN), *text, start, *[image] * self.square.tokens, end]


def square_pixels(image: Image.Image, square: Square) -> Tensor:
    """Preprocess an image to (3, s, s): resize the shortest side to s and centre crop, or pad to a square; bicubic."""
    size, longest, shortest = square.side, max(image.size), min(image.size)
    if square.fit == "crop":
        ends = max((longest - MAX_CROPPED_ASPECT * shortest) // 2, 0)
        image = _crop_middle(image, *(side - 2 * ends if side == longest else side for side in image.size))
        width, height = image.size
        image = image.resize((size * width // shortest, size * height // shortest), Image.Resampling.BICUBIC)
        image = _crop_middle(image, size, size)
    else:
        for _ in range(2):  # rows first, then columns, like Pillow: same pixels as resizing the padded square
            image = _resize_padded_rows(image, longest, size).transpose(Image.Transpose.TRANSPOSE)
    pixels = np.asarray(image, dtype=np.float32) / np.float32(255)
    return torch.from_numpy(normalise(pixels, CLIP_MEAN, CLIP_STD))


def _resize_padded_rows(image: Image.Image, padded: int, size: int) -> Image.Image:
    """Pad each row on both sides to `padded` pixels and resize it to `size`, in bands of rows."""
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
