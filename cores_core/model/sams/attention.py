"""A faster drop-in replacement for the attention of SAM's image encoder, with the same values and less memory.

`RowAttention` processes a few rows of queries at a time; without gradients on a CPU, a few rows of one
head, or a few windows, and changes their scores in place. The stock layer holds several copies of all scores,
(heads, h*w, h*w): 1 GB each in float32 for ViT-H at 1024 pixels; those of a few rows fit the CPU's cache. The output is
bit-identical. `scaled_dot_product_attention` is hardly faster on a CPU and rounds differently, which occasionally
changes a mask pixel.
"""

from collections.abc import Iterator
from typing import Final

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention
from segment_anything.modeling.image_encoder import get_rel_pos as stock_rel_pos
from torch import Tensor, nn

CPU_QUERIES: Final = 128
"""Query cells per block on a CPU; the scores fit its cache (measured: 1024 take twice as long)."""
CPU_SCORES: Final = 2**20
"""Scores per block on a CPU without gradients: 4 MB, some rows of a head, or some windows (measured: 2 MB take 10 %
longer, 16 MB as well)."""
QUERIES: Final = 1024
"""Query cells per block on other devices: enough to use a GPU fully, a quarter of all scores at 1024 pixels."""


class RowAttention(nn.Module):
    """SAM's attention with relative positions. Takes over the weights of a stock layer, with the same names."""

    def __init__(self, stock: Attention) -> None:
        super().__init__()
        self.num_heads, self.scale = stock.num_heads, float(stock.scale)
        self.qkv, self.proj = stock.qkv, stock.proj
        self.rel_pos_h, self.rel_pos_w = stock.rel_pos_h, stock.rel_pos_w

    def forward(self, cells: Tensor) -> Tensor:
        """Attend among the cells of each window, (B, h, w, D) to (B, h, w, D)."""
        count, height, width, _ = cells.shape
        split = self.qkv(cells).reshape(count, height * width, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        queries, keys, values = split.reshape(3, count * self.num_heads, height * width, -1).unbind(0)
        if cells.device.type == "cpu" and not (torch.is_grad_enabled() or torch.compiler.is_compiling()):
            seen = self._attend_in_cache(queries, keys, values, height, width)
        else:
            blocks = [scores.softmax(dim=-1) @ values for scores in self._scores(queries, keys, height, width)]
            seen = torch.cat(blocks, dim=1)
        by_head = seen.view(count, self.num_heads, height, width, -1)
        mixed: Tensor = self.proj(by_head.permute(0, 2, 3, 1, 4).reshape(count, height, width, -1))
        return mixed

    def _attend_in_cache(self, queries: Tensor, keys: Tensor, values: Tensor, height: int, width: int) -> Tensor:
        """Attention without gradients by blocks of `CPU_SCORES` scores, which are changed in place."""
        grid, scaled = queries.view(-1, height, width, queries.shape[2]), queries * self.scale
        by_row = torch.einsum("nhwd,hkd->nhwk", grid, get_rel_pos(height, self.rel_pos_h)).flatten(1, 2)
        by_column = torch.einsum("nhwd,wkd->nhwk", grid, get_rel_pos(width, self.rel_pos_w)).flatten(1, 2)
        cells = height * width
        at_once = max(1, min(cells, CPU_SCORES // cells))
        heads = max(1, CPU_SCORES // (at_once * cells))
        seen = torch.empty_like(queries)
        for first in range(0, len(queries), heads):
            some = slice(first, first + heads)
            for start in range(0, cells, at_once):
                block = some, slice(start, start + at_once)
                scores = scaled[block] @ keys[some].transpose(1, 2)
                by_cell = scores.view(*scores.shape[:2], height, width)
                by_cell += by_row[block][..., :, None]
                by_cell += by_column[block][..., None, :]
                torch.softmax(scores, dim=-1, out=scores)  # row by row, so that it may overwrite its input
                seen[block] = scores @ values[some]
        return seen

    def _scores(self, queries: Tensor, keys: Tensor, height: int, width: int) -> Iterator[Tensor]:
        """Yield attention scores of a few rows of queries at a time, (B*heads, rows*w, h*w)."""
        down, across = get_rel_pos(height, self.rel_pos_h), get_rel_pos(width, self.rel_pos_w)
        grid, scaled = (cells.view(-1, height, width, keys.shape[2]) for cells in (queries, queries * self.scale))
        rows = max(1, (CPU_QUERIES if queries.device.type == "cpu" else QUERIES) // width)
        for start in range(0, height, rows):
            some = slice(start, start + rows)
            by_row = torch.einsum("nhwd,hkd->nhwk", grid[:, some], down[some])
            by_column = torch.einsum("nhwd,wkd->nhwk", grid[:, some], across)
            scores = scaled[:, some].flatten(1, 2) @ keys.transpose(1, 2)
            scores = scores.view(len(keys), -1, height, width)
            scores = scores + by_row.flatten(1, 2)[..., :, None] + by_column.flatten(1, 2)[..., None, :]
            yield scores.flatten(2)


def get_rel_pos(size: int, table: Tensor) -> Tensor:
    """Embeddings of the positions of `size` keys relative to as many queries, (size, size, d), from (2 * size - 1, d).

    As segment-anything's, whose indices are on the CPU, so that a GPU waits for their copy in each layer.
    """
    if len(table) != 2 * size - 1:
        resized: Tensor = stock_rel_pos(size, size, table)
        return resized
    place = torch.arange(size, device=table.device)
    return table[place[:, None] - place + (size - 1)]


def attend_by_rows(image_encoder: ImageEncoderViT) -> None:
    """Replace the attention layers of an image encoder by `RowAttention`, in place."""
    for block in image_encoder.blocks:
        block.attn = RowAttention(block.attn)
