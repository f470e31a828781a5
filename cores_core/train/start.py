"""Initial state of a training: random or pretrained weights, a model's weights, or a checkpoint to resume."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path

import torch

from cores_core.config import BaseConfig, Config, ScratchConfig
from cores_core.data.mixture import share_out
from cores_core.data.parquet.known import HUB
from cores_core.data.registry import CUSTOM, Group, find_dataset
from cores_core.data.store import Store
from cores_core.errors import CheckpointError, ConfigError, DataError
from cores_core.model.build import Parts, build_tokenizer
from cores_core.model.checkpoint import (
    Checkpoint,
    LoadOptions,
    assemble,
    describe_start,
    find_checkpoint,
    inspect_checkpoint,
    load_checkpoint,
    load_model_config,
)
from cores_core.model.lora import add_lora, choose_trainable
from cores_core.model.placement import check_compiler
from cores_core.model.plan import MemoryPlan, plan_training
from cores_core.model.tokenizer import Tokenizer
from cores_core.model.weights.pretrained import read_base
from cores_core.settings import find_changes, load_config
from cores_core.train.history import find_data_changes, save_history
from cores_core.train.needs import check_needs
from cores_core.train.recipe import Recipe
from cores_core.train.scratch.recipe import ScratchRecipe, fixed_settings

TOKENIZER_IMAGES = 2000
"""Maximum number of images whose questions a new tokenizer is trained on."""
_SIZES = ("language", "vision", "sam", "wording", "conversation")
"""Sections that weights depend on; fine-tuning keeps those of the model."""
_MODEL_SECTIONS = (*_SIZES, "chain", "context")
"""Sections that cannot change in a run; where left at their defaults, `train.start_from` provides them."""
_DEFAULTS = Config()


@dataclass(frozen=True)
class TrainJob:
    """Config, data, output folder and device of a training."""

    config: Config
    data_root: Path
    output: Path
    device: torch.device


@dataclass(frozen=True)
class RunPlan:
    """A job and its initial state: `config.base`, a model's weights (`base`), or a checkpoint to resume (`newest`).

    `changes` lists differences of settings and data since the run was interrupted.
    """

    job: TrainJob
    base: Path | None
    newest: Path | None
    changes: tuple[str, ...] = ()


def choose_recipe(config: Config) -> Recipe:
    """The paper's training, or that from random weights if any of its settings is not at its default."""
    return Recipe(config) if config.scratch == ScratchConfig() else ScratchRecipe(config)


def plan_run(job: TrainJob, resume: bool) -> RunPlan:
    """Validate a job and create its output folder.

    Args:
        resume: continue from the newest checkpoint in `job.output`, or from the start if there is none yet.

    Raises:
        CoresError: the data is not prepared, the folder contains another run, or there is nothing to resume or load.
    """
    check_needs(job.config, job.data_root, resume)
    open_stores(job)
    if job.config.train.wandb is not None and find_spec("wandb") is None:
        raise ConfigError("`train.wandb` needs Weights & Biases", hint="pip install wandb, or leave it out")
    if job.config.train.compile:
        check_compiler()
    _check_embeddings_stay(job.config)
    started = (job.output / "config.yaml").exists()
    if resume and not started:
        raise CheckpointError(f"nothing to resume in: {job.output}", hint="leave out --resume to start")
    if started and not resume:
        raise ConfigError(
            f"there is already a run in: {job.output}", hint="continue it with --resume, or choose another --output"
        )
    newest = newest_checkpoint(job.output)
    changes: tuple[str, ...] = ()
    if newest is not None:
        begun = load_config(newest / "config.yaml")
        grown = replace(begun.language, vocab_size=job.config.language.vocab_size)  # chain tokens may have been added
        begun = replace(begun, language=grown)
        _check_same(_MODEL_SECTIONS, job.config, begun)
        _check_same_training(job.config, begun)
        data_changes = find_data_changes(job.config, job.data_root, job.output)
        changes = (*find_changes(begun, job.config), *data_changes)
    else:
        job = replace(job, config=resolve_config(job))
    start = job.config.train.start_from
    base = newest if newest is not None or start is None else find_checkpoint(start)
    job.output.mkdir(parents=True, exist_ok=True)
    step = 0 if newest is None else int(newest.name.removeprefix("step-"))
    save_history(job.config, job.data_root, job.output, step, changes)
    return RunPlan(job, base, newest, changes)


