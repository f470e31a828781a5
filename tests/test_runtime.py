"""Devices and precisions by name, and seeds that hold."""

import random

import numpy as np
import pytest
import torch

from cores_core.errors import ConfigError
from cores_core.runtime import Group, resolve_device, resolve_dtype, run_beside, seed_dropout, seed_everything


def test_the_cpu_is_always_there() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda", "mps")


@pytest.mark.parametrize("name", ["gpu", "", "tpu:0"])
def test_an_unknown_device_is_refused_with_a_choice(name: str) -> None:
    with pytest.raises(ConfigError, match="unknown device") as caught:
        resolve_device(name)
    assert "cpu" in str(caught.value.hint)


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="cuda"):
        resolve_device("cuda:1")


def test_dtypes_by_name() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert resolve_dtype("bfloat16", cpu) == torch.bfloat16
    assert (resolve_dtype("auto", cpu), resolve_dtype("auto", cuda)) == (torch.float32, torch.bfloat16)
    with pytest.raises(ConfigError, match="int8"):
        resolve_dtype("int8", cpu)


def test_on_a_cpu_work_is_done_when_it_is_asked_for() -> None:
    done: list[int] = []

    def work() -> torch.Tensor:
        done.append(1)
        return torch.ones(2)

    result = run_beside(torch.device("cpu"), work)
    assert done == []
    assert result().tolist() == [1, 1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_on_a_gpu_work_is_done_beside_other_work() -> None:
    device = torch.device("cuda")
    matrix = torch.randn(2000, 2000, device=device)
    result = run_beside(device, lambda: matrix @ matrix)
    torch.testing.assert_close(result(), matrix @ matrix)


@pytest.mark.parametrize("seed", [0, 7, 2**40])
def test_a_seed_holds_for_every_generator(seed: int) -> None:
    drawn = []
    for _ in range(2):
        seed_everything(seed)
        drawn.append((random.random(), np.random.random(), torch.rand(1).item()))
    assert drawn[0] == drawn[1]


def test_dropout_is_a_function_of_seed_step_and_process() -> None:
    def draw(*of: int) -> float:
        seed_dropout(*of)
        return torch.rand(1).item()

    assert draw(0, 3, 1) == draw(0, 3, 1)
    assert len({draw(seed, step, rank) for seed in (0, 1) for step in (0, 1) for rank in (0, 1)}) == 8
