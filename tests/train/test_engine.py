"""The optimiser's steps: their rates, their clipping, and going on where one stopped."""

import io
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cores_core.config import Config, TrainConfig
from cores_core.runtime import Group
from cores_core.train.engine import TorchEngine
from cores_core.train.recipe import Recipe

CONFIG = TrainConfig(steps=6, warmup_steps=2, learning_rate=0.1, weight_decay=0.01)


def test_the_schedule_rises_over_the_warm_up_and_falls_to_zero() -> None:
    assert [_factor(step, TrainConfig(warmup_steps=2, steps=6)) for step in range(7)] == [
        0.5,
        1.0,
        1.0,
        0.75,
        0.5,
        0.25,
        0.0,
    ]


def test_without_a_warm_up_the_schedule_starts_at_the_top() -> None:
    assert [_factor(step, TrainConfig(warmup_steps=0, steps=4)) for step in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_a_run_that_is_all_warm_up_never_falls() -> None:
    assert [_factor(step, TrainConfig(warmup_steps=4, steps=4)) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


def test_the_decay_may_take_only_the_end() -> None:
    config = TrainConfig(warmup_steps=2, steps=6, lr_decay_fraction=0.5)
    assert [_factor(step, config) for step in range(7)] == [0.5, 1.0, 1.0, 1.0, 1.0, 0.5, 0.0]


def test_the_schedule_stays_at_zero_after_the_end() -> None:
    assert _factor(9, TrainConfig(warmup_steps=2, steps=6)) == 0.0


def test_each_step_uses_its_own_rate() -> None:
    weight = nn.Parameter(torch.zeros(1))
    engine = _engine(nn.ParameterList([weight]), replace(CONFIG, weight_decay=0.0))
    moved = []
    for _ in range(6):
        before = weight.item()
        _step(engine, weight.sum())  # a gradient of 1: Adam moves by the rate
        moved.append(round((before - weight.item()) / 0.1, 4))
    assert moved == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert engine.steps == 6


def test_the_norm_is_reported_before_clipping() -> None:
    weight = nn.Parameter(torch.zeros(2))
    engine = _engine(nn.ParameterList([weight]), replace(CONFIG, gradient_clip=1.0))
    assert _step(engine, (weight * torch.tensor([30.0, 40.0])).sum()) == pytest.approx(50.0)


def test_gradients_do_not_pile_up() -> None:
    weight = nn.Parameter(torch.zeros(1))
    engine = _engine(nn.ParameterList([weight]), CONFIG)
    assert [_step(engine, (0.5 * weight).sum()) for _ in range(2)] == pytest.approx([0.5, 0.5])


def test_the_parts_of_a_step_add_up() -> None:
    weight = nn.Parameter(torch.zeros(2))
    engine = _engine(nn.ParameterList([weight]), CONFIG)
    for part in ([3.0, 0.0], [0.0, 4.0]):
        _differentiate(engine, (weight * torch.tensor(part)).sum())
    assert engine.step() == pytest.approx(5.0)


def test_frozen_parameters_stay() -> None:
    frozen, free = nn.Parameter(torch.ones(1), requires_grad=False), nn.Parameter(torch.ones(1))
    _step(_engine(nn.ParameterList([frozen, free]), CONFIG), (frozen * free).sum())
    assert frozen.item() == 1.0
    assert free.item() != 1.0


def test_the_rate_can_stay_level_before_it_falls() -> None:
    config = TrainConfig(warmup_steps=2, steps=10, lr_decay_fraction=0.5)
    assert [_factor(step, config) for step in (0, 1, 2, 6, 8, 10)] == [0.5, 1.0, 1.0, 1.0, 0.5, 0.0]


def test_a_saved_state_continues_bit_for_bit() -> None:
    whole, halves = _Toy(CONFIG), _Toy(CONFIG)
    whole.run(range(6))
    halves.run(range(3))
    state = _through_a_file(halves.engine.state())
    continued = _Toy(CONFIG)
    continued.model.load_state_dict(halves.model.state_dict())
    continued.engine.load_state(state)
    assert continued.engine.steps == 3
    continued.run(range(3, 6))
    for ours, theirs in zip(continued.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_fused_step_is_the_same_and_continues_bit_for_bit() -> None:
    plain, fused, halves = _Toy(CONFIG), _Toy(CONFIG, _Fused), _Toy(CONFIG, _Fused)
    plain.run(range(6))
    fused.run(range(6))
    halves.run(range(3))
    continued = _Toy(CONFIG, _Fused)
    continued.model.load_state_dict(halves.model.state_dict())
    continued.engine.load_state(_through_a_file(halves.engine.state()))
    continued.run(range(3, 6))
    for ours, theirs, resumed in zip(*(toy.model.parameters() for toy in (fused, plain, continued)), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
        assert torch.equal(resumed, ours)


class _Fused(Recipe):
    """AdamW as on CUDA."""

    def build_optimizers(self, module: nn.Module, fused: bool = False) -> list[torch.optim.Optimizer]:
        return super().build_optimizers(module, fused=True)


class _Toy:
    """A small model and its engine."""

    def __init__(self, config: TrainConfig, recipe: type[Recipe] = Recipe) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
        self.engine = TorchEngine(self.model, recipe(Config(train=config)), Group())

    def run(self, steps: range) -> None:
        for step in steps:
            inputs: Tensor = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
            _step(self.engine, self.model(inputs).square().mean())


def _engine(module: nn.Module, config: TrainConfig) -> TorchEngine:
    return TorchEngine(module, Recipe(Config(train=config)), Group())


def _factor(step: int, config: TrainConfig) -> float:
    return Recipe(Config(train=config)).learning_rate_factor(step)


def _step(engine: TorchEngine, loss: Tensor) -> float:
    _differentiate(engine, loss)
    return engine.step()


def _differentiate(engine: TorchEngine, loss: Tensor) -> None:
    engine.differentiate(lambda: loss)


def _through_a_file(state: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)
