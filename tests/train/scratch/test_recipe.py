"""The training from random weights: its phases, its rates, its batches, and that each of them resumes exactly."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import mask
from runs import Listener, read_rows, read_trajectory
from torch import nn

from cores_core.config import Config, ScratchConfig, TrainConfig
from cores_core.data.mixture import Mixture, SampleOptions
from cores_core.data.store import Store
from cores_core.errors import CheckpointError, ConfigError
from cores_core.images import load_image
from cores_core.model.checkpoint import OBJECTIVE, OLD_OBJECTIVE, Checkpoint, load_checkpoint, load_objective
from cores_core.prompts import PromptFormat
from cores_core.runtime import Group
from cores_core.sample import Annotation, Query, Sample
from cores_core.settings import load_config
from cores_core.train.engine import TorchEngine
from cores_core.train.launch import train
from cores_core.train.recipe import StepImages
from cores_core.train.scratch.recipe import DropWords, ScratchRecipe, coverage_maps
from cores_core.train.start import TrainJob, choose_recipe, newest_checkpoint

LEFT_HALF = np.repeat(mask("#" * 20 + "." * 20), 20, axis=0)


def test_the_paper_s_presets_are_trained_as_in_the_paper() -> None:
    assert not isinstance(choose_recipe(load_config("cores-7b")), ScratchRecipe)
    assert isinstance(choose_recipe(load_config("tiny")), ScratchRecipe)


def test_the_first_phase_reads_batches_of_its_own_and_the_rest_goes_on_behind_it() -> None:
    scratch = ScratchConfig(prototype_loss=1.0, sam_steps=2, sam_images=3, sam_queries=4)
    recipe = _recipe(scratch, global_batch_size=2, micro_batch_size=1)
    assert [recipe.images_of(step) for step in range(4)] == [
        StepImages(0, 3, queries=4),
        StepImages(3, 3, queries=4),
        StepImages(6, 2, queries=3, at_once=1),
        StepImages(8, 2, queries=3, at_once=1),
    ]
    assert recipe.fewest_images == 2


def test_every_phase_rises_and_falls_by_itself() -> None:
    scratch = ScratchConfig(prototype_loss=1.0, sam_steps=4, align_steps=3, joint_lr_scale=0.5)
    recipe = _recipe(scratch, warmup_steps=2, steps=11)
    assert [recipe.learning_rate_factor(step) for step in range(11)] == [
        *(0.5, 1.0, 1.0, 0.5),
        *(0.5, 1.0, 1.0),
        *(0.25, 0.5, 0.5, 0.25),
    ]


def test_tables_of_embeddings_have_a_rate_of_their_own() -> None:
    model = nn.ModuleDict({"table": nn.Embedding(1, 1), "norm": nn.LayerNorm(1)})
    before = {name: parameter.item() for name, parameter in model.named_parameters()}
    recipe = _recipe(ScratchConfig(embedding_lr_scale=3.0), steps=6, warmup_steps=1, learning_rate=0.1)
    engine = TorchEngine(model, recipe, Group())
    engine.differentiate(lambda: sum(parameter.sum() for parameter in model.parameters()))
    engine.step()
    moved = {name: before[name] - parameter.item() for name, parameter in model.named_parameters()}
    assert moved == pytest.approx({"table.weight": 0.3, "norm.weight": 0.1, "norm.bias": 0.1}, abs=1e-4)


def test_annotations_lie_in_the_frame_of_sam(checkpoint: Checkpoint) -> None:
    shown = (Annotation("Fish", "object", np.ones((20, 40), dtype=bool)), Annotation("Fish Tail", "part", LEFT_HALF))
    sample = Sample(np.zeros((20, 40, 3), dtype=np.uint8), (), annotations=shown)
    maps = coverage_maps(sample, (32, 64), checkpoint.processor.frame)
    assert maps.shape == (2, 32, 32)  # 8 patches of 4 decoder pixels
    assert (maps[0, :16] == 255).all()  # 20 x 40 becomes 32 x 64 of SAM's pixels; below it is padding
    assert (maps[:, 16:] == 0).all()
    assert (maps[1, :16, :15] == 255).all()
    assert (maps[1, :16, 17:] == 0).all()


def test_a_batch_holds_what_the_prototypes_need(checkpoint: Checkpoint, partworld_root: Path) -> None:
    recipe = _recipe(ScratchConfig(prototype_loss=1.0, sam_steps=1))
    store, processor = Store(partworld_root, "partworld", "train"), checkpoint.processor
    mixture = Mixture([store], processor.prompt, recipe.sample_options(), seed=0)
    samples = [mixture[position] for position in range(2)]
    samples[1] = replace(samples[1], annotations=())
    rows = [processor.tokenize(sample) for sample in samples]
    pictures, whole = (recipe.collate(processor, step, samples, rows) for step in (0, 1))
    assert (pictures.input_ids.numel(), whole.input_ids.shape[0]) == (0, 2)
    for batch in (pictures, whole):
        assert batch.extras["asked"] == samples[0].categories + samples[1].categories
        assert [len(names) for names in batch.extras["shown"]] == [len(samples[0].annotations), 0]
        assert [len(maps) for maps in batch.extras["coverage"]] == [len(samples[0].annotations), 0]
    on_meta = whole.to(torch.device("meta"))
    assert all(maps.device.type == "meta" for maps in on_meta.extras["coverage"])


def test_dropped_words_leave_the_rest_in_order_and_never_nothing() -> None:
    rng, words = np.random.default_rng(0), ["one", "two", "three", "four", "five", "six", "seven", "eight"]
    texts = [DropWords(0.5)(Query(" ".join(words), False, "answer"), rng) for _ in range(200)]
    kept = [query.text.split() for query in texts]
    assert all(sorted(found, key=words.index) == found and found for found in kept)
    assert sum(map(len, kept)) / (200 * len(words)) == pytest.approx(0.5, abs=0.05)
    assert {(query.is_sentence, query.answer) for query in texts} == {(False, "answer")}
    assert DropWords(0.999)(Query("one two"), rng).text == "one two"


def test_only_the_words_of_a_query_are_dropped(partworld_root: Path) -> None:
    store = Store(partworld_root, "partworld", "train")
    both = (SampleOptions(50), SampleOptions(50, augment_query=DropWords(0.5)))
    plain, dropped = (Mixture([store], PromptFormat(), options, seed=0) for options in both)
    counts: list[int] = []
    for position in range(6):
        record = next(r for r in store if np.array_equal(load_image(store.image_path(r)), plain[position].image))
        known = {query.text for region in record.regions for query in region.queries}
        assert dropped[position].categories == plain[position].categories
        for turn in dropped[position].turns:
            assert any(_is_shortened(turn.question, text) for text in known), turn.question
            counts.append(len(turn.question.split()))
    full = [len(turn.question.split()) for position in range(6) for turn in plain[position].turns]
    assert 0.5 < sum(counts) / sum(full) < 0.9  # the words of the template stay


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_all_phases_are_resumed_exactly(new_job: Callable[..., TrainJob], stop_after: int) -> None:
    scratch = ScratchConfig(prototype_loss=0.5, optimizer="muon", sam_steps=1, sam_images=3, align_steps=1)
    whole, halves = (new_job(name, scratch) for name in ("whole", "halves"))
    train(whole)
    train(halves, [Listener(stop_after=stop_after)])
    train(halves, resume=True)
    assert read_trajectory(halves.output) == read_trajectory(whole.output)
    rows = read_rows(whole.output)
    assert all(row["concept"] > 0 for row in rows)
    assert [row["dice"] > 0 for row in rows] == [True, False, True, True]
    assert [row["text"] > 0 for row in rows] == [False, True, True, True]


def test_the_first_phase_trains_sam_and_the_refiner_alone(new_job: Callable[..., TrainJob]) -> None:
    scratch = ScratchConfig(prototype_loss=0.5, sam_steps=2, sam_images=3)
    changed = _changed_weights(new_job(scratch=scratch, save_every=1, steps=2))
    assert changed
    assert all(name.startswith(("segmenter.", "refiner.")) for name in changed)


def test_the_second_phase_trains_the_language_side_alone(new_job: Callable[..., TrainJob]) -> None:
    changed = _changed_weights(new_job(scratch=ScratchConfig(prototype_loss=0.5, align_steps=2), save_every=1, steps=2))
    assert changed
    assert all(name.startswith(("mllm.", "projection.")) for name in changed)


@pytest.mark.parametrize("phase", ["sam_steps", "align_steps"])
def test_phases_without_prototypes_are_refused(phase: str) -> None:
    with pytest.raises(ConfigError, match=r"scratch\.prototype_loss"):
        ScratchConfig(**{phase: 2})


def test_a_run_that_has_begun_keeps_its_prototypes_and_its_optimizer(new_job: Callable[..., TrainJob]) -> None:
    job = new_job()
    train(job, [Listener(stop_after=2)])
    for changes in ({"prototype_loss": 1.0}, {"optimizer": "muon"}):
        changed = replace(job, config=replace(job.config, scratch=ScratchConfig(**changes)))
        with pytest.raises(ConfigError, match=next(iter(changes))):
            train(changed, resume=True)
    longer = replace(job.config, train=replace(job.config.train, steps=3), scratch=ScratchConfig(word_dropout=0.1))
    assert train(replace(job, config=longer), resume=True) == 3


@pytest.mark.parametrize("name", [OBJECTIVE, OLD_OBJECTIVE])
def test_a_run_goes_on_with_the_prototypes_of_the_model_it_starts_from(
    new_job: Callable[..., TrainJob], tmp_path: Path, name: str
) -> None:
    scratch = ScratchConfig(prototype_loss=0.5)
    first = new_job("first", scratch, steps=1)
    train(first)
    start = Path(shutil.copytree(newest_checkpoint(first.output), tmp_path / "start"))
    (start / OBJECTIVE).rename(start / name)
    second = new_job("second", scratch, steps=1, start_from=str(start), learning_rate=0.0)
    train(second)
    ours, theirs = load_objective(newest_checkpoint(second.output)), load_objective(start)
    assert {"prototypes", "backgrounds"} < set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_missing_prototypes_are_named(new_job: Callable[..., TrainJob], tmp_path: Path) -> None:
    scratch = ScratchConfig(prototype_loss=0.5)
    first = new_job("first", scratch, steps=1)
    train(first)
    start = Path(shutil.copytree(newest_checkpoint(first.output), tmp_path / "start"))
    (start / OBJECTIVE).unlink()
    with pytest.raises(CheckpointError, match="prototypes"):
        train(new_job("second", scratch, steps=1, start_from=str(start)))


def _recipe(scratch: ScratchConfig, **train: int | float) -> ScratchRecipe:
    return ScratchRecipe(Config(train=TrainConfig(**train), scratch=scratch))


def _changed_weights(job: TrainJob) -> set[str]:
    """Names of the weights that the second of two steps changes."""
    train(job)
    first, second = (load_checkpoint(job.output / f"checkpoints/step-{n:06d}").model.state_dict() for n in (1, 2))
    return {name for name in first if not torch.equal(first[name], second[name])}


def _is_shortened(question: str, text: str) -> bool:
    """Whether some first words of a question are words of a text, in its order, and the rest is a template's."""
    words = iter(text.split())
    templates = ("Please respond with segmentation mask.", "Please output segmentation mask.", "in this image")
    asked = question
    for template in templates:
        asked = asked.split(template)[0]
    for start in ("Can you segment the ", "Please segment the ", "What is "):
        asked = asked.removeprefix(start)
    asked = asked.strip().removesuffix("?").strip()
    return bool(asked) and all(any(word.strip("?.") == other.strip("?.") for other in words) for word in asked.split())
