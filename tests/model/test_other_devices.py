"""What a GPU would run, traced without one: on the meta device nothing can be read, as a GPU must not be in a step.

The branches for other devices than the CPU are taken, a read of a value or a size that depends on one is an error, and
operations that mix devices, for which a GPU waits, are recorded.
"""

import copy
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from helpers import noise_image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cores_core.config import LoraConfig
from cores_core.model.checkpoint import Checkpoint
from cores_core.model.lora import add_lora, choose_trainable
from cores_core.model.losses import count_terms
from cores_core.prompts import render_turn
from cores_core.sample import Query, Sample
from cores_core.train.recipe import Objective

LORA = LoraConfig(rank=4, alpha=8)
META = torch.device("meta")


@pytest.fixture
def on_meta(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    """The model as in a training with adapters."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it does not know the meta device
    found = copy.deepcopy(checkpoint)
    add_lora(found.model, LORA, found.processor.new_ids)
    choose_trainable(found.model, LORA)
    found.model.to(META).train()
    return found


@pytest.mark.parametrize("questions", [(1,), (2, 3)], ids=["one", "several"])
def test_forward_and_backward_read_nothing_and_mix_no_devices(on_meta: Checkpoint, questions: tuple[int, ...]) -> None:
    batch = on_meta.processor.collate([_sample(on_meta, count) for count in questions])
    counts = count_terms(batch)
    with _MixedDevices() as mixed:
        losses = Objective(on_meta.config)(on_meta.model, batch.to(META), 0, counts)
        losses.total.backward()  # type: ignore[no-untyped-call]
    assert mixed.found == []
    gradients = [parameter.grad for parameter in on_meta.model.parameters() if parameter.requires_grad]
    assert any(gradient is not None and gradient.device == META for gradient in gradients)


def test_mixed_devices_are_found() -> None:
    with _MixedDevices() as mixed:
        torch.zeros(3, 2, device=META)[torch.tensor([0, 1])]
    assert mixed.found == ["aten.index.Tensor"]


class _MixedDevices(TorchDispatchMode):
    """Records operations that have tensors of several devices, apart from single numbers and `Batch.to`."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if len({tensor.device for tensor in tensors if tensor.dim()}) > 1:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


def _sample(checkpoint: Checkpoint, questions: int) -> Sample:
    turns = tuple(
        render_turn(Query("Which part steers the fish?"), checkpoint.processor.prompt) for _ in range(questions)
    )
    image = noise_image(30, 40)
    masks = tuple(image[..., 0] > 128 for _ in range(questions))
    return Sample(image=image, turns=turns, masks=masks, ignores=(None,) * questions)
