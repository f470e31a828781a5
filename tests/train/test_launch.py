"""Two processes take the steps that one takes, and end together."""

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from runs import Listener, read_rows

from cores_core.config import ScratchConfig
from cores_core.errors import ConfigError, LaunchError
from cores_core.model.checkpoint import load_checkpoint
from cores_core.train.launch import train
from cores_core.train.loop import StepReport
from cores_core.train.start import TrainJob, newest_checkpoint


@pytest.fixture(autouse=True)
def threads_as_before() -> None:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_two_processes_take_the_steps_of_one(new_job: Callable[..., TrainJob]) -> None:
    scratch = ScratchConfig(prototype_loss=0.5, sam_steps=1, sam_images=2)
    alone, together = new_job("alone", scratch), new_job("together", scratch)
    assert train(alone, processes=1) == 4
    listener = Listener()
    assert train(together, [listener], processes=2) == 4
    assert listener.steps == [1, 2, 3, 4]
    for ours, theirs in zip(read_rows(together.output), read_rows(alone.output), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
        assert ours["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=1e-2)
    weights, others = (load_checkpoint(newest_checkpoint(j.output)).model.state_dict() for j in (together, alone))
    assert all(torch.allclose(weights[name], others[name], atol=1e-3) for name in others)


def test_a_run_is_resumed_by_another_number_of_processes(new_job: Callable[..., TrainJob]) -> None:
    whole, parts = new_job("whole"), new_job("parts")
    train(whole)
    assert train(parts, [Listener(stop_after=1)], processes=1) == 1
    listener = Listener(stop_after=3)
    assert train(parts, [listener], resume=True, processes=2) == 3
    assert listener.started == [(1, 4)]
    assert train(parts, resume=True, processes=1) == 4
    for ours, theirs in zip(read_rows(parts.output), read_rows(whole.output), strict=True):
        assert (ours["step"], ours["learning_rate"]) == (theirs["step"], theirs["learning_rate"])
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    weights, others = (load_checkpoint(newest_checkpoint(j.output)).model.state_dict() for j in (parts, whole))
    assert all(torch.allclose(weights[name], others[name], atol=1e-3) for name in others)


def test_when_one_process_dies_all_end(new_job: Callable[..., TrainJob]) -> None:
    @dataclass
    class Killer(Listener):
        def on_step(self, report: StepReport) -> None:
            for child in multiprocessing.active_children():
                child.kill()

        def should_stop(self) -> bool:
            return False

    with pytest.raises(LaunchError, match="rank 1, by SIGKILL") as caught:
        train(new_job(), [Killer()], processes=2)
    assert "--resume" in str(caught.value.hint)
    assert multiprocessing.active_children() == []


def test_processes_without_an_image_each_are_refused(new_job: Callable[..., TrainJob]) -> None:
    job = new_job(global_batch_size=2)
    with pytest.raises(ConfigError, match="3 processes"):
        train(job, processes=3)
    assert not job.output.exists()
