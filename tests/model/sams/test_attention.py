"""SAM's attention against the stock one: values, gradients, and rows that do not divide the grid."""

import copy

import pytest
import torch
from segment_anything.modeling.image_encoder import Attention
from torch import Tensor

from cores_core.model.sams import attention
from cores_core.model.sams.attention import RowAttention

WIDTH, HEADS = 24, 3


@pytest.mark.parametrize(("side", "at_once"), [(14, 64), (16, 16), (7, 1), (9, 1024), (64, 64)])
def test_it_equals_the_stock_attention(side: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "CPU_QUERIES", at_once)
    stock = _stock(side)
    cells = _cells(side)
    torch.testing.assert_close(RowAttention(stock)(cells), stock(cells), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("side", "scores"), [(14, 2**19), (14, 196**2 * 4), (16, 1000), (7, 1), (64, 2**19)])
def test_without_gradients_it_equals_the_stock_attention(
    side: int, scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "CPU_SCORES", scores)
    stock = _stock(side)
    cells = _cells(side)
    with torch.no_grad():
        torch.testing.assert_close(RowAttention(stock)(cells), stock(cells), atol=1e-12, rtol=0)


def test_its_gradients_are_the_stock_ones() -> None:
    stock = _stock(16)
    by_rows = RowAttention(copy.deepcopy(stock))
    cells = _cells(16)
    expected, found = _gradients(stock, cells), _gradients(by_rows, cells)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-12, rtol=0, msg=name)


def test_it_keeps_the_weights_and_their_names() -> None:
    stock = _stock(8)
    assert dict(RowAttention(stock).named_parameters()).items() == dict(stock.named_parameters()).items()


def _stock(side: int) -> Attention:
    attention = Attention(WIDTH, HEADS, qkv_bias=True, use_rel_pos=True, input_size=(side, side))
    generator = torch.Generator().manual_seed(0)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return attention.double()  # in which a difference of method is not hidden by noise


def _cells(side: int) -> Tensor:
    return torch.randn(2, side, side, WIDTH, generator=torch.Generator().manual_seed(1)).double()


def _gradients(module: torch.nn.Module, cells: Tensor) -> dict[str, Tensor]:
    cells = cells.clone().requires_grad_()
    module(cells).square().mean().backward()
    assert cells.grad is not None
    found = {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}
    return found | {"cells": cells.grad}
