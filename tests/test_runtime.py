"""Devices and precisions by name, and seeds that hold."""

import os
import platform
import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest
import torch

from cores_core.errors import ConfigError
from cores_core.runtime import (
    Group,
    count_local_ranks,
    map_in_thread,
    resolve_device,
    resolve_dtype,
    run_beside,
    seed_dropout,
    seed_everything,
    set_up_cpu,
)


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


@pytest.mark.parametrize("buffersize", [0, 1, 3, 9])
def test_map_in_thread_keeps_the_order_and_its_distance(buffersize: int) -> None:
    taken: list[int] = []
    items = (taken.append(number) or number for number in range(6))
    for count, square in enumerate(map_in_thread(lambda number: number**2, items, buffersize), start=1):
        assert square == (count - 1) ** 2
        assert taken == list(range(min(count + buffersize, 6)))
    assert len(taken) == 6


def test_map_in_thread_works_beside_its_caller() -> None:
    started, may_end = Event(), Event()

    def wait(number: int) -> int:
        started.set()
        assert may_end.wait(60)
        return number

    def items() -> Iterator[int]:
        yield 0
        assert started.wait(60)  # the first is being worked on while the second is taken
        may_end.set()
        yield 1

    assert list(map_in_thread(wait, items(), 1)) == [0, 1]


def test_map_in_thread_raises_in_place_of_the_result() -> None:
    results = map_in_thread(lambda number: 1 // number, [2, 1, 0, 1], 2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


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


@pytest.fixture
def threads() -> Iterator[None]:
    """Restores torch's number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    ("allowed", "processes", "are_bound", "before", "expected"),
    [
        (64, 4, False, 64, 16),
        (64, 3, False, 64, 21),
        (8, 4, False, 64, 2),
        (64, 100, False, 64, 1),
        (64, 4, False, 1, 1),
        (64, 1, False, 3, 3),
        (8, 4, True, 64, 8),
        (64, 4, True, 64, 16),
    ],
    ids=[
        "shared",
        "rounded",
        "some cores for all",
        "more processes than cores",
        "OMP_NUM_THREADS",
        "alone: as it was",
        "bound to some",
        "not bound",
    ],
)
def test_processes_share_the_cores_of_a_large_machine(
    monkeypatch: pytest.MonkeyPatch, allowed: int, processes: int, are_bound: bool, before: int, expected: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(allowed)), raising=False)
    torch.set_num_threads(before)
    set_up_cpu(processes, are_bound)
    assert torch.get_num_threads() == expected


@pytest.mark.usefixtures("threads")
def test_where_the_system_does_not_tell_all_cores_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    torch.set_num_threads(64)
    set_up_cpu(2)
    assert torch.get_num_threads() == 32


def test_ranks_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert count_local_ranks(Group(3, 16)) == 16
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert count_local_ranks(Group(3, 16)) == 8


def test_denormal_numbers_count_as_zero_in_later_threads_too() -> None:
    small = torch.full((4,), torch.finfo(torch.float32).tiny)
    torch.set_flush_denormal(False)
    try:
        assert (small * 0.1).any()
        set_up_cpu()
        with ThreadPoolExecutor(1) as pool:
            assert not pool.submit(lambda: (small * 0.1).any()).result()
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc's allocator")
def test_freed_memory_is_used_again() -> None:
    """Without new page faults; in a new process, as the setting cannot be taken back."""
    program = """
import resource, torch
from cores_core.runtime import set_up_cpu
def fill():
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        pair = torch.ones(7 * 2**20), torch.ones(7 * 2**20)  # 28 MB each
        del pair
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
before = fill()
set_up_cpu()
fill()
print(before, fill())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after < before / 20


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
