"""A run of four steps: what it leaves behind, and that stopping half-way changes nothing."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from helpers import mask
from runs import Listener, read_rows, read_trajectory

from cores_core.config import ChainConfig, Config
from cores_core.errors import CheckpointError, ConfigError, CoresError, DataError
from cores_core.evaluate.items import Item
from cores_core.evaluate.results import Evaluation
from cores_core.masks import encode_rle
from cores_core.metrics import Overlap
from cores_core.model.checkpoint import load_checkpoint, load_optimizer, save_checkpoint
from cores_core.settings import load_config
from cores_core.train import trainer as trainer_module
from cores_core.train.launch import train
from cores_core.train.start import TrainJob, newest_checkpoint


@pytest.fixture(scope="module")
def finished(tiny_config: Config, partworld_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never interrupted; read it only."""
    output = tmp_path_factory.mktemp("finished") / "run"
    train(TrainJob(tiny_config, partworld_root, output, torch.device("cpu")))
    return output


def test_a_run_reports_every_step_and_leaves_its_folder(finished: Path, tiny_config: Config) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names == {"config.yaml", "data.json", "metrics.jsonl", "validation.jsonl", "tensorboard", "checkpoints"}
    assert load_config(finished / "config.yaml") == tiny_config
    rows = read_rows(finished)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [row["learning_rate"] for row in rows] == pytest.approx([1e-3, 1e-3, 2e-3 / 3, 1e-3 / 3])
    assert all(math.isfinite(row["loss"]) and row["gradient_norm"] > 0 for row in rows)
    assert [row["step"] for row in read_rows(finished, "validation")] == [2, 4]
    assert list((finished / "tensorboard").iterdir())


def test_the_reporter_hears_everything_in_order(new_job: Callable[..., TrainJob]) -> None:
    listener = Listener()
    assert train(new_job(), [listener]) == 4
    assert listener.started == [(0, 4)]
    assert listener.steps == [1, 2, 3, 4]
    assert listener.validations == [2, 4]
    assert listener.saves == ["step-000002", "step-000004"]


def test_the_loss_is_the_weighted_sum_of_its_terms(finished: Path) -> None:
    for row in read_rows(finished):
        expected = row["text"] + 2.0 * (0.4 * row["bce"] + 0.6 * row["dice"])
        assert row["loss"] == pytest.approx(expected, rel=1e-5)


def test_training_changes_the_weights(finished: Path) -> None:
    first, last = (load_checkpoint(finished / f"checkpoints/step-{n:06d}").model.state_dict() for n in (2, 4))
    for name in ("projection.0.weight", "mllm.net.lm_head.weight", "refiner.norm.weight"):
        assert not torch.equal(first[name], last[name]), name


def test_the_last_checkpoint_says_how_it_came_about(finished: Path) -> None:
    newest = newest_checkpoint(finished)
    assert newest is not None
    assert newest.name == "step-000004"
    about = load_checkpoint(newest).about
    assert (about["step"], about["seed"], about["data"]) == (4, 0, ["partworld"])


def test_the_same_run_twice_is_the_same(new_job: Callable[..., TrainJob], finished: Path) -> None:
    job = new_job()
    train(job)
    assert read_trajectory(job.output) == read_trajectory(finished)


def test_another_seed_is_another_run(new_job: Callable[..., TrainJob], finished: Path) -> None:
    job = new_job(seed=1, steps=1)
    train(job)
    assert read_trajectory(job.output)[0]["loss"] != read_trajectory(finished)[0]["loss"]


def test_stopped_and_resumed_equals_uninterrupted(new_job: Callable[..., TrainJob], finished: Path) -> None:
    job = new_job()
    assert train(job, [Listener(stop_after=2)]) == 2
    assert [row["step"] for row in read_rows(job.output)] == [1, 2]
    listener = Listener()
    assert train(job, [listener], resume=True) == 4
    assert listener.started == [(2, 4)]
    _assert_same_run(job.output, finished)


