"""Muon orthogonalises the updates of hidden matrices and leaves the rest to AdamW."""

import torch
from torch import nn

from cores_core.train.scratch.muon import Muon, hidden_matrices, orthogonalize


def test_an_orthogonalised_matrix_has_singular_values_near_one() -> None:
    for shape in ((8, 8), (6, 20), (20, 6)):
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 100
        values = torch.linalg.svdvals(orthogonalize(matrix))
        assert values.min() > 0.5
        assert values.max() < 1.3


def test_orthogonalising_keeps_the_directions() -> None:
    matrix = torch.diag(torch.tensor([3.0, -2.0, 1.0]))
    signs = orthogonalize(matrix).sign()
    assert torch.equal(signs.diagonal(), torch.tensor([1.0, -1.0, 1.0]))


def test_an_update_does_not_depend_on_the_scale_of_the_gradient() -> None:
    moved = []
    for scale in (1.0, 1000.0):
        weight = nn.Parameter(torch.zeros(4, 6))
        optimizer = Muon([weight], lr=0.1)
        (weight * torch.arange(24.0).view(4, 6).sin() * scale).sum().backward()
        optimizer.step()
        moved.append(weight.detach().clone())
    torch.testing.assert_close(moved[0], moved[1])


def test_it_learns() -> None:
    torch.manual_seed(0)
    layer, inputs, goal = nn.Linear(8, 8, bias=False), torch.randn(64, 8), torch.randn(8, 8)
    optimizer = Muon(layer.parameters(), lr=0.2)
    losses = []
    for _ in range(60):
        loss = (layer(inputs) - inputs @ goal).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_hidden_matrices_are_linear_weights_but_not_the_head(checkpoint) -> None:
    names = {id(parameter): name for name, parameter in checkpoint.model.named_parameters()}
    chosen = {names[id(weight)] for weight in hidden_matrices(checkpoint.model)}
    assert "projection.0.weight" in chosen
    assert "segmenter.image_encoder.blocks.0.attn.qkv.weight" in chosen
    assert not any("embed" in name and "mlm" in name and "tokens" in name for name in chosen)
    assert not any(name.endswith("lm_head.weight") for name in chosen)
