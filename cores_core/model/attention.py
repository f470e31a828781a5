"""The attention of SAM's image encoder a few rows of queries at a time: equal to the bit, without its square of scores.

The stock one holds a score for every pair of cells, (heads, h*w, h*w), several times over: for ViT-H at 1024 pixels a
gigabyte each in float32. Those of some rows stay in the cache of a processor. Not `scaled_dot_product_attention`: on a
CPU it is no faster here, and it rounds otherwise, which moves a pixel of a mask now and then.
"""

from collections.abc import Iterator
from typing import Final

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention, get_rel_pos
from torch import Tensor, nn

CPU_QUERIES: Final = 128
"""Cells whose scores are made together on a CPU: few enough for its cache (measured: 1024 take twice as long)."""
QUERIES: Final = 1024
"""The same elsewhere: enough to keep a GPU busy, a quarter of the square of scores at 1024 pixels."""


class RowAttention(nn.Module):
    """SAM's attention with relative positions, with the weights of a stock one under the same names."""

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
        seen = [scores.softmax(dim=-1) @ values for scores in self._scores(queries, keys, height, width)]
        by_head = torch.cat(seen, dim=1).view(count, self.num_heads, height, width, -1)
        mixed: Tensor = self.proj(by_head.permute(0, 2, 3, 1, 4).reshape(count, height, width, -1))
        return mixed

    def _scores(self, queries: Tensor, keys: Tensor, height: int, width: int) -> Iterator[Tensor]:
        """Of some rows of queries at a time, how much each looks at every cell, (B*heads, rows*w, h*w)."""
        down, across = get_rel_pos(height, height, self.rel_pos_h), get_rel_pos(width, width, self.rel_pos_w)
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


def attend_by_rows(image_encoder: ImageEncoderViT) -> None:
    """Let all blocks of an encoder attend by rows, with the weights that they have."""
    for block in image_encoder.blocks:
        block.attn = RowAttention(block.attn)