def test_killed_between_checkpoints_and_resumed_equals_uninterrupted(
    new_job: Callable[..., TrainJob], finished: Path
) -> None:
    job = new_job()
    with pytest.raises(KeyboardInterrupt):
        train(job, [Listener(die_after=3)])
    with (job.output / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # and in the middle of a row
    (job.output / "checkpoints/.step-000004.1.tmp").mkdir()  # and in the middle of a checkpoint
    train(job, resume=True)
    _assert_same_run(job.output, finished)
    assert sorted(path.name for path in (job.output / "checkpoints").iterdir()) == ["step-000002", "step-000004"]


def test_killed_before_the_first_checkpoint_starts_anew(new_job: Callable[..., TrainJob], finished: Path) -> None:
    job = new_job()
    with pytest.raises(KeyboardInterrupt):
        train(job, [Listener(die_after=1)])
    listener = Listener()
    train(job, [listener], resume=True)
    assert listener.started == [(0, 4)]
    _assert_same_run(job.output, finished)


def test_a_stop_where_no_checkpoint_is_due_saves_one(new_job: Callable[..., TrainJob], finished: Path) -> None:
    job = new_job()
    listener = Listener(stop_after=3)
    assert train(job, [listener]) == 3
    assert listener.saves == ["step-000002", "step-000003"]
    train(job, resume=True)
    assert read_trajectory(job.output) == read_trajectory(finished)


def test_resuming_a_finished_run_does_nothing(new_job: Callable[..., TrainJob]) -> None:
    job = new_job(steps=1, validate_every=9)
    train(job)
    listener = Listener()
    assert train(job, [listener], resume=True) == 1
    assert listener.steps == []
    assert [row["step"] for row in read_rows(job.output)] == [1]


def test_bf16_trains_much_the_same_in_lower_precision(new_job: Callable[..., TrainJob]) -> None:
    exact, coarse = (new_job(name, precision=name) for name in ("fp32", "bf16"))
    for job in (exact, coarse):
        train(job)
    pairs = list(zip(read_rows(exact.output), read_rows(coarse.output), strict=True))
    assert any(a["loss"] != b["loss"] for a, b in pairs)
    assert all(b["loss"] == pytest.approx(a["loss"], rel=0.05) for a, b in pairs)
    weights = load_checkpoint(newest_checkpoint(coarse.output)).model.state_dict().values()
    assert all(weight.dtype == torch.float32 for weight in weights if weight.is_floating_point())


def test_an_existing_run_is_not_overwritten(new_job: Callable[..., TrainJob]) -> None:
    job = new_job(steps=1)
    train(job)
    before = (job.output / "metrics.jsonl").read_bytes()
    with pytest.raises(ConfigError, match="already a run") as caught:
        train(job)
    assert "--resume" in str(caught.value.hint)
    assert (job.output / "metrics.jsonl").read_bytes() == before


def test_a_run_can_start_from_weights_for_smaller_images(
    new_job: Callable[..., TrainJob], finished: Path, tiny_config: Config
) -> None:
    job = new_job(steps=1, start_from=str(newest_checkpoint(finished)))
    larger = replace(job, config=replace(job.config, sam=replace(tiny_config.sam, image_size=96)))
    train(larger)
    trained = load_checkpoint(newest_checkpoint(larger.output))
    assert trained.processor.frame.side == 96
    assert trained.model.segmenter.image_encoder.pos_embed.shape[1:3] == (12, 12)


def test_a_run_can_start_from_the_weights_of_another(new_job: Callable[..., TrainJob]) -> None:
    first = new_job("first", steps=1)
    train(first)
    second = new_job("second", steps=1, start_from=str(newest_checkpoint(first.output)), learning_rate=0.0)
    train(second)
    ours, theirs = (load_checkpoint(newest_checkpoint(job.output)).model.state_dict() for job in (second, first))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_training_a_model_further_ends_its_rejections(new_job: Callable[..., TrainJob], finished: Path) -> None:
    """Also where the sizes are left to the model, as in the preset finetune; the IoU head stays as it is."""
    start = load_checkpoint(newest_checkpoint(finished))
    sam, chain = replace(start.config.sam, predicts_iou=True), replace(start.config.chain, reject_below=0.5)
    job = new_job(steps=1)
    calibrated = job.output.parent / "calibrated"
    save_checkpoint(calibrated, replace(start, config=replace(start.config, sam=sam, chain=chain)))
    for name in ("sized", "open"):
        train_config = replace(job.config.train, start_from=str(calibrated))
        config = replace(job.config, train=train_config)
        if name == "open":
            config = replace(Config(), train=train_config)
        further = replace(job, config=config, output=job.output.parent / name)
        train(further)
        found = load_checkpoint(newest_checkpoint(further.output)).config
        assert (found.sam.predicts_iou, found.chain.reject_below) == (True, 0.0)


def test_a_run_cannot_start_from_a_model_of_another_size(new_job: Callable[..., TrainJob]) -> None:
    first = new_job("first", steps=1)
    train(first)
    second = new_job("second", steps=1, start_from=str(newest_checkpoint(first.output)))
    language = replace(second.config.language, num_hidden_layers=1)
    with pytest.raises(ConfigError, match="language"):
        train(replace(second, config=replace(second.config, language=language)))


@pytest.mark.parametrize(
    "chain", [ChainConfig(stages=1, refiner=False), ChainConfig(stages=3), ChainConfig(refiner=False)], ids=str
)
def test_a_run_may_give_a_model_another_chain_and_is_resumed(
    new_job: Callable[..., TrainJob], chain: ChainConfig
) -> None:
    first = new_job("first", steps=1)
    train(first)
    second = new_job("second", steps=3, start_from=str(newest_checkpoint(first.output)), save_every=1)
    second = replace(second, config=replace(second.config, chain=chain, context="none"))
    assert train(second, [Listener(stop_after=2)]) == 2
    assert train(second, resume=True) == 3
    found = load_checkpoint(newest_checkpoint(second.output))
    assert found.config.chain == chain
    assert len(found.model.chain_ids) == chain.stages
    assert (found.model.refiner is None) == (not chain.refiner)


@pytest.mark.skipif(find_spec("wandb") is not None, reason="it is installed here")
def test_a_logger_that_is_not_installed_is_named_before_anything_starts(new_job: Callable[..., TrainJob]) -> None:
    job = new_job(wandb="project")
    with pytest.raises(ConfigError, match=r"train\.wandb"):
        train(job)
    assert not job.output.exists()


def test_there_is_nothing_to_resume_in_an_empty_folder(new_job: Callable[..., TrainJob]) -> None:
    job = new_job()
    with pytest.raises(CheckpointError, match="nothing to resume"):
        train(job, resume=True)
    assert not job.output.exists()


def test_a_run_that_has_begun_keeps_its_model_and_may_change_the_rest(new_job: Callable[..., TrainJob]) -> None:
    job = new_job()
    train(job, [Listener(stop_after=2)])
    for changes in ({"chain": ChainConfig(stages=1)}, {"context": "none"}):
        with pytest.raises(ConfigError, match=next(iter(changes))):
            train(replace(job, config=replace(job.config, **changes)), resume=True)
    assert load_config(job.output / "config.yaml") == job.config
    longer = replace(job, config=replace(job.config, train=replace(job.config.train, steps=5)))
    assert train(longer, resume=True) == 5


def test_data_that_is_not_prepared_is_an_error_before_anything_is_written(
    new_job: Callable[..., TrainJob], tmp_path: Path
) -> None:
    job = replace(new_job(), data_root=tmp_path / "nowhere")
    with pytest.raises(DataError, match="cores prepare-data partworld"):
        train(job)
    assert not job.output.exists()


def test_the_best_and_the_last_checkpoints_are_kept(
    new_job: Callable[..., TrainJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.1, 0.9, 0.3, 0.4, 0.5])
    monkeypatch.setattr(trainer_module, "evaluate", lambda *_, **__: _score(next(scores)))
    job = new_job(steps=5, save_every=1, validate_every=1, keep_checkpoints=1)
    train(job, [_Silent()])
    assert sorted(path.name for path in (job.output / "checkpoints").iterdir()) == ["step-000002", "step-000005"]
    newest = newest_checkpoint(job.output)
    assert newest is not None
    assert load_optimizer(newest)["best"] == [0.9, 2]


def test_the_best_is_remembered_when_resumed(new_job: Callable[..., TrainJob], monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.1, 0.9, 0.3, 0.4])
    monkeypatch.setattr(trainer_module, "evaluate", lambda *_, **__: _score(next(scores)))
    job = new_job(save_every=1, validate_every=1, keep_checkpoints=1)
    train(job, [_Silent(stop_after=3)])
    train(job, [_Silent()], resume=True)
    assert sorted(path.name for path in (job.output / "checkpoints").iterdir()) == ["step-000002", "step-000004"]


