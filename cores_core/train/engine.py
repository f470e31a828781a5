"""Interface between losses and optimiser steps, and its implementation in plain PyTorch (DeepSpeed: zero.py)."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, distributed, nn

from cores_core.runtime import Group
from cores_core.train.recipe import Recipe


class Engine(Protocol):
    """Optimiser steps. Its state and the weights are sufficient for resuming.

    The forward pass runs inside `differentiate`, because DeepSpeed requires it to run inside its engine.
    """

    steps: int

    @property
    def learning_rate(self) -> float:
        """The rate of the next step."""

    def differentiate(self, compute: Callable[[], Tensor]) -> None:
        """Compute one part of a step's loss and differentiate it; gradients add up until `step`."""

    def step(self) -> float:
        """Add up the gradients of all processes, clip and update. Returns the gradient norm before clipping."""

    def sum(self, values: Tensor) -> Tensor:
        """The sum of (n,) numbers over the processes that train together."""

    def whole(self) -> AbstractContextManager[None]:
        """Context in which every rank holds all weights, for evaluating and saving. All ranks must enter it."""

    def state(self) -> Mapping[str, Any]:
        """State as plain tensors and numbers that any engine can load. All ranks must call it."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state."""


class TorchEngine:
    """Plain PyTorch: the optimisers and the learning rates of a recipe, and gradient clipping.

    In a group of processes, each differentiates its share of a step's loss, and all take the step of the summed
    gradient, so their weights stay the same to the last bit.
    """

    def __init__(self, module: nn.Module, recipe: Recipe, group: Group) -> None:
        self._named = {name: value for name, value in module.named_parameters() if value.requires_grad}
        fused = all(value.device.type == "cuda" for value in self._named.values())
        self._optimizers = recipe.build_optimizers(module, fused)
        self._peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in self._optimizers]
        self._recipe = recipe
        self._group = group
        self.steps = 0

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        return self._recipe.config.train.learning_rate * self._recipe.learning_rate_factor(self.steps)

    def differentiate(self, compute: Callable[[], Tensor]) -> None:
        """Compute one part of a step's loss and differentiate it."""
        compute().backward()  # type: ignore[no-untyped-call]

    def step(self) -> float:
        """Clip and update. Returns the gradient norm before clipping."""
        factor = self._recipe.learning_rate_factor(self.steps)
        for optimizer, peaks in zip(self._optimizers, self._peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
        if self._group.size > 1:
            self._share_gradients()
        norm = nn.utils.clip_grad_norm_(self._named.values(), self._recipe.config.train.gradient_clip)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        return float(norm)

    def sum(self, values: Tensor) -> Tensor:
        """The sum of (n,) numbers over the group."""
        return sum_over(self._group, values)

    def whole(self) -> AbstractContextManager[None]:
        """Nothing to do: every rank holds all weights."""
        return nullcontext()

    def state(self) -> Mapping[str, Any]:
        """The optimisers' moments by the names of the parameters, and the number of steps."""
        moments = {id(key): value for optimizer in self._optimizers for key, value in optimizer.state.items()}
        named = {name: moments[id(value)] for name, value in self._named.items() if id(value) in moments}
        return {"moments": named, "steps": self.steps}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state."""
        for optimizer in self._optimizers:
            mine = {id(value) for group in optimizer.param_groups for value in group["params"]}
            kept = () if optimizer.defaults.get("fused") else ("step",)  # a fused one counts on the device
            for name, value in self._named.items():
                if id(value) in mine and name in state["moments"]:
                    saved = {key: tensor.clone() for key, tensor in state["moments"][name].items()}
                    optimizer.state[value] = {k: v if k in kept else v.to(value.device) for k, v in saved.items()}
        self.steps = state["steps"]

    def _share_gradients(self) -> None:
        gradients = [parameter.grad for parameter in self._named.values() if parameter.grad is not None]
        flat = self.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, total in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(total.view_as(gradient))


def sum_over(group: Group, values: Tensor) -> Tensor:
    """The sum of (n,) numbers over the processes of a group, on the GPU if NCCL connects them."""
    if group.size > 1:
        if distributed.get_backend() == "nccl":
            values = values.to("cuda")
        distributed.all_reduce(values)
    return values
