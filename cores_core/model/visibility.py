"""Which tokens of packed sequences see which: one rule for all families of models."""

from typing import NamedTuple

import torch
from torch import Tensor

from cores_core.model.processor import PADDING, PREFIX


class Places(NamedTuple):
    """Where the tokens of R rows stand: `branches` and place in the plain sequence (`order`), both (R, T).

    `image` (R, T) bool is true for tokens of the image.
    """

    branches: Tensor
    order: Tensor
    image: Tensor

    def followed_by(self, others: "Places") -> "Places":
        """These tokens and others behind them."""
        return Places(*(torch.cat(pair, dim=1) for pair in zip(self, others, strict=True)))


def additive_mask(
    queries: Places, keys: Places, both_ways: bool, dtype: torch.dtype, window: int | None = None
) -> Tensor:
    """The mask (R, 1, Tq, Tk) that is added to attention scores: 0 where a query sees a key, else the lowest number.

    A token sees those of the prefix and of its own branch that do not stand behind it. It is additive because
    transformers adds boolean masks as 0 and 1 in its eager attention.

    Args:
        both_ways: whether the tokens of the image also see those behind them.
        window: a token sees so many places, itself included; None for all.
    """
    query, key = Places(*(t[:, :, None] for t in queries)), Places(*(t[:, None] for t in keys))
    same = (key.branches == query.branches) | ((key.branches == PREFIX) & (query.branches != PADDING))
    seen = key.order <= query.order
    if both_ways:
        seen = seen | (query.image & key.image)
    if window is not None:
        seen = seen & (key.order > query.order - window)
    visible = (same & seen)[:, None]
    return torch.where(visible, torch.zeros((), dtype=dtype, device=visible.device), torch.finfo(dtype).min)