def compare_with_preset(preset: Config, run: Config) -> list[str]:
    """Differences between a preset and the config that a resumed run keeps, except sizes left open by the preset."""
    sections = (*_MODEL_SECTIONS, "base") if run.train.start_from is not None else _MODEL_SECTIONS
    left_open = [name for name in sections if getattr(preset, name) == getattr(_DEFAULTS, name)]
    return find_changes(replace(preset, **{name: getattr(run, name) for name in left_open}), run)


def resolve_config(job: TrainJob) -> Config:
    """Config of a new run with the sizes of its initial weights, read without loading them.

    Raises:
        CoresError: the weights are missing or do not fit the settings.
    """
    config = job.config
    start = config.train.start_from
    if start is not None:
        begun = load_model_config(start)
        begun = replace(
            begun, chain=replace(begun.chain, reject_below=0.0)
        )  # it was chosen for the masks before training
        left_open = [name for name in _MODEL_SECTIONS if getattr(config, name) == getattr(_DEFAULTS, name)]
        if config.base != BaseConfig():  # sizes that the preset takes from its base come from the model
            left_open += _SIZES
        if begun.conversation == "template":  # the other settings describe LLaVAs
            left_open += ("language", "vision", "conversation")
        config = replace(config, base=BaseConfig(), **{name: getattr(begun, name) for name in left_open})
        config = replace(config, sam=replace(config.sam, predicts_iou=begun.sam.predicts_iou))
        _check_same(_SIZES, config, replace(begun, sam=replace(begun.sam, image_size=config.sam.image_size)))
    elif config.base != BaseConfig():
        return read_base(config, _tokenizer_maker(job), shapes_only=True).config
    return config


def start_model(plan: RunPlan) -> Checkpoint:
    """Build or load the model of a run. New weights are drawn from torch's global generator."""
    job = plan.job
    if plan.base is None:
        checkpoint = assemble(read_base(job.config, _tokenizer_maker(job)), LoadOptions(dtype=None))
    else:
        config, fresh = job.config, plan.newest is None
        options = LoadOptions(
            dtype=None,
            image_size=config.sam.image_size,
            chain=config.chain if fresh else None,
            context=config.context if fresh else None,
            merge=fresh,
        )
        checkpoint = load_checkpoint(plan.base, options)
    return _ready(checkpoint, job.config, has_adapter=plan.newest is not None)


def plan_memory(job: TrainJob, processes: int = 1) -> tuple[Checkpoint, MemoryPlan]:
    """The model of a new run on the meta device, and the memory of each rank. Nothing is loaded.

    Works without data and weights for models with published sizes (model/weights/stand_in.py).

    Raises:
        CoresError: neither weights nor published sizes are available, or the settings do not fit.
    """
    _check_embeddings_stay(job.config)
    if job.config.train.start_from is None:
        parts: Parts = read_base(job.config, _planned_tokenizer(job), shapes_only=True, published=True)
        checkpoint, config = assemble(parts, LoadOptions(dtype=None)), parts.config
    else:
        config = resolve_config(job)
        checkpoint = inspect_checkpoint(job.config.train.start_from)
    checkpoint = _ready(checkpoint, config, has_adapter=False)
    return checkpoint, plan_training(checkpoint, processes)


