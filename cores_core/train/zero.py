"""DeepSpeed as the engine of a training: ZeRO 0 to 3, on GPUs with NCCL and on CPUs with gloo.

The only file that imports deepspeed and that knows its JSON. DeepSpeed's own checkpoints are not used: they fit one
number of processes only, and its `latest` is written before all have finished. What is saved are the moments of every
parameter by its name, which any engine, with any number of processes, continues from.
"""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn

from cores_core.config import EngineConfig, TrainConfig
from cores_core.errors import ConfigError
from cores_core.runtime import Group
from cores_core.train.engine import sum_over
from cores_core.train.recipe import Recipe

MOMENTS = ("exp_avg", "exp_avg_sq")


class ZeroEngine:
    """AdamW on DeepSpeed; learning rates and clipping as `TorchEngine`'s."""

    def __init__(self, module: nn.Module, recipe: Recipe, zero: EngineConfig, group: Group) -> None:
        """Wrap a module, which is on its device already. The group must be connected, even if it is of one process.

        Raises:
            ConfigError: the images of a step cannot be shared out evenly, or the optimiser is not AdamW.
        """
        if recipe.optimizer != "adamw":
            raise ConfigError(f"DeepSpeed trains with AdamW, not with {recipe.optimizer}", hint="set engine.kind=torch")
        device = next(module.parameters()).device
        deepspeed = import_deepspeed(device)
        os.environ.setdefault("LOCAL_RANK", str(group.rank))  # DeepSpeed insists; launchers of many machines set it
        self._named = {name: value for name, value in module.named_parameters() if value.requires_grad}
        self._adamw = recipe.build_optimizers(module)[0]
        self._peaks = [group["lr"] for group in self._adamw.param_groups]
        self._recipe, self._stage, self._group = recipe, zero.zero_stage, group
        settings = deepspeed_settings(recipe.config.train, zero, group, device)
        self._engine = deepspeed.initialize(
            model=_Closures(module), optimizer=self._adamw, config=settings, dist_init_required=False
        )[0]
        self._deepspeed = deepspeed
        self.steps = 0
        self._begin_moments()

    @property
    def divides_weights(self) -> bool:
        """Whether weights are sharded (ZeRO 3), so that all ranks must run the same operations."""
        return self._stage == 3

    @property
    def learning_rate(self) -> float:
        """The rate of the next step."""
        return self._recipe.config.train.learning_rate * self._recipe.learning_rate_factor(self.steps)

    def differentiate(self, compute: Callable[[], Tensor]) -> None:
        """Compute one part of a step's loss and differentiate it."""
        loss = self._engine(compute)
        self._engine.backward(loss * self._group.size, scale_wrt_gas=False)  # DeepSpeed averages over ranks
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()

    def step(self) -> float:
        """Add up the gradients of all processes, clip and update. Returns the gradient norm before clipping."""
        factor = self._recipe.learning_rate_factor(self.steps)
        for group, peak in zip(self._adamw.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        gradients = [value.grad for value in self._named.values() if value.grad is not None and not self._stage]
        norm = nn.utils.get_total_norm(gradients)  # DeepSpeed reports no gradient norm at stage 0
        self._engine.step()
        self.steps += 1
        return float(self._engine.get_global_grad_norm() if self._stage else norm)

    def sum(self, values: Tensor) -> Tensor:
        """The sum of (n,) numbers over the group."""
        return sum_over(self._group, values)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Context in which every rank holds all weights as separate tensors.

        ZeRO 3 divides them; ZeRO 1 and 2 lay them end to end, which libraries that save weights refuse.
        """
        if self.divides_weights:
            with self._deepspeed.zero.GatheredParameters(list(self._engine.module.parameters())):
                yield
            return
        joined = {parameter: parameter.data for parameter in self._named.values()}
        try:
            for parameter, data in joined.items():
                parameter.data = data.clone()
            yield
        finally:
            for parameter, data in joined.items():
                parameter.data = data

    def state(self) -> Mapping[str, Any]:
        """The moments by the names of the parameters, and the number of steps."""
        moments = {}
        for name, parameter in self._named.items() if self.steps else ():
            found = {key: self._moment(parameter, key).detach().cpu().clone() for key in MOMENTS}
            moments[name] = {"step": torch.tensor(float(self.steps)), **found}
        return {"moments": moments, "steps": self.steps}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state; moments that it lacks, of parameters without a gradient so far, stay zero."""
        self.steps = state["steps"]
        for flat in self._flat_parameters():
            self._adamw.state[flat]["step"].fill_(self.steps)
        for name, parameter in self._named.items():
            for key in MOMENTS if name in state["moments"] else ():
                self._set_moment(parameter, key, state["moments"][name][key].to(parameter.device))

    def _begin_moments(self) -> None:
        """Before DeepSpeed does: it ties the moments to the parameters when only the first group has any."""
        for flat in self._flat_parameters():
            blank = {key: torch.zeros_like(flat, dtype=torch.float32) for key in MOMENTS}
            self._adamw.state[flat] = {"step": torch.tensor(0.0), **blank}
        if self._stage in (1, 2):
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _moment(self, parameter: nn.Parameter, key: str) -> Tensor:
        if self._stage:
            full: Tensor = self._deepspeed.utils.safe_get_full_optimizer_state(parameter, key)
        else:
            full = self._adamw.state[parameter][key]
        return full

    def _set_moment(self, parameter: Any, key: str, value: Tensor) -> None:
        utils = self._deepspeed.utils
        if self._stage == 3:  # what is set whole is not padded, and of an odd size it does not fit
            share = parameter.ds_tensor.numel()
            padded = nn.functional.pad(value.flatten(), (0, share * self._group.size - value.numel()))
            mine = padded[share * self._group.rank : share * (self._group.rank + 1)]
            utils.safe_set_local_optimizer_state(parameter, mine, key)
        elif self._stage:
            utils.safe_set_full_optimizer_state(parameter, value, key)
        else:
            self._adamw.state[parameter][key] = value

    def _flat_parameters(self) -> list[Tensor]:
        """What AdamW holds on this process: the parameters themselves, or its share of them end to end."""
        if self._stage == 3:
            return list(self._engine.optimizer.fp32_partitioned_groups_flat)
        return [parameter for group in self._adamw.param_groups for parameter in group["params"]]


class _Closures(nn.Module):
    """Lets DeepSpeed see the forward of a module that is called within a closure."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, compute: Callable[[], Tensor]) -> Tensor:
        return compute()


def deepspeed_settings(train: TrainConfig, zero: EngineConfig, group: Group, device: torch.device) -> dict[str, Any]:
    """DeepSpeed's JSON.

    Raises:
        ConfigError: the images of a step cannot be shared out evenly.
    """
    if train.global_batch_size % group.size:
        raise ConfigError(
            f"{train.global_batch_size} images a step cannot be shared evenly by {group.size} processes",
            hint="set train.global_batch_size to a multiple",
        )
    share = train.global_batch_size // group.size
    stage: dict[str, Any] = {
        "stage": zero.zero_stage,
        "overlap_comm": device.type == "cuda",
        "contiguous_gradients": True,
    }
    if zero.offload:
        stage["offload_optimizer"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": 1,  # a name for DeepSpeed's own sums; we share images out ourselves
        "gradient_accumulation_steps": -(-share // (train.micro_batch_size or share)),
        "gradient_clipping": train.gradient_clip,
        "zero_optimization": stage,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
    }


def import_deepspeed(device: torch.device) -> Any:
    """Import DeepSpeed with its accelerator preset and without compiling optional operations."""
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed
    from deepspeed.utils.logging import logger

    logger.setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "`torch.distributed.", FutureWarning)  # of names that DeepSpeed calls
    if device.type == "cpu":
        deepspeed.ops.__dict__["__compatible_ops__"] = {}  # else it compiles an operation for a minute
    return deepspeed


def disconnect() -> None:
    """Leave the process group and reset DeepSpeed's reference to it, so that another run can start."""
    deepspeed = sys.modules.get("deepspeed")
    if deepspeed is not None and deepspeed.comm.is_initialized():
        deepspeed.comm.destroy_process_group()
    elif distributed.is_initialized():
        distributed.destroy_process_group()
