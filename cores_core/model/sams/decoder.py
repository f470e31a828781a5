"""A faster forward of SAM 1's mask decoder over stock modules: one mask for each prompt, with the stock values.

Where the stock decoder projects all cells of the image to keys, queries and values for its six tokens, here the tokens
are projected to the cells' width: with `q = W_q t` and `k = W_k x + b_k`, the score `q . k` is `(W_k^T q) . x` and a
constant that softmax cancels, and the values' projection follows the weighted sum. That is exact, takes a third of the
operations, and leaves two (h*w, C) maps per query in the graph. The upscaling is recomputed in the backward pass. Of
the four masks only the first is computed, which is the one `multimask_output=False` returns. On a CPU, a few
queries are decoded at a time, so that their maps stay in the processor's cache.

Parameters that have no influence get no gradient: biases of keys of the cells, and the heads of the other three masks.
`K` is the number of tokens (IoU, four masks, prompt), `L = h*w` that of cells, `R` = heads * K, head by head.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

BLOCK_VALUES: Final = 2**17
"""Values of the queries' cells per block on a CPU: 512 KB. Upscaled they are twice as many, and stay in its cache."""
IOU, MASK = 0, 1
"""Indices of the tokens that are read: predicted IoU, and the single mask."""


def embed_cells(encoder: PromptEncoder, images: Tensor, mask_input: Tensor | None) -> Tensor:
    """Add the dense prompt embedding to image embeddings: n images (n, L, C), mask logits (n, 1, 4h, 4w) or None.

    The convolutions of the mask input do not overlap, so they are products with the pixels of each cell.
    """
    if mask_input is None:
        no_mask: Tensor = encoder.no_mask_embed.weight
        return images + no_mask
    first, first_norm, gelu, second, second_norm, _, last = encoder.mask_downscaling
    count, (height, width) = len(mask_input), encoder.image_embedding_size
    pixels = mask_input.view(count, height, 2, 2, width, 2, 2).permute(0, 1, 4, 2, 5, 3, 6)  # (n, h, w, 2, 2, 2, 2)
    quarters = functional.linear(pixels.reshape(count, -1, 4, 4), first.weight.flatten(1), first.bias)
    quarters = gelu(functional.layer_norm(quarters, (len(first.bias),), first_norm.weight, first_norm.bias, 1e-6))
    weight = second.weight.permute(0, 2, 3, 1).flatten(1)
    inner = functional.linear(quarters.flatten(2), weight, second.bias)
    inner = gelu(functional.layer_norm(inner, (len(second.bias),), second_norm.weight, second_norm.bias, 1e-6))
    embedded: Tensor = images + last.bias
    return embedded.baddbmm_(inner, last.weight.flatten(1).T.expand(count, -1, -1))