def describe_run(job: TrainJob, processes: int) -> dict[str, str]:
    """Description of a run by topic: steps, batch, engine, data shares, losses."""
    config, train, loss = job.config, job.config.train, job.config.loss
    optimizer = choose_recipe(config).optimizer
    share = -(-train.global_batch_size // processes)
    parts = -(-share // (train.micro_batch_size or share))
    weights = share_out([_find_group(name, job.data_root) for name in config.data], config.mixture)
    shares = ["every image once an epoch"] if weights is None else [f"{w / sum(weights):.0%}" for w in weights]
    return {
        "steps": f"{train.steps}, {train.warmup_steps} of warm-up, {optimizer} at {train.learning_rate:g}",
        "images a step": f"{train.global_batch_size}: {processes} processes x {parts} parts of {-(-share // parts)}",
        "questions an image": f"up to {train.queries_per_image}",
        "engine": config.engine.kind if processes == 1 else f"{config.engine.kind}, ZeRO {config.engine.zero_stage}",
        "data": ", ".join(f"{name} ({share})" for name, share in zip_longest(config.data, shares, fillvalue=shares[0])),
        "losses": f"text {loss.text:g}, mask {loss.mask:g} (BCE {loss.bce:g}, DICE {loss.dice:g})",
    }


def _find_group(name: str, data_root: Path) -> Group:
    """Group of a data set; in a plan, custom data may be missing."""
    return "custom" if name.startswith((CUSTOM, HUB)) else find_dataset(name, data_root).group


def open_stores(job: TrainJob) -> tuple[list[Store], Store | None]:
    """Training and validation data; custom data may lack a val split.

    Raises:
        DataError: one of them is not prepared.
    """
    stores = [Store(job.data_root, name, "train") for name in job.config.data]
    first = job.config.data[0]
    if "val" not in find_dataset(first, job.data_root).splits:
        return stores, None
    return stores, Store(job.data_root, first, "val")


def newest_checkpoint(output: Path) -> Path | None:
    """The latest complete checkpoint of a run."""
    complete = sorted((output / "checkpoints").glob("step-*/checkpoint.json"))
    return complete[-1].parent if complete else None


def _ready(checkpoint: Checkpoint, config: Config, has_adapter: bool) -> Checkpoint:
    """Attach the run's config, adapters if configured, and select the trainable parameters."""
    about = dict(checkpoint.about)
    if config.lora.rank and not has_adapter:
        add_lora(checkpoint.model, config.lora, checkpoint.processor.new_ids)
        if config.train.start_from is not None:
            about["base"] = describe_start(config)
    choose_trainable(
        checkpoint.model, config.lora, torch.bfloat16 if config.train.precision == "bf16" else torch.float32
    )
    return replace(checkpoint, config=replace(config, language=checkpoint.config.language), about=about)


def _tokenizer_maker(job: TrainJob) -> Callable[[], Tokenizer]:
    """Factory of a tokenizer for a model from scratch, trained on the questions of its data."""

    def make() -> Tokenizer:
        texts: dict[str, None] = {}
        for store in open_stores(job)[0]:
            for index in range(min(len(store), TOKENIZER_IMAGES)):
                texts |= dict.fromkeys(query.text for region in store[index].regions for query in region.queries)
        tokenizer: Tokenizer = build_tokenizer(texts, job.config.language.vocab_size)
        return tokenizer

    return make


def _planned_tokenizer(job: TrainJob) -> Callable[[], Tokenizer]:
    """Factory of a tokenizer for a plan; uses the built-in prompts only if the data is not prepared."""

    def make() -> Tokenizer:
        try:
            return _tokenizer_maker(job)()
        except DataError:
            tokenizer: Tokenizer = build_tokenizer((), job.config.language.vocab_size)
            return tokenizer

    return make


def _check_embeddings_stay(config: Config) -> None:
    """Check that the feature cache is used with a frozen encoder that every rank holds completely."""
    if config.train.embedding_cache is None:
        return
    if not config.lora.rank:
        hint = "set lora.rank=8, or leave train.embedding_cache out"
        raise ConfigError("`train.embedding_cache` is for a frozen SAM, and this one trains", hint=hint)
    if config.engine.zero_stage == 3 and config.engine.kind != "torch":
        hint = "set engine.zero_stage=2, or leave train.embedding_cache out"
        raise ConfigError("with ZeRO 3 all processes encode together, so none can read embeddings", hint=hint)


def _check_same(sections: Sequence[str], config: Config, begun: Config) -> None:
    """Check that sections equal those of the checkpoint."""
    for name in sections:
        if getattr(config, name) != getattr(begun, name):
            raise ConfigError(
                f"`{name}` differs from that of the checkpoint, {getattr(begun, name)}",
                hint="leave it as it is, or start a new run with another --output",
            )


def _check_same_training(config: Config, begun: Config) -> None:
    """Check that settings which the saved optimiser state depends on did not change."""
    before, after = (
        {"lora": c.lora, "base": c.base, "train.start_from": c.train.start_from, **fixed_settings(c.scratch)}
        for c in (begun, config)
    )
    for name, value in after.items():
        if value != before[name]:
            hint = "leave it as it is, or start a new run with another --output"
            message = f"`{name}` cannot change in a run that has begun: {before[name]} -> {value}"
            raise ConfigError(message, hint=hint)
