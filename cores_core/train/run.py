"""Run a training: build or resume, train, log, validate, save.

<output>/config.yaml            the resolved config, and its changes (see `history.py`)
<output>/metrics.jsonl          a row a step        <output>/validation.jsonl   a row a validation
<output>/tensorboard/           the same, for TensorBoard
<output>/checkpoints/step-NNNNNN/
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from cores_core.config import TrainConfig
from cores_core.data.mixture import Mixture, share_out
from cores_core.data.overlap import without_held_out
from cores_core.data.registry import find_dataset
from cores_core.data.store import Store
from cores_core.errors import ConfigError, DataError, LossError
from cores_core.evaluate.benchmarks import benchmark_of
from cores_core.evaluate.run import EvalJob, evaluate
from cores_core.files import save_text
from cores_core.locks import locked
from cores_core.model.checkpoint import Checkpoint, load_optimizer, save_checkpoint
from cores_core.model.embeddings import EmbeddingCache, encoder_identity, vision_parts
from cores_core.model.families.llava import MODEL_TYPE
from cores_core.model.placement import compile_encoder
from cores_core.model.processor import batch_tensors
from cores_core.runtime import Group, seed_dropout, seed_everything
from cores_core.train.engine import Engine, TorchEngine
from cores_core.train.loop import Learner, Reporter, StepData, StepReport, Steps, load_batches, train_step
from cores_core.train.recipe import Objective, Recipe
from cores_core.train.start import RunPlan, TrainJob, choose_recipe, open_stores, plan_run, start_model
from cores_core.train.zero import ZeroEngine

_OUT_OF_MEMORY = (
    "lower train.micro_batch_size or train.queries_per_image, or set train.activation_checkpointing=true, "
    "engine.zero_stage=3 or engine.offload=true, then continue with --resume"
)


def run_training(job: TrainJob, reporter: Reporter, resume: bool = False) -> int:
    """Train in this process until the last step or until the reporter requests a stop; see `plan_run`."""
    with locked(job.output):
        return run_planned(plan_run(job, resume), reporter, Group())


def run_planned(plan: RunPlan, reporter: Reporter, group: Group) -> int:
    """Train as one rank of a connected group. Returns the number of finished steps."""
    job, train = plan.job, plan.job.config.train
    stores, validation = open_stores(job)
    seed_everything(train.seed)
    checkpoint = start_model(plan)
    recipe = choose_recipe(job.config)
    objective = recipe.build_objective(checkpoint.model, stores)
    if plan.base is not None:
        objective.restore(plan.base, checkpoint.about)
    run = _Run(job, checkpoint, objective, validation, reporter, group)
    if plan.newest is not None:
        run.resume_from(plan.newest, plan.changes)
    if group.leads:
        run.forget_what_came_after()
    groups = [find_dataset(store.name, job.data_root).group for store in stores]
    weights = share_out(groups, job.config.mixture)
    shown = without_held_out(stores) if job.config.mixture.exclude_val else stores
    return run.loop(Mixture(shown, job.config.prompt, recipe.sample_options(), train.seed, weights))


class _Run:
    """State of a training run in one rank."""

    def __init__(
        self,
        job: TrainJob,
        checkpoint: Checkpoint,
        objective: Objective,
        validation: Store | None,
        reporter: Reporter,
        group: Group,
    ) -> None:
        self.job = job
        self.train = job.config.train
        self.processor = checkpoint.processor
        self.config = checkpoint.config
        self.about = {"base": checkpoint.about["base"]} if "base" in checkpoint.about else {}
        self.model = checkpoint.model.to(job.device).train()
        if self.train.activation_checkpointing:
            self.model.mllm.net.activation_checkpointing_enable({"use_reentrant": False})
        if self.train.compile:
            compile_encoder(self.model)
        self.model.embeddings, self.model.looks = _open_embeddings(checkpoint, self.train, group)
        self.objective = objective.to(job.device)
        self.recipe = choose_recipe(job.config)
        self.group, self.leads = group, group.leads
        self.engine = _build_engine(torch.nn.ModuleList([self.model, self.objective]), self.recipe, group)
        self.learner = Learner(self.model, self.objective, self.engine)
        self.validation = validation
        self.reporter = reporter
        self.step = self.skipped = 0
        self.best: tuple[float, int] = (-1.0, 0)
        self.changes: tuple[str, ...] = ()  # not yet logged to metrics.jsonl

    def resume_from(self, folder: Path, changes: tuple[str, ...]) -> None:
        state = load_optimizer(folder)
        self.engine.load_state(state["engine"])
        self.step = state["engine"]["steps"]
        self.best = (state["best"][0], state["best"][1])
        self.changes = changes

    def forget_what_came_after(self) -> None:
        """Truncate logs to the last checkpoint and remove unfinished checkpoints of a killed run."""
        for name in ("metrics", "validation"):
            _drop_rows_after(self.job.output / f"{name}.jsonl", self.step)
        for unfinished in (self.job.output / "checkpoints").glob(".step-*.tmp"):
            shutil.rmtree(unfinished)

    def loop(self, mixture: Mixture) -> int:
        self.reporter.on_start(self.step, self.train.steps)
        if self.changes:
            self.reporter.on_changes(self.changes)
        steps = Steps(mixture, self.processor, self.recipe, self.step, self.group)
        if self.leads and self.train.wandb is not None:
            _mirror_board(self.train.wandb, self.job.output)
        board = SummaryWriter(str(self.job.output / "tensorboard"), purge_step=self.step + 1) if self.leads else None
        try:
            for data in load_batches(steps, self.train.workers, pin=self.job.device.type == "cuda"):
                report = self._train_step(data)
                self.step = report.step
                last = self.step == self.train.steps
                if board is not None:
                    self._log(report, board)
                if self.validation is not None and (last or self.step % self.train.validate_every == 0):
                    self._validate(self.validation, board)
                stop = self._is_asked_to_stop()
                best = self.best[1] == self.step
                if stop or last or best or self.step % self.train.save_every == 0:
                    self._save()
                if stop:
                    break
        finally:
            if board is not None:
                board.close()
        return self.step

    def _train_step(self, data: StepData) -> StepReport:
        """Run one step; failures become errors with a hint."""
        for reason in data.skipped:
            _append_row(self.job.output / f"skipped-{self.group.rank}.jsonl", {"step": self.step + 1, "reason": reason})
        seed_dropout(self.train.seed, self.step, self.group.rank)
        try:
            report = train_step(self.learner, data, self.job.config)
        except LossError as error:
            path = self.job.output / f"failed-step-{self.step + 1:06d}-{self.group.rank}.pt"
            torch.save([batch_tensors(batch) for batch in data.batches], path)
            raise LossError(f"{error.message}; its batch is in {path}", hint=error.hint) from error
        except torch.OutOfMemoryError as error:
            raise ConfigError(f"out of memory in step {self.step + 1}", hint=_OUT_OF_MEMORY) from error
        self.skipped += report.skipped
        if self.skipped > self.train.max_skipped:
            hint = f"see {self.job.output}/skipped-*.jsonl; `cores prepare-data --check` names what is damaged"
            raise DataError(f"{self.skipped} samples could not be used", hint=hint)
        return report

    def _log(self, report: StepReport, board: SummaryWriter) -> None:
        changed = {"changes": list(self.changes)} if self.changes else {}
        row = report.row()
        _append_row(self.job.output / "metrics.jsonl", {**row, **changed})
        self.changes = ()
        if report.step % self.train.log_every == 0:
            for name, value in row.items():
                if name != "step":
                    board.add_scalar(f"train/{name}", value, report.step)
        self.reporter.on_step(report)

    def _is_asked_to_stop(self) -> bool:
        wishes = torch.tensor([float(self.reporter.should_stop())], device=self.job.device)
        return self.engine.sum(wishes).item() > 0

    def _validate(self, store: Store, board: SummaryWriter | None) -> None:
        """Evaluate the model, images divided among ranks; rank 0 reports."""
        bf16 = self.train.precision == "bf16"
        with self.engine.whole(), torch.autocast(self.job.device.type, torch.bfloat16, enabled=bf16):
            sharded = isinstance(self.engine, ZeroEngine) and self.engine.divides_weights
            group = None if sharded else self.group  # with ZeRO 3 every rank must run the full evaluation
            result = evaluate(self._checkpoint(), self._validation_job(store), group=group)
        summary = {"step": self.step, **result.to_json()}
        self.best = max(self.best, (summary["giou"] or 0.0, self.step))
        if board is None:
            return
        _append_row(self.job.output / "validation.jsonl", summary)
        for name in ("giou", "ciou", "coarse_giou"):
            board.add_scalar(f"validation/{name}", summary[name] or 0.0, self.step)
        self.reporter.on_validation(self.step, result)

    def _validation_job(self, store: Store) -> EvalJob:
        limit = self.train.validation_images
        return EvalJob(benchmark_of(store.name), store.data_root, ((store.name, store.split),), "teacher_forced", limit)

    def _save(self) -> None:
        """Write a checkpoint: rank 0 writes, the other ranks contribute their shards."""
        folder = self.job.output / "checkpoints" / f"step-{self.step:06d}"
        state = {"engine": self.engine.state(), "best": list(self.best)}
        with self.engine.whole():
            if not self.leads:
                return
            save_checkpoint(folder, self._checkpoint(), optimizer=state, objective=self.objective.state_dict())
        kept = sorted(folder.parent.glob("step-*"))
        for old in kept[: -self.train.keep_checkpoints]:
            if int(old.name.removeprefix("step-")) != self.best[1]:
                shutil.rmtree(old)
        self.reporter.on_save(self.step, str(folder))

    def _checkpoint(self) -> Checkpoint:
        about: dict[str, Any] = {
            **self.about,
            "step": self.step,
            "seed": self.train.seed,
            "data": list(self.job.config.data),
            **self.objective.about(),
        }
        return Checkpoint(self.model, self.processor, self.config, about)


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
        identities.append(encoder_identity(nn.ModuleList(vision_parts(model.mllm)), vision.image_size, how))
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


def _mirror_board(project: str, output: Path) -> None:
    """Mirror the TensorBoard log to Weights & Biases; a resumed run continues its W&B run."""
    import wandb

    name = output.resolve().name
    wandb.init(project=project, name=name, id=name, resume="allow", dir=output, sync_tensorboard=True)


def _append_row(path: Path, row: dict[str, object]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _drop_rows_after(path: Path, step: int) -> None:
    """Keep the rows up to a step and drop a truncated last row."""
    if not path.is_file():
        return
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                rows.append(line)
        except json.JSONDecodeError:
            break
    save_text("".join(f"{row}\n" for row in rows), path)
