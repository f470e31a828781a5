"""One rank of a training: build or resume, train, validate, save.

<output>/config.yaml                   the resolved config, and its changes (see `history.py`)
<output>/checkpoints/step-NNNNNN/      (logs: see `callbacks.py`)
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cores_core.config import TrainConfig
from cores_core.data.mixture import Mixture, share_out
from cores_core.data.overlap import without_held_out
from cores_core.data.registry import find_dataset
from cores_core.data.store import Store
from cores_core.errors import ConfigError, DataError, LossError
from cores_core.evaluate.benchmarks import benchmark_of
from cores_core.evaluate.run import EvalJob, evaluate
from cores_core.model.checkpoint import Checkpoint, load_optimizer, save_checkpoint
from cores_core.model.embeddings import EmbeddingCache, encoder_identity, vision_parts
from cores_core.model.families.llava import MODEL_TYPE
from cores_core.model.placement import compile_encoder
from cores_core.model.processor import batch_tensors
from cores_core.runtime import Group, seed_dropout, seed_everything
from cores_core.train.callbacks import Callback, JsonlLog, TensorBoard, append_row
from cores_core.train.engine import Engine, TorchEngine
from cores_core.train.loop import Learner, StepData, StepReport, Steps, load_batches, train_step
from cores_core.train.recipe import Recipe
from cores_core.train.start import RunPlan, choose_recipe, open_stores, start_model
from cores_core.train.zero import ZeroEngine

_OUT_OF_MEMORY = (
    "lower train.micro_batch_size or train.queries_per_image, or set train.activation_checkpointing=true, "
    "engine.zero_stage=3 or engine.offload=true, then continue with --resume"
)


class Trainer:
    """Model, data and engine of a run in one rank of a connected group, and the callbacks of rank 0."""

    def __init__(self, plan: RunPlan, callbacks: Sequence[Callback], group: Group) -> None:
        """Load the model and open the data.

        Args:
            plan: what to train, on this rank's device.
            callbacks: called after the logs are written.

        Raises:
            CoresError: data or weights are missing or damaged.
        """
        self._plan, self._job, self._train = plan, plan.job, plan.job.config.train
        self._recipe, self._group = choose_recipe(plan.job.config), group
        stores, self._validation = open_stores(plan.job)
        seed_everything(self._train.seed)
        checkpoint = start_model(plan)
        self._prepare_model(checkpoint)
        objective = self._recipe.build_objective(checkpoint.model, stores)
        if plan.base is not None:
            objective.restore(plan.base, checkpoint.about)
        self._checkpoint = checkpoint
        self._objective = objective.to(plan.job.device)
        self._engine = _build_engine(torch.nn.ModuleList([checkpoint.model, objective]), self._recipe, group)
        self._mixture = self._mix(stores)
        self._step = self._skipped = 0
        self._best: tuple[float, int] = (-1.0, 0)
        self._callbacks: tuple[Callback, ...] = ()
        if group.leads:
            logs = (JsonlLog(plan.job.output), TensorBoard(plan.job.output, self._train))
            self._callbacks = (*logs, *callbacks)

    def run(self) -> int:
        """Train until the last step, or until a callback requests a stop. Returns the number of finished steps."""
        if self._plan.newest is not None:
            self._resume_from(self._plan.newest)
        if self._group.leads:
            self._remove_unfinished()
        steps = Steps(self._mixture, self._checkpoint.processor, self._recipe, self._step, self._group)
        try:
            for callback in self._callbacks:
                callback.on_start(self._step, self._train.steps)
                if self._plan.changes:
                    callback.on_changes(self._plan.changes)
            for data in load_batches(steps, self._train.workers, pin=self._job.device.type == "cuda"):
                if self._take_step(data):
                    break
        finally:
            for callback in self._callbacks:
                callback.close()
        return self._step

    def _take_step(self, data: StepData) -> bool:
        """Train one step, validate and save if it is time. Returns whether to stop."""
        report = self._train_step(data)
        self._step = report.step
        last = self._step == self._train.steps
        for callback in self._callbacks:
            callback.on_step(report)
        if self._validation is not None and (last or self._step % self._train.validate_every == 0):
            self._validate(self._validation)
        wishes = torch.tensor([float(any(c.should_stop() for c in self._callbacks))])
        stop = self._engine.sum(wishes).item() > 0
        is_best = self._best[1] == self._step
        if stop or last or is_best or self._step % self._train.save_every == 0:
            self._save()
        return stop

    def _prepare_model(self, checkpoint: Checkpoint) -> None:
        model = checkpoint.model.to(self._job.device).train()
        if self._train.activation_checkpointing:
            model.mllm.net.activation_checkpointing_enable({"use_reentrant": False})
        if self._train.compile:
            compile_encoder(model)
        model.embeddings, model.vision_cache = _open_embeddings(checkpoint, self._train, self._group)

    def _mix(self, stores: Sequence[Store]) -> Mixture:
        config = self._job.config
        weights = share_out([find_dataset(store.name, self._job.data_root).group for store in stores], config.mixture)
        shown = without_held_out(stores) if config.mixture.exclude_val else stores
        return Mixture(shown, config.prompt, self._recipe.sample_options(), self._train.seed, weights)

    def _resume_from(self, folder: Path) -> None:
        state = load_optimizer(folder)
        self._engine.load_state(state["engine"])
        self._step = state["engine"]["steps"]
        self._best = (state["best"][0], state["best"][1])

    def _remove_unfinished(self) -> None:
        """Remove checkpoints that a killed run did not finish."""
        for unfinished in (self._job.output / "checkpoints").glob(".step-*.tmp"):
            shutil.rmtree(unfinished)

    def _train_step(self, data: StepData) -> StepReport:
        """Run one step; failures become errors with a hint."""
        output, step = self._job.output, self._step + 1
        for reason in data.skipped:
            append_row(output / f"skipped-{self._group.rank}.jsonl", {"step": step, "reason": reason})
        seed_dropout(self._train.seed, self._step, self._group.rank)
        learner = Learner(self._checkpoint.model, self._objective, self._engine)
        try:
            report = train_step(learner, data, self._job.config)
        except LossError as error:
            path = output / f"failed-step-{step:06d}-{self._group.rank}.pt"
            torch.save([batch_tensors(batch) for batch in data.batches], path)
            raise LossError(f"{error.message}; its batch is in {path}", hint=error.hint) from error
        except torch.OutOfMemoryError as error:
            raise ConfigError(f"out of memory in step {step}", hint=_OUT_OF_MEMORY) from error
        self._skipped += report.skipped
        if self._skipped > self._train.max_skipped:
            hint = f"see {output}/skipped-*.jsonl; `cores prepare-data --check` names what is damaged"
            raise DataError(f"{self._skipped} samples could not be used", hint=hint)
        return report

    def _validate(self, store: Store) -> None:
        """Evaluate the model, images divided among ranks."""
        limit, part = self._train.validation_images, ((store.name, store.split),)
        job = EvalJob(benchmark_of(store.name), store.data_root, part, "teacher_forced", limit)
        bf16 = self._train.precision == "bf16"
        with self._engine.whole(), torch.autocast(self._job.device.type, torch.bfloat16, enabled=bf16):
            sharded = isinstance(self._engine, ZeroEngine) and self._engine.divides_weights
            group = None if sharded else self._group  # with ZeRO 3 every rank must run the full evaluation
            result = evaluate(self._described(), job, group=group)
        self._best = max(self._best, (result.scores.values["giou"] or 0.0, self._step))
        for callback in self._callbacks:
            callback.on_validation(self._step, result)

    def _save(self) -> None:
        """Write a checkpoint: rank 0 writes, the other ranks contribute their shards."""
        folder = self._job.output / "checkpoints" / f"step-{self._step:06d}"
        state = {"engine": self._engine.state(), "best": list(self._best)}
        with self._engine.whole():
            if not self._group.leads:
                return
            save_checkpoint(folder, self._described(), optimizer=state, objective=self._objective.state_dict())
        kept = sorted(folder.parent.glob("step-*"))
        for old in kept[: -self._train.keep_checkpoints]:
            if int(old.name.removeprefix("step-")) != self._best[1]:
                shutil.rmtree(old)
        for callback in self._callbacks:
            callback.on_save(self._step, str(folder))

    def _described(self) -> Checkpoint:
        """The checkpoint of this step, with its provenance."""
        start = self._checkpoint
        about: dict[str, Any] = {
            **({"base": start.about["base"]} if "base" in start.about else {}),
            "step": self._step,
            "seed": self._train.seed,
            "data": list(self._job.config.data),
            **self._objective.about(),
        }
        return Checkpoint(start.model, start.processor, start.config, about)


def _open_embeddings(
    checkpoint: Checkpoint, train: TrainConfig, group: Group
) -> tuple[EmbeddingCache | None, EmbeddingCache | None]:
    """Open the feature caches of a run, SAM's and LLaVA's, with this rank's share of their size limit."""
    if train.embedding_cache is None:
        return None, None
    model, side = checkpoint.model, checkpoint.processor.frame.side
    identities = [encoder_identity(model.segmenter.image_encoder, side, train.precision)]
    if model.mllm.kind == MODEL_TYPE:
        vision, settings = checkpoint.config.vision, model.mllm.net.config
        how = (
            f"{train.precision} {vision.fit} {settings.vision_feature_layer} {settings.vision_feature_select_strategy}"
        )
        identities.append(encoder_identity(torch.nn.ModuleList(vision_parts(model.mllm)), vision.image_size, how))
    folder, limit = Path(train.embedding_cache), round(train.embedding_cache_gb * 1e9)
    caches = [EmbeddingCache(folder, identity, limit, group.size * len(identities)) for identity in identities]
    return caches[0], caches[1] if len(caches) > 1 else None


def _build_engine(learning: torch.nn.Module, recipe: Recipe, group: Group) -> Engine:
    if uses_deepspeed(recipe, group):
        return ZeroEngine(learning, recipe, recipe.config.engine, group)
    return TorchEngine(learning, recipe, group)


def uses_deepspeed(recipe: Recipe, group: Group) -> bool:
    """Whether a run uses DeepSpeed: if the settings say so, or else for several processes if the recipe suits it."""
    kind = recipe.config.engine.kind
    return kind == "deepspeed" if kind != "auto" else group.size > 1 and recipe.prefers_deepspeed