def test_a_loss_that_is_no_number_ends_the_run_before_it_spoils_a_checkpoint(
    new_job: Callable[..., TrainJob],
) -> None:
    job = new_job(learning_rate=1e30)
    with pytest.raises(CoresError, match="loss is") as caught:
        train(job)
    assert "learning_rate" in str(caught.value.hint)
    assert newest_checkpoint(job.output) is None


def test_worker_processes_give_the_same_batches(new_job: Callable[..., TrainJob], finished: Path) -> None:
    job = new_job(steps=2, workers=1, warmup_steps=1)
    train(job)
    assert read_trajectory(job.output)[0] == read_trajectory(finished)[0]


@dataclass
class _Silent(Listener):
    """Looks at no validation, because it is not a real one."""

    def on_validation(self, step: int, result: Evaluation) -> None:
        self.validations.append(step)


def _score(giou: float) -> Evaluation:
    overlap = Overlap(round(giou * 1000), predicted=round(giou * 1000), target=1000, share=0.5)
    blank = encode_rle(mask("."))
    item = Item("a/b/0.0.0", "a.png", "", "?", True, "", True, overlap, None, blank, None, blank, None, 0.0)
    return Evaluation((item,), {})


def _assert_same_run(output: Path, finished: Path) -> None:
    assert read_trajectory(output) == read_trajectory(finished)
    assert read_rows(output, "validation") == read_rows(finished, "validation")
    ours, theirs = (
        load_checkpoint(folder / "checkpoints/step-000004").model.state_dict() for folder in (output, finished)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
