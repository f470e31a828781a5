"""Every family on every kind of SAM, offline: train adapters, stop, resume, merge, ask, evaluate, and hand on.

By default each family has one SAM and one way to train the vocabulary; `pytest -m matrix` runs all other combinations.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from _pytest.mark import ParameterSet
from bases import save_sam
from families import save_tiny_mllm, save_tiny_sam
from helpers import noise_image
from peft import PeftModel
from runs import Listener, read_rows, read_trajectory
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from cores_core.config import BaseConfig, Config, EngineConfig, LoraConfig
from cores_core.data.store import Store
from cores_core.evaluate.benchmarks import benchmark_of
from cores_core.evaluate.run import EvalJob, evaluate
from cores_core.model.checkpoint import Checkpoint, LoadOptions, assemble, load_checkpoint, save_checkpoint
from cores_core.model.families.table import FAMILIES
from cores_core.model.inference import segment_image
from cores_core.model.lora import is_adapter
from cores_core.model.placement import Placement, place_model
from cores_core.model.weights.pretrained import read_base
from cores_core.sample import Query
from cores_core.settings import load_config
from cores_core.train.launch import train
from cores_core.train.start import TrainJob, newest_checkpoint

SAMS = ("sam1", "sam2", "sam3")
VOCABULARIES = ("rows", "full")
QUERIES = (Query("Which part steers the fish?"), Query("the tail", is_sentence=False))


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every family and every SAM as the hub or segment-anything has them."""
    folder = tmp_path_factory.mktemp("bases")
    for family in FAMILIES:
        save_tiny_mllm(folder / family, family)
    save_sam(folder / "sam1.pth")
    for kind in SAMS[1:]:
        save_tiny_sam(folder / kind, kind)
    return folder


def _combinations() -> list[ParameterSet]:
    """All of them; those that are not run by default have the mark `matrix`."""
    found = []
    for number, family in enumerate(sorted(FAMILIES)):
        default = (SAMS[number % len(SAMS)], VOCABULARIES[number % len(VOCABULARIES)])
        for sam, vocabulary in product(SAMS, VOCABULARIES):
            marks = () if (sam, vocabulary) == default else pytest.mark.matrix
            found.append(pytest.param((family, sam, vocabulary), marks=marks, id=f"{family}-{sam}-{vocabulary}"))
    return found


@pytest.fixture(scope="module")
def make_job(
    bases: Path, tiny_config: Config, partworld_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., TrainJob]:
    """Make a job of three steps on a family and a SAM."""

    def make(family: str, sam: str, vocabulary: Literal["rows", "full"], **changes: object) -> TrainJob:
        base = BaseConfig(str(bases / family), str(bases / ("sam1.pth" if sam == "sam1" else sam)))
        lora = LoraConfig(rank=4, alpha=8, dropout=0.0, vocabulary=vocabulary)
        train = replace(tiny_config.train, steps=3, save_every=3, validate_every=3, queries_per_image=2)
        config = Config(base=base, lora=lora, train=train, **changes)
        return TrainJob(config, partworld_root, tmp_path_factory.mktemp("run") / "run", torch.device("cpu"))

    return make


@pytest.fixture(scope="module", params=_combinations())
def job(request: pytest.FixtureRequest, make_job: Callable[..., TrainJob]) -> TrainJob:
    """A run that was stopped after its first step and resumed."""
    job = make_job(*request.param)
    assert train(job, [Listener(stop_after=1)]) == 1
    assert train(replace(job, config=load_config(job.output / "config.yaml")), resume=True) == 3
    return job


@pytest.fixture(scope="module")
def merged(job: TrainJob) -> Checkpoint:
    return load_checkpoint(newest(job))


def test_it_learns_what_should_and_nothing_else(job: TrainJob, merged: Checkpoint) -> None:
    assert all(np.isfinite(row["loss"]) and row["gradient_norm"] > 0 for row in read_rows(job.output))
    before = assemble(read_base(job.config, _no_tokenizer), LoadOptions(dtype=None)).model.state_dict()
    after = load_checkpoint(newest(job), LoadOptions(merge=False)).model.state_dict()
    kept = {name.replace(".base_layer", "").replace(".token_adapter", ""): name for name in after}
    changed = {name for name in before if not torch.equal(before[name], after[kept[name]])}
    heads = tuple(name for name in changed if name.startswith(("projection.", "refiner.", "segmenter.mask_decoder.")))
    assert heads
    words = {name for name in changed if name.endswith(("embed_tokens.weight", "lm_head.weight"))}
    assert changed == {*heads, *words}  # everything else is as it was, to the bit
    new = merged.processor.new_ids
    for name in words:  # of the rows of a base, those of new tokens alone are not read from it
        others = torch.ones(len(before[name]), dtype=torch.bool)
        others[list(new)] = False
        same = torch.equal(before[name][others], after[kept[name]][others])
        assert same == (job.config.lora.vocabulary == "rows")


def test_apart_and_merged_and_saved_again_it_is_one_model(job: TrainJob, merged: Checkpoint, tmp_path: Path) -> None:
    apart = load_checkpoint(newest(job), LoadOptions(merge=False))
    assert any(is_adapter(name) for name in apart.model.state_dict())
    save_checkpoint(tmp_path / "alone", merged)
    alone = load_checkpoint(tmp_path / "alone")
    assert alone.config.base == BaseConfig()
    expected = _masks(merged)
    np.testing.assert_allclose(_masks(apart), expected, atol=1e-4)
    assert np.array_equal(_masks(alone), expected)
    assert {p.name for p in (tmp_path / "alone").iterdir()} >= {"mllm", "processor", "heads.safetensors"}


