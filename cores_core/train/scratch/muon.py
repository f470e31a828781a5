"""Muon: momentum whose matrix updates are orthogonalised, which trains small transformers from scratch in fewer steps.

Source: Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024); the learning rate is
matched to AdamW's as in Liu et al., arXiv:2502.16982.
Deviation: `torch.optim.Muon` orthogonalises in bfloat16, which CPUs emulate some 50 times slower; this one keeps the
gradient's dtype.
"""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
ADAMW_MATCH = 0.2
"""An update's root mean square, so that learning rates and weight decay of AdamW carry over."""


class Muon(torch.optim.Optimizer):
    """For (rows, columns) weights of hidden layers; everything else belongs to AdamW."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonalize(parameter.grad.lerp(state["momentum"], group["momentum"]))  # Nesterov
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * ADAMW_MATCH * max(update.shape) ** 0.5)


def orthogonalize(matrix: Tensor) -> Tensor:
    """Bring all singular values of a (rows, columns) matrix near 1 by a quintic Newton-Schulz iteration."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x.T if tall else x
    return result


def hidden_matrices(module: nn.Module) -> list[nn.Parameter]:
    """The trainable weights of all linear layers but the output head, which is an embedding's twin."""
    layers = [layer for name, layer in module.named_modules() if not name.endswith("lm_head")]
    weights = [cast(nn.Parameter, layer.weight) for layer in layers if isinstance(layer, nn.Linear)]
    return [weight for weight in weights if weight.requires_grad]
