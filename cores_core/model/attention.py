"""The attention of SAM's image encoder a few rows of queries at a time: equal in value, without its square of scores.

The stock one holds a score for every pair of cells, (heads, h*w, h*w), several times over: for ViT-H at 1024 pixels a
gigabyte each in float32. Here the positions' share of the scores is made for some rows only, which stays in the cache
of a processor, and `scaled_dot_product_attention` does the rest without keeping the scores.
"""

from collections.abc import Iterator
from typing import Final

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention, get_rel_pos
from torch import Tensor, nn
from torch.nn import functional

CPU_QUERIES: Final = 64
"""Cells whose scores are made together on a CPU: few enough for its cache (measured: 1024 take twice as long)."""
QUERIES: Final = 1024
"""The same elsewhere: enough to keep a GPU busy, a quarter of the square of scores at 1024 pixels."""


class RowAttention(nn.Module):
    """SAM's attention with relative positions, with the weights of a stock one under the same names."""

    def __init__(self, stock: Attention) -> None:
        super().__init__()
        self.num_heads = stock.num_heads
        self.qkv, self.proj = stock.qkv, stock.proj
        self.rel_pos_h, self.rel_pos_w = stock.rel_pos_h, stock.rel_pos_w

    def forward(self, cells: Tensor) -> Tensor:
        """Attend among the cells of each window, (B, h, w, D) to (B, h, w, D)."""
        count, height, width, _ = cells.shape
        shape = (count, height, width, 3, self.num_heads, -1)
        queries, keys, values = self.qkv(cells).reshape(shape).permute(3, 0, 4, 1, 2, 5).unbind(0)
        keys, values = keys.flatten(2, 3), values.flatten(2, 3)  # (B, heads, h*w, d)
        seen = [
            functional.scaled_dot_product_attention(some.flatten(2, 3), keys, values, attn_mask=bias)
            for some, bias in self._rows(queries)
        ]
        joined = torch.cat(seen, dim=2).transpose(1, 2)  # (B, h*w, heads, d)
        mixed: Tensor = self.proj(joined.reshape(count, height, width, -1))
        return mixed

    def _rows(self, queries: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Some rows of queries (B, heads, h, w, d), and what positions add to their scores, (B, heads, rows*w, h*w)."""
        height, width = queries.shape[2:4]
        down, across = get_rel_pos(height, height, self.rel_pos_h), get_rel_pos(width, width, self.rel_pos_w)
        rows = max(1, (CPU_QUERIES if queries.device.type == "cpu" else QUERIES) // width)
        for some, below in zip(torch.split(queries, rows, dim=2), torch.split(down, rows), strict=True):
            by_row = torch.einsum("bnhwd,hkd->bnhwk", some, below)
            by_column = torch.einsum("bnhwd,wkd->bnhwk", some, across)
            bias = by_row[..., :, None] + by_column[..., None, :]
            yield some, bias.flatten(4, 5).flatten(2, 3)


def attend_by_rows(image_encoder: ImageEncoderViT) -> None:
    """Let all blocks of an encoder attend by rows, with the weights that they have."""
    for block in image_encoder.blocks:
        block.attn = RowAttention(block.attn)
