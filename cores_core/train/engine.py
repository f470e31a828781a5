"""What turns a loss into a step. The seam behind which a distributed engine takes the place of plain PyTorch."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cores_core.config import TrainConfig


class Engine(Protocol):
    """One optimiser step at a time; its state is all that resuming needs beside the weights."""

    def step(self, loss: Tensor) -> float:
        """Differentiate, clip and update. Returns the gradient norm before clipping."""

    def state(self) -> Mapping[str, Any]:
        """Plain tensors and numbers."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state."""


class TorchEngine:
    """Plain PyTorch in one process: AdamW, gradient clipping, linear warm-up and linear decay to 0."""

    def __init__(self, parameters: Iterable[nn.Parameter], config: TrainConfig) -> None:
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
        )
        self._config = config
        self.steps = 0

    @property
    def learning_rate(self) -> float:
        """The rate of the next step."""
        return self._config.learning_rate * schedule(self.steps, self._config.warmup_steps, self._config.steps)

    def step(self, loss: Tensor) -> float:
        """Differentiate, clip and update. Returns the gradient norm before clipping."""
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self._parameters, self._config.gradient_clip)
        self._optimizer.step()
        self.steps += 1
        return float(norm)

    def state(self) -> Mapping[str, Any]:
        """Optimiser moments and the number of steps."""
        return {"optimizer": self._optimizer.state_dict(), "steps": self.steps}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state."""
        self._optimizer.load_state_dict(state["optimizer"])
        self.steps = state["steps"]


def schedule(step: int, warmup: int, total: int) -> float:
    """Factor on the learning rate: up from near 0 over `warmup` steps, then linearly down to 0 at `total`."""
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, (total - step) / max(total - warmup, 1))
