"""New tokens for a pretrained MLLM: ids in its tokenizer, rows in its embedding and its head."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from cores_core import prompts
from cores_core.config import LanguageConfig
from cores_core.model.names import EMBEDDING, HEAD
from cores_core.model.processor import Tokenizer
from cores_core.model.tensors import Tensors, get_tensor

NEW_ROW_STD = 0.02
"""Standard deviation of the rows of new tokens. Source: the releases, which leave it to LLaMA's initialisation."""


def add_tokens(
    language: LanguageConfig, tokenizer: Tokenizer, weights: Tensors, tokens: Sequence[str]
) -> LanguageConfig:
    """Add those tokens that a tokenizer lacks, with rows from torch's global generator. Changes tokenizer and weights.

    Returns:
        The language config with the new size of the vocabulary; one that was padded may have room for them already.
    """
    return _add(language, tokenizer, weights, tokens, NEW_ROW_STD)


def add_image_token(language: LanguageConfig, tokenizer: Tokenizer, weights: Tensors) -> LanguageConfig:
    """Give the image token, which has no id in the original LLaVA, one with rows of zeros that nothing ever reads."""
    return _add(language, tokenizer, weights, (prompts.IMAGE,), 0.0)


def _add(
    language: LanguageConfig, tokenizer: Tokenizer, weights: Tensors, tokens: Sequence[str], std: float
) -> LanguageConfig:
    new = [token for token in tokens if not knows(tokenizer, token)]
    if not new:
        return language
    tokenizer.add_tokens(new, special_tokens=True)
    ids = [tokenizer.convert_tokens_to_ids(token) for token in new]
    size = max(language.vocabulary, *(index + 1 for index in ids))
    for name in (EMBEDDING, HEAD):
        weights[name] = rows = _grow(get_tensor(weights, name), size)
        rows[ids] = (torch.randn(len(ids), rows.shape[1]) * std).to(rows)
    return replace(language, vocabulary=size)


def knows(tokenizer: Tokenizer, token: str) -> bool:
    """Whether a tokenizer has this token, checked round trip."""
    index = tokenizer.convert_tokens_to_ids(token)
    return index is not None and tokenizer.convert_ids_to_tokens(index) == token


def _grow(rows: Tensor, size: int) -> Tensor:
    return torch.cat([rows, rows.new_zeros(size - len(rows), rows.shape[1])])
