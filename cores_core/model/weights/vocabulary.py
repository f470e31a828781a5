"""Add tokens to a pretrained MLLM: ids in its tokenizer, rows in its token embedding and vocabulary head."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cores_core import prompts
from cores_core.model.tokenizer import Tokenizer, knows
from cores_core.model.weights.names import HEAD
from cores_core.model.weights.tensors import Tensors

NEW_ROW_STD = 0.02
"""Standard deviation of new rows. Source: the releases, which use LLaMA's initialisation."""


def add_tokens(tokenizer: Tokenizer, weights: Tensors, tokens: Sequence[str]) -> int:
    """Add missing tokens, with rows from torch's global generator. Changes tokenizer and weights in place.

    Returns:
        The number of rows of the embedding, unchanged if it was padded and has free rows.
    """
    return _add(tokenizer, weights, tokens, NEW_ROW_STD)


def add_image_token(tokenizer: Tokenizer, weights: Tensors) -> int:
    """Add the image placeholder token, which the original LLaVA lacks, with rows of zeros, which are never used."""
    return _add(tokenizer, weights, (prompts.IMAGE,), 0.0)


def embedding_name(weights: Mapping[str, Tensor]) -> str:
    """Name of the language model's token embedding in the state dict of a model."""
    return next(filter(is_embedding, weights))


def is_embedding(name: str) -> bool:
    """Whether a tensor name is that of the language model's token embedding."""
    return name.startswith("mllm.") and name.endswith("_model.embed_tokens.weight")


def _add(tokenizer: Tokenizer, weights: Tensors, tokens: Sequence[str], std: float) -> int:
    embedding = embedding_name(weights)
    size = len(weights[embedding])
    new = [token for token in tokens if not knows(tokenizer, token)]
    if not new:
        return size
    tokenizer.add_tokens(new, special_tokens=True)
    ids = [tokenizer.convert_tokens_to_ids(token) for token in new]
    size = max(size, *(index + 1 for index in ids))
    for name in (embedding, HEAD):
        if name in weights:  # a tied head is not
            weights[name] = rows = _grow(weights[name], size)
            rows[ids] = (torch.randn(len(ids), rows.shape[1]) * std).to(rows)
    return size


def _grow(rows: Tensor, size: int) -> Tensor:
    return torch.cat([rows, rows.new_zeros(size - len(rows), rows.shape[1])])
