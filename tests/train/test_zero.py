"""DeepSpeed takes the steps that plain PyTorch takes, on one process and two, and each continues what another began."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn

from cores_core.config import Config, EngineConfig, ScratchConfig, TrainConfig
from cores_core.errors import ConfigError
from cores_core.runtime import Group
from cores_core.train.engine import Engine, TorchEngine
from cores_core.train.scratch.recipe import ScratchRecipe
from cores_core.train.zero import ZeroEngine, deepspeed_settings, disconnect

CONFIG = TrainConfig(
    steps=8,
    warmup_steps=2,
    learning_rate=0.05,
    weight_decay=0.01,
    global_batch_size=4,
    micro_batch_size=1,
    gradient_clip=0.5,
)
RECIPE = ScratchRecipe(Config(train=CONFIG, scratch=ScratchConfig(embedding_lr_scale=2.0)))
"""With two groups of parameters."""
PLAIN = -1


@dataclass(frozen=True)
class _Leg:
    """Some steps of a run, by an engine on so many processes."""

    stage: int
    size: int
    steps: range


@pytest.fixture(scope="module")
def plain() -> tuple[dict[str, Tensor], list[float]]:
    """What plain PyTorch makes of it, alone."""
    return _run([_Leg(PLAIN, 1, range(6))])


@pytest.mark.parametrize(("stage", "size"), [(0, 2), (1, 2), (2, 1), (2, 2), (3, 2)])
def test_it_takes_the_steps_of_plain_pytorch(
    plain: tuple[dict[str, Tensor], list[float]], stage: int, size: int
) -> None:
    _assert_close(_run([_Leg(stage, size, range(6))]), plain)


@pytest.mark.parametrize(
    ("first", "second"),
    [((2, 2), (2, 1)), ((2, 1), (3, 2)), ((3, 2), (PLAIN, 1)), ((PLAIN, 1), (1, 2))],
    ids=str,
)
def test_another_engine_on_another_number_of_processes_continues(
    plain: tuple[dict[str, Tensor], list[float]], first: tuple[int, int], second: tuple[int, int]
) -> None:
    _assert_close(_run([_Leg(*first, range(3)), _Leg(*second, range(3, 6))]), plain)


def test_images_that_cannot_be_shared_out_are_refused() -> None:
    with pytest.raises(ConfigError, match="4 images a step"):
        deepspeed_settings(CONFIG, EngineConfig(), Group(0, 3), torch.device("cpu"))


def test_muon_is_refused() -> None:
    recipe = ScratchRecipe(Config(scratch=ScratchConfig(optimizer="muon")))
    with pytest.raises(ConfigError, match="AdamW"):
        ZeroEngine(nn.Linear(1, 1), recipe, EngineConfig(), Group())


def test_moments_may_be_held_by_the_cpu() -> None:
    settings = deepspeed_settings(CONFIG, EngineConfig(zero_stage=2, offload=True), Group(0, 2), torch.device("cuda"))
    assert settings["zero_optimization"]["offload_optimizer"] == {"device": "cpu"}
    assert settings["gradient_accumulation_steps"] == 2


def _assert_close(found: tuple[dict[str, Tensor], list[float]], plain: tuple[dict[str, Tensor], list[float]]) -> None:
    assert found[1] == pytest.approx(plain[1], rel=1e-5)
    for name, value in plain[0].items():
        torch.testing.assert_close(found[0][name], value, rtol=1e-5, atol=1e-6)


def _run(legs: Sequence[_Leg]) -> tuple[dict[str, Tensor], list[float]]:
    """The weights after all legs, and the gradient norm of each step."""
    with tempfile.TemporaryDirectory() as folder:
        norms: list[float] = []
        for number, leg in enumerate(legs):
            context, path = get_context("spawn"), Path(folder)
            workers = [context.Process(target=_work, args=(leg, rank, number, path)) for rank in range(leg.size)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            assert [worker.exitcode for worker in workers] == [0] * leg.size
            saved = torch.load(path / "saved.pt", weights_only=True)
            norms += saved["norms"]
        return saved["model"], norms


def _work(leg: _Leg, rank: int, number: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store{number}"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=leg.size)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 3), nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 1))
    model[3].bias.requires_grad_(False)
    saved: dict[str, Any] = torch.load(folder / "saved.pt", weights_only=True) if number else {}
    if saved:
        model.load_state_dict(saved["model"])
    group = Group(rank, leg.size)
    engine: Engine = (
        TorchEngine(model, RECIPE, group)
        if leg.stage == PLAIN
        else ZeroEngine(model, RECIPE, EngineConfig(zero_stage=leg.stage), group)
    )
    if saved:
        engine.load_state(saved["engine"])
    norms = []
    for step in leg.steps:
        rows = torch.randint(7, (4, 2), generator=torch.Generator().manual_seed(step))
        for row in rows[rank :: leg.size]:
            engine.differentiate(lambda row=row: model(row).square().sum() / 4)
        norms.append(engine.step())
    state = engine.state()
    with engine.whole():
        if group.leads:
            found = {"model": model.state_dict(), "engine": dict(state), "norms": norms}
            torch.save(found, folder / "saved.pt")
    distributed.barrier()
    disconnect()
