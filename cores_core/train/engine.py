"""What turns a loss into a step. The seam behind which a distributed engine takes the place of plain PyTorch."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, distributed, nn

from cores_core.config import TrainConfig
from cores_core.runtime import Group
from cores_core.train.muon import Muon, hidden_matrices


class Engine(Protocol):
    """One optimiser step at a time; its state is all that resuming needs beside the weights."""

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
        """While it is open, every process holds all weights; to score or to save. All processes must open it."""

    def state(self) -> Mapping[str, Any]:
        """Plain tensors and numbers, which any engine can continue from. All processes must ask."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state."""


class TorchEngine:
    """Plain PyTorch: AdamW or Muon, gradient clipping, linear warm-up and linear decay to 0.

    In a group of processes, each differentiates its share of a step's loss, and all take the step of the summed
    gradient, so their weights stay the same to the last bit.
    """

    def __init__(self, module: nn.Module, config: TrainConfig, group: Group) -> None:
        self._named = {name: value for name, value in module.named_parameters() if value.requires_grad}
        matrices = hidden_matrices(module) if config.optimizer == "muon" else []
        self._optimizers: list[torch.optim.Optimizer] = [build_adamw(module, config, besides=matrices)]
        if matrices:
            muon = Muon(matrices, lr=config.matrix_learning_rate, weight_decay=config.weight_decay)
            self._optimizers.append(muon)
        self._peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in self._optimizers]
        self._config = config
        self._group = group
        self.steps = 0

    @property
    def learning_rate(self) -> float:
        """AdamW's rate of the next step; Muon's follows the same schedule."""
        return self._config.learning_rate * schedule(self.steps, self._config)

    def differentiate(self, compute: Callable[[], Tensor]) -> None:
        """Compute one part of a step's loss and differentiate it."""
        compute().backward()  # type: ignore[no-untyped-call]

    def step(self) -> float:
        """Clip and update. Returns the gradient norm before clipping."""
        for optimizer, peaks in zip(self._optimizers, self._peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * schedule(self.steps, self._config)
        if self._group.size > 1:
            self._share_gradients()
        norm = nn.utils.clip_grad_norm_(self._named.values(), self._config.gradient_clip)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        return float(norm)

    def sum(self, values: Tensor) -> Tensor:
        """The sum of (n,) numbers over the group."""
        return sum_over(self._group, values)

    def whole(self) -> AbstractContextManager[None]:
        """Every process holds all weights at all times."""
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
            for name, value in self._named.items():
                if id(value) in mine and name in state["moments"]:
                    saved = {key: tensor.clone() for key, tensor in state["moments"][name].items()}
                    optimizer.state[value] = {k: v if k == "step" else v.to(value.device) for k, v in saved.items()}
        self.steps = state["steps"]

    def _share_gradients(self) -> None:
        gradients = [parameter.grad for parameter in self._named.values() if parameter.grad is not None]
        flat = self.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, total in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(total.view_as(gradient))


def build_adamw(module: nn.Module, config: TrainConfig, besides: Sequence[nn.Parameter] = ()) -> torch.optim.AdamW:
    """AdamW on all that trains, besides what another optimiser takes; tables of embeddings have a rate of their own."""
    taken = {id(parameter) for parameter in besides}
    rest = [p for p in module.parameters() if p.requires_grad and id(p) not in taken]
    tables = {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Embedding)}
    groups = [
        {"params": [p for p in rest if id(p) not in tables], "lr": config.learning_rate},
        {"params": [p for p in rest if id(p) in tables], "lr": config.learning_rate * config.embedding_rate},
    ]
    filled = [group for group in groups if group["params"]]
    return torch.optim.AdamW(filled, betas=config.betas, weight_decay=config.weight_decay)


def sum_over(group: Group, values: Tensor) -> Tensor:
    """The sum of (n,) numbers over the processes of a group."""
    if group.size > 1:
        distributed.all_reduce(values)
    return values


def schedule(step: int, config: TrainConfig) -> float:
    """Factor on the learning rate: up from near 0, then level, then linearly down to 0 over the last `decay_share`.

    Each phase of the training rises and falls by itself; the phase of the whole model reaches `joint_rate`.
    """
    bounds = (0, config.pretrain_steps, config.pretrain_steps + config.align_steps, config.steps)
    number = max(phase for phase in range(3) if bounds[phase] <= step)
    first, last = bounds[number], bounds[number + 1]
    peak = config.joint_rate if number == 2 else 1.0
    if step - first < config.warmup_steps:
        return peak * (step - first + 1) / config.warmup_steps
    decay = config.decay_share * (last - first - config.warmup_steps)
    return peak * min(1.0, max(0.0, (last - step) / max(decay, 1)))