def decode_masks(
    decoder: MaskDecoder, cells: Tensor, positions: Tensor, prompts: Tensor, with_iou: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Decode one mask for each of n prompts.

    Args:
        cells: (n, L, C) image embeddings with the dense prompt embedding; a square grid, row by row.
        positions: (L, C) positional encoding of the cells.
        prompts: (n, C).
        with_iou: whether to predict the IoU of each mask with the object.

    Returns:
        (n, 1, 4h, 4w) logits, and (n,) IoUs or None.
    """
    count, side = len(prompts), round(len(positions) ** 0.5)
    learned = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([learned.expand(count, -1, -1), prompts[:, None]], dim=1)
    queries = tokens
    for layer in decoder.transformer.layers:
        queries, cells = _run_layer(layer, queries, tokens, cells, positions)
    read = slice(IOU if with_iou else MASK, MASK + 1)
    queries, tokens = queries[:, read], tokens[:, read]
    final = decoder.transformer.final_attn_token_to_image
    queries = decoder.transformer.norm_final_attn(queries + _attend_to_cells(final, queries + tokens, cells, positions))
    weights = decoder.output_hypernetworks_mlps[0](queries[:, -1])
    pixels = _Upscale.apply(cells, weights, *_upscaling_weights(decoder))
    logits = pixels.view(count, side, side, 2, 2, 2, 2).permute(0, 1, 3, 5, 2, 4, 6)
    iou = decoder.iou_prediction_head(queries[:, 0])[:, 0] if with_iou else None
    return logits.reshape(count, 1, 4 * side, 4 * side), iou


def _run_layer(
    layer: TwoWayAttentionBlock, queries: Tensor, tokens: Tensor, cells: Tensor, positions: Tensor
) -> tuple[Tensor, Tensor]:
    """One two-way block: (n, K, C) queries and (n, L, C) cells. `tokens` is the queries' positional encoding."""
    if layer.skip_first_layer_pe:
        queries = layer.self_attn(q=queries, k=queries, v=queries)
    else:
        placed = queries + tokens
        queries = queries + layer.self_attn(q=placed, k=placed, v=queries)
    queries = layer.norm1(queries)
    attended = _attend_to_cells(layer.cross_attn_token_to_image, queries + tokens, cells, positions)
    queries = layer.norm2(queries + attended)
    queries = layer.norm3(queries + layer.mlp(queries))
    keys, bias, values = _keys_for_cells(layer.cross_attn_image_to_token, queries + tokens, queries)
    norm, heads = layer.norm4, layer.cross_attn_image_to_token.num_heads
    return queries, _Spread.apply(cells, positions, keys, bias, values, norm.weight, norm.bias, norm.eps, heads)


def _attend_to_cells(attention: Attention, tokens: Tensor, cells: Tensor, positions: Tensor) -> Tensor:
    """Attention from n * K tokens to cells, (n, K, C)."""
    heads = attention.num_heads
    asked = _split_heads(attention.q_proj(tokens), heads)
    asked = asked @ attention.k_proj.weight.unflatten(0, (heads, -1)) / asked.shape[3] ** 0.5  # (n, heads, K, C)
    pooled = _Gather.apply(cells, positions, asked.flatten(1, 2)).view_as(asked)
    values = pooled @ attention.v_proj.weight.unflatten(0, (heads, -1)).transpose(1, 2)  # (n, heads, K, d)
    found: Tensor = attention.out_proj(values.transpose(1, 2).flatten(2) + attention.v_proj.bias)
    return found


def _keys_for_cells(attention: Attention, placed: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What cells need for attending to tokens: keys (n, R, C), their biases (n, R, 1), and values (n, R, C).

    The output's bias is part of the values of the first head, whose weights add up to 1.
    """
    heads = attention.num_heads
    keys = _split_heads(attention.k_proj(placed), heads)
    keys = keys / keys.shape[3] ** 0.5
    bias = keys @ attention.q_proj.bias.view(heads, -1, 1)
    keys = keys @ attention.q_proj.weight.unflatten(0, (heads, -1))
    values = _split_heads(attention.v_proj(tokens), heads) @ attention.out_proj.weight.T.unflatten(0, (heads, -1))
    output_bias = functional.pad(attention.out_proj.bias.view(1, 1, -1), (0, 0, 0, 0, 0, heads - 1))
    return keys.flatten(1, 2), bias.flatten(1, 2), (values + output_bias).flatten(1, 2)


def _split_heads(projected: Tensor, heads: int) -> Tensor:
    """(n, K, heads * d) to (n, heads, K, d)."""
    return projected.view(*projected.shape[:2], heads, -1).transpose(1, 2)


def _upscaling_weights(decoder: MaskDecoder) -> tuple[Tensor, ...]:
    """The two transposed convolutions as matrices (C, 4 * C/4) and (C/4, 4 * C/8) with biases, and the norm between."""
    first, norm, _, second, _ = decoder.output_upscaling
    matrices = (layer.weight.permute(0, 2, 3, 1).flatten(1) for layer in (first, second))
    biases = (layer.bias.repeat(4) for layer in (first, second))
    return *matrices, *biases, norm.weight, norm.bias


class _Gather(torch.autograd.Function):
    """Weighted sums of cells: softmax(queries (n, R, C) . (cells + positions)) over cells, times cells; (n, R, C)."""

    @staticmethod
    def forward(ctx: Any, cells: Tensor, positions: Tensor, queries: Tensor) -> Tensor:
        weights = _score(queries, cells, positions).softmax(dim=2)
        ctx.save_for_backward(cells, positions, queries, weights)
        return weights @ cells

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        cells, positions, queries, weights = ctx.saved_tensors
        to_scores = torch.ops.aten._softmax_backward_data(gradient @ cells.transpose(1, 2), weights, 2, weights.dtype)
        to_cells = None
        if ctx.needs_input_grad[0]:
            left, right = torch.cat([weights, to_scores], dim=1), torch.cat([gradient, queries], dim=1)
            to_cells = left.transpose(1, 2) @ right
        return to_cells, None, _sum_placed(to_scores, cells, positions)


class _Spread(torch.autograd.Function):
    """Cells after attending to tokens: LayerNorm(cells + softmax((cells + positions) . keys + bias) values), (n, L, C).

    The softmax is over the K tokens of a head. The norm's input is computed again in the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        cells, positions, keys, bias, values, norm, norm_bias, eps, heads = inputs
        weights = _score(keys, cells, positions).add_(bias).view(len(keys), heads, -1, cells.shape[1]).softmax(dim=2)
        found = torch.empty_like(cells)
        for block in _blocks(cells):
            attended = torch.baddbmm(cells[:, block], weights[..., block].flatten(1, 2).transpose(1, 2), values)
            found[:, block] = functional.layer_norm(attended, norm.shape, norm, norm_bias, eps)
        ctx.save_for_backward(cells, positions, keys, values, norm, norm_bias, weights)
        ctx.eps = eps
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        cells, positions, keys, values, norm, norm_bias, weights = ctx.saved_tensors
        to_cells = torch.empty_like(cells)
        to_values, to_weights = torch.zeros_like(values), torch.empty_like(weights.flatten(1, 2))
        to_norm, to_norm_bias = torch.zeros_like(norm), torch.zeros_like(norm_bias)
        for block in _blocks(cells):
            by_cell = weights[..., block].flatten(1, 2).transpose(1, 2)
            attended = torch.baddbmm(cells[:, block], by_cell, values)
            to_attended, *shares = _layer_norm_backward(gradient[:, block], attended, (norm, norm_bias), ctx.eps)
            to_norm += shares[0]
            to_norm_bias += shares[1]
            to_values += by_cell.transpose(1, 2) @ to_attended
            to_weights[..., block] = values @ to_attended.transpose(1, 2)
            to_cells[:, block] = to_attended
        to_weights = to_weights.view_as(weights)
        to_scores = torch.ops.aten._softmax_backward_data(to_weights, weights, 2, weights.dtype).flatten(1, 2)
        to_keys, to_bias = _sum_placed(to_scores, cells, positions), to_scores.sum(dim=2, keepdim=True)
        to_cells.baddbmm_(to_scores.transpose(1, 2), keys)
        return to_cells, None, to_keys, to_bias, to_values, to_norm, to_norm_bias, None, None


class _Upscale(torch.autograd.Function):
    """Cells (n, L, C) upscaled 4 times, times the mask's weights (n, C/8): logits of each cell's pixels, (n, L, 16).

    Only the inputs are kept for the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, cells: Tensor, weights: Tensor, *upscaling: Tensor) -> Tensor:
        ctx.save_for_backward(cells, weights, *upscaling)
        return torch.cat([_upscale(cells[:, block], weights, upscaling) for block in _blocks(cells)], dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        cells, *others = ctx.saved_tensors
        needed = ctx.needs_input_grad
        to_cells = torch.empty_like(cells) if needed[0] else None
        sums = [torch.zeros_like(tensor) if learns else None for tensor, learns in zip(others, needed[1:], strict=True)]
        for block in _blocks(cells):
            inputs = [tensor.detach() for tensor in (cells[:, block], *others)]
            for tensor, learns in zip(inputs, needed, strict=True):
                tensor.requires_grad_(learns)
            with torch.enable_grad():
                pixels = _upscale(inputs[0], inputs[1], inputs[2:])
            torch.autograd.backward(pixels, gradient[:, block])
            if to_cells is not None:
                to_cells[:, block] = inputs[0].grad
            for total, tensor in zip(sums, inputs[1:], strict=True):
                if total is not None:
                    total += tensor.grad
        return to_cells, *sums


def _score(queries: Tensor, cells: Tensor, positions: Tensor) -> Tensor:
    """Scores of queries (n, R, C) at each cell with its position, (n, R, L)."""
    scores = queries.new_empty(len(cells), queries.shape[1], cells.shape[1])
    for block in _blocks(cells):
        scores[..., block] = queries @ (cells[:, block] + positions[block]).transpose(1, 2)
    return scores


def _sum_placed(weights: Tensor, cells: Tensor, positions: Tensor) -> Tensor:
    """Sums of cells with their positions by weights (n, R, L), (n, R, C)."""
    total = weights.new_zeros(len(cells), weights.shape[1], cells.shape[2])
    for block in _blocks(cells):
        total.baddbmm_(weights[..., block], cells[:, block] + positions[block])
    return total


def _blocks(cells: Tensor) -> Iterator[slice]:
    """Slices of the cells whose maps are in memory together."""
    length = cells.shape[1]
    parts = max(1, round(cells.numel() / BLOCK_VALUES)) if cells.device.type == "cpu" else 1
    at_once = math.ceil(length / parts)  # equal ones: a short last block costs as many calls
    return (slice(start, start + at_once) for start in range(0, length, at_once))


def _upscale(cells: Tensor, weights: Tensor, upscaling: Sequence[Tensor]) -> Tensor:
    """(n, l, C) cells to (n, l, 16) logits; values of a pixel are channels-last throughout."""
    first, second, first_bias, second_bias, norm, norm_bias = upscaling
    doubled = functional.linear(cells, first.T, first_bias).view(len(cells), -1, 4, len(norm))
    doubled = functional.gelu(functional.layer_norm(doubled, norm.shape, norm, norm_bias, 1e-6))
    quadrupled = functional.gelu(functional.linear(doubled, second.T, second_bias))
    pixels = weights[:, None] @ quadrupled.view(len(cells), -1, weights.shape[1]).transpose(1, 2)
    return pixels.view(len(cells), -1, 16)


def _layer_norm_backward(
    gradient: Tensor, inputs: Tensor, affine: tuple[Tensor, Tensor], eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a layer norm over the last axis: of its input, weight and bias."""
    shape = [inputs.shape[-1]]
    _, mean, scale = torch.ops.aten.native_layer_norm(inputs, shape, *affine, eps)
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_layer_norm_backward(
        gradient, inputs, shape, mean, scale, *affine, [True, True, True]
    )
    return found
