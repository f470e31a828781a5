"""Attention masks of packed sequences, the same for all model families."""

from typing import NamedTuple

import torch
from torch import Tensor

from cores_core.model.processor import PADDING, PREFIX


class Places(NamedTuple):
    """Token coordinates of R packed rows: `sequence_ids` and index in the unpacked sequence (`order`), both (R, T).

    `image` (R, T) bool is true for image tokens.
    """

    sequence_ids: Tensor
    order: Tensor
    image: Tensor

    def followed_by(self, others: "Places") -> "Places":
        """Concatenate with later tokens along T."""
        return Places(*(torch.cat(pair, dim=1) for pair in zip(self, others, strict=True)))


def additive_mask(
    queries: Places, keys: Places, both_ways: bool, dtype: torch.dtype, window: int | None = None
) -> Tensor:
    """Additive attention mask (R, 1, Tq, Tk): 0 where a query attends to a key, else the lowest value of `dtype`.

    A token attends causally to the prefix and to its own branch. The mask is additive because transformers' eager
    attention adds boolean masks as 0 and 1.

    Args:
        both_ways: whether image tokens attend to each other bidirectionally.
        window: size of a sliding window in tokens, including the token itself; None for no window.
    """
    query, key = Places(*(t[:, :, None] for t in queries)), Places(*(t[:, None] for t in keys))
    same = (key.sequence_ids == query.sequence_ids) | ((key.sequence_ids == PREFIX) & (query.sequence_ids != PADDING))
    seen = key.order <= query.order
    if both_ways:
        seen = seen | (query.image & key.image)
    if window is not None:
        seen = seen & (key.order > query.order - window)
    visible = (same & seen)[:, None]
    return torch.where(visible, torch.zeros((), dtype=dtype, device=visible.device), torch.finfo(dtype).min)