def test_it_is_trained_further_with_a_preset_that_has_sizes_of_its_own(
    job: TrainJob, merged: Checkpoint, tiny_config: Config, tmp_path: Path
) -> None:
    settings = replace(job.config.train, start_from=str(newest(job)), steps=1, save_every=1)
    sam = merged.config.sam
    further = replace(job, config=replace(tiny_config, train=settings, sam=sam), output=tmp_path / "run")
    if merged.config.conversation != "template":
        further = replace(
            further, config=replace(further.config, language=merged.config.language, vision=merged.config.vision)
        )
    assert train(further) == 1
    assert load_checkpoint(newest(further)).config.conversation == merged.config.conversation


def test_transformers_reads_the_merged_model(merged: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, merged)
    net, found = AutoModelForImageTextToText.from_pretrained(tmp_path / "mllm", output_loading_info=True)
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    own = merged.model.mllm.net.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in net.state_dict().items())
    tokenizer = AutoProcessor.from_pretrained(tmp_path / "processor").tokenizer
    assert tuple(tokenizer.convert_tokens_to_ids(["[LOC]", "[SEG]"])) == merged.processor.chain_ids


def test_peft_reads_the_adapter(job: TrainJob, merged: Checkpoint) -> None:
    net = AutoModelForImageTextToText.from_pretrained(job.config.base.mllm)
    rows = merged.model.mllm.net.get_input_embeddings().weight.shape[0]
    net.resize_token_embeddings(rows, mean_resizing=False)
    theirs = PeftModel.from_pretrained(net, newest(job) / "adapter").merge_and_unload()
    own = merged.model.mllm.net.state_dict()
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(tensor, own[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize("protocol", ["generate", "teacher_forced"])
def test_it_answers_and_draws(merged: Checkpoint, protocol: str) -> None:
    found = segment_image(merged, noise_image(60, 90), QUERIES, protocol)
    assert [answer.refined.shape for answer in found] == [(60, 90)] * 2
    if protocol == "teacher_forced":
        assert all(answer.well_formed and np.isfinite(answer.refined).all() for answer in found)


def test_it_is_evaluated(job: TrainJob, merged: Checkpoint) -> None:
    assert read_rows(job.output, "validation")[-1]["step"] == 3
    store = Store(job.data_root, "partworld", "val")
    result = evaluate(
        merged, EvalJob(benchmark_of("partworld"), store.data_root, (("partworld", "val"),), "teacher_forced", 2)
    )
    assert result.items


@pytest.mark.parametrize(
    "family",
    [name if name == "qwen3_vl" else pytest.param(name, marks=pytest.mark.matrix) for name in sorted(FAMILIES)],
)
def test_two_processes_under_zero_2_take_the_steps_of_one(make_job: Callable[..., TrainJob], family: str) -> None:
    alone = make_job(family, "sam2", "rows", engine=EngineConfig(kind="torch"))
    shared = make_job(family, "sam2", "rows", engine=EngineConfig(kind="deepspeed", zero_stage=2))
    train(alone)
    assert train(shared, processes=2) == 3
    for ours, theirs in zip(read_rows(shared.output), read_rows(alone.output), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    states = [load_checkpoint(newest(job)).model.state_dict() for job in (shared, alone)]
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], atol=1e-4, rtol=1e-3)


def test_features_of_sam_2_are_kept_on_disk(make_job: Callable[..., TrainJob], tmp_path: Path) -> None:
    cold, warm = (make_job("smolvlm", "sam2", "rows") for _ in range(2))
    folder = {"embedding_cache": str(tmp_path / "features")}
    for job in (cold, warm):
        train(replace(job, config=replace(job.config, train=replace(job.config.train, **folder))))
    assert read_trajectory(warm.output) == read_trajectory(cold.output)
    paths = list((tmp_path / "features").rglob("*.safetensors"))
    assert {len(load_file(path)) for path in paths} == {3}


@pytest.mark.parametrize("family", ["qwen3_vl", "smolvlm"])
def test_spreading_changes_no_answer(make_job: Callable[..., TrainJob], family: str) -> None:
    parts = read_base(make_job(family, "sam2", "rows").config, _no_tokenizer)
    plain = assemble(parts)
    spread = replace(plain, model=copy.deepcopy(plain.model))
    place_model(spread.model, Placement(torch.device("cpu"), spread=True))
    assert np.array_equal(_masks(spread), _masks(plain))


def test_quantised_layers_are_those_of_the_language_model(make_job: Callable[..., TrainJob]) -> None:
    pytest.importorskip("bitsandbytes")
    checkpoint = assemble(read_base(make_job("qwen3_vl", "sam2", "rows").config, _no_tokenizer))
    place_model(checkpoint.model, Placement(torch.device("cpu"), "8bit"))
    kinds = {name: type(module).__name__ for name, module in checkpoint.model.named_modules()}
    quantised = [name for name, kind in kinds.items() if kind == "Linear8bitLt"]
    assert len(quantised) == 4 * 7
    assert all("language_model.layers" in name for name in quantised)
    assert _masks(checkpoint).shape == (4, 60, 90)


def newest(job: TrainJob) -> Path:
    folder = newest_checkpoint(job.output)
    assert folder is not None
    return folder


def _no_tokenizer() -> None:
    raise AssertionError("the base brings its own tokenizer")


def _masks(checkpoint: Checkpoint) -> np.ndarray:
    found = segment_image(checkpoint, noise_image(60, 90), QUERIES, "teacher_forced")
    return np.stack([mask for answer in found for mask in (answer.coarse, answer.refined)])
