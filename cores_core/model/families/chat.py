"""Prompts for multimodal LLMs of the hub, with the chat template and image processor of the model.

The template is rendered once, with placeholders for system text, questions and answers, and split at these. The part
before the first question goes through the processor, which expands the image token; the rest is tokenised as text.
User text never goes through the template engine. The end token is the first token after an answer.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import ProcessorMixin

from cores_core.errors import CheckpointError, DataError, reason_of
from cores_core.images import fit_hw, resize_image
from cores_core.model.families.table import Family
from cores_core.model.processor import Prefix
from cores_core.model.tokenizer import Tokenizer, encode
from cores_core.prompts import PromptFormat, break_up
from cores_core.sample import RgbImage, Sample, Turn

_SYSTEM, _QUESTIONS, _ANSWERS = "\x01S\x01", ("\x01Q\x01", "\x01R\x01"), ("\x01A\x01", "\x01B\x01")
"""Placeholders made of control characters, which no template contains."""


@dataclass(frozen=True)
class TemplatePieces:
    """A chat template split into literal pieces.

    Attributes:
        before: up to the system text. opening: from there to the first question, with the image token.
        said: between an earlier question and its answer. again: between that answer and the next question.
        answer: between the last question and its answer; in some templates longer than `said`.
        end: the token that ends an answer.
    """

    before: str
    opening: str
    said: str
    again: str
    answer: str
    end: str


def cut_template(processor: ProcessorMixin) -> TemplatePieces:
    """Render a conversation of two rounds about an image, and split it at the placeholders.

    Raises:
        CheckpointError: the processor has no template, or it omits or reorders parts of the conversation.
    """
    rounds = zip(_QUESTIONS, _ANSWERS, strict=True)
    messages = [_message("system", _SYSTEM)]
    for question, answer in rounds:
        messages += [_message("user", question), _message("assistant", answer)]
    messages[1]["content"].insert(0, {"type": "image"})
    try:
        text: str = processor.apply_chat_template(messages)
    except ValueError as error:
        raise CheckpointError(f"the processor has no chat template ({reason_of(error)})") from error
    pieces: list[str] = []
    for placeholder in (_SYSTEM, _QUESTIONS[0], _ANSWERS[0], _QUESTIONS[1], _ANSWERS[1]):
        piece, found, text = text.partition(placeholder)
        if not found:
            raise CheckpointError("the chat template omits a part of the conversation, or changes its order")
        pieces.append(piece)
    before, opening, said, again, answer = pieces
    end = processor.tokenizer.convert_ids_to_tokens(encode(processor.tokenizer, again)[0])
    if end not in processor.tokenizer.get_added_vocab():
        raise CheckpointError(f"the chat template ends an answer with text instead of a special token: {again!r}")
    return TemplatePieces(before, opening, said, again, answer, end)


class ChatPrompts:
    """Ids and image tensors for a multimodal LLM of the hub, see `MllmPrompts`.

    `image_tokens` limits the tokens per image (None: the processor's own limit). The limit is set on a copy of the
    processor; the original is saved unchanged, so that another limit can be chosen on loading.
    """

    def __init__(
        self,
        processor: ProcessorMixin,
        family: Family,
        prompt: PromptFormat,
        max_tokens: int,
        image_tokens: int | None = None,
    ) -> None:
        self.processor = processor
        self.tokenizer: Tokenizer = processor.tokenizer
        self.prompt = prompt
        self.max_tokens = max_tokens
        self.packs = family.packs
        self._family = family
        self._pieces = cut_template(processor)
        self.end_id = int(self.tokenizer.convert_tokens_to_ids(self._pieces.end))
        self.pad_id = self.end_id
        self.added_ids: tuple[int, ...] = ()
        self._special = tuple(self.tokenizer.get_added_vocab())
        self._capped = copy.copy(processor)
        self._capped.image_processor = copy.deepcopy(processor.image_processor)
        self._longest = None if image_tokens is None else family.cap(self._capped, image_tokens)

    def prefix(self, sample: Sample) -> Prefix:
        """Ids of system text, in-context example and image, with the image tensors.

        Raises:
            DataError: the model's image processor rejects the image.
        """
        system = break_up(self.prompt.system(sample.example).strip(), self._special)
        text = f"{self._pieces.before}{system}{self._pieces.opening}"
        image = Image.fromarray(self._shrink(sample.image))
        try:
            given = self._capped(text=[text], images=[image], add_special_tokens=False, return_tensors="pt")
        except ValueError as error:
            size = f"{image.width}x{image.height}"
            hint = "crop it, or make it larger"
            raise DataError(f"the model's image processor rejects an image of {size} pixels: {error}", hint) from error
        return Prefix(given["input_ids"][0].tolist(), {name: given[name] for name in self._family.image_keys})

    def question(self, turn: Turn) -> list[int]:
        """Ids of earlier turns, the question, and the template's text between question and answer."""
        text = ""
        for said in turn.history:
            text += f"{said.question}{self._pieces.said}{said.answer}{self._pieces.again}"
        return encode(self.tokenizer, f"{text}{turn.question}{self._pieces.answer.rstrip(' ')}")

    def answer(self, turn: Turn) -> list[int]:
        """Ids of the answer and the end token, including spaces that the template has before an answer."""
        blanks = self._pieces.answer[len(self._pieces.answer.rstrip(" ")) :]
        return encode(self.tokenizer, f"{blanks}{turn.answer}{self._pieces.end}")

    def vision(self, samples: Sequence[Sample], prefixes: Sequence[Prefix]) -> Mapping[str, Tensor]:
        """Image tensors of a batch, concatenated along the first axis."""
        tensors = {name: [prefix.vision[name] for prefix in prefixes] for name in self._family.image_keys}
        if self._family.pads_tiles:
            tensors = {name: _pad_tiles(values) for name, values in tensors.items()}
        return {name: torch.cat(values) for name, values in tensors.items()}

    def save_pretrained(self, folder: Path) -> None:
        """Save the complete processor: tokenizer, template, image processor."""
        self.processor.save_pretrained(folder)

    def _shrink(self, image: RgbImage) -> RgbImage:
        if self._longest is None or max(image.shape[:2]) <= self._longest:
            return image
        height, width = image.shape[:2]
        return resize_image(image, fit_hw((height, width), self._longest))


def _message(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def _pad_tiles(values: Sequence[Tensor]) -> list[Tensor]:
    """Pad images (1, tiles, ...) with zero tiles to the same number of tiles; tensors with fewer axes are unchanged."""
    if values[0].ndim < 4:
        return list(values)
    most = max(value.shape[1] for value in values)
    return [torch.cat([v, v.new_zeros(1, most - v.shape[1], *v.shape[2:])], dim=1) for v in values]
