"""Run a whole training: build or resume, loop, log, validate, save.

<output>/config.yaml            the resolved config
<output>/metrics.jsonl          a row a step        <output>/validation.jsonl   a row a validation
<output>/tensorboard/           the same, for TensorBoard
<output>/checkpoints/step-NNNNNN/
"""

import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from cores_core.config import Config, load_config, render_config
from cores_core.data.mixture import Mixture, SampleOptions
from cores_core.data.store import Store
from cores_core.errors import CheckpointError, ConfigError
from cores_core.evaluate import evaluate_store
from cores_core.files import save_text
from cores_core.model.build import build_model, build_processor, build_tokenizer
from cores_core.model.checkpoint import (
    Checkpoint,
    find_checkpoint,
    load_checkpoint,
    load_concepts,
    load_optimizer,
    save_checkpoint,
)
from cores_core.runtime import Group, seed_everything
from cores_core.train.concepts import ConceptHead, collect_categories
from cores_core.train.engine import TorchEngine
from cores_core.train.loop import Learner, Reporter, StepReport, Steps, load_batches, train_step

TOKENIZER_IMAGES = 2000
"""A tokenizer is trained on the questions of so many images at most."""


@dataclass(frozen=True)
class TrainJob:
    """What to train, from which data, into which folder, on which device."""

    config: Config
    data_root: Path
    output: Path
    device: torch.device


def run_training(job: TrainJob, reporter: Reporter, resume: bool = False) -> int:
    """Train in this process until the last step or until the reporter says stop; see `plan_run`, `run_planned`."""
    return run_planned(plan_run(job, resume), reporter, Group())


@dataclass(frozen=True)
class RunPlan:
    """A job and where it begins: at random weights, at a model's (`base`), or where it was left (`newest`)."""

    job: TrainJob
    base: Path | None
    newest: Path | None


def plan_run(job: TrainJob, resume: bool) -> RunPlan:
    """Check that a job can run, and take its folder.

    Args:
        resume: continue from the newest checkpoint under `job.output`, or from the start if it was killed before one.

    Raises:
        CoresError: the data is not prepared, the folder is taken, or there is nothing to resume.
    """
    _open_stores(job)
    started = (job.output / "config.yaml").exists()
    if resume and not started:
        raise CheckpointError(f"nothing to resume in: {job.output}", hint="leave out --resume to start")
    if started and not resume:
        raise ConfigError(
            f"there is already a run in: {job.output}", hint="continue it with --resume, or choose another --output"
        )
    newest = newest_checkpoint(job.output)
    start = job.config.train.start_from
    base = newest if newest is not None or start is None else find_checkpoint(start)
    if base is not None:
        _check_same_model(job.config, load_config(base / "config.yaml"), may_resize=newest is None)
    if newest is not None:
        _check_same_training(job.config, load_config(newest / "config.yaml"))
    job.output.mkdir(parents=True, exist_ok=True)
    save_text(render_config(job.config), job.output / "config.yaml")
    return RunPlan(job, base, newest)


def run_planned(plan: RunPlan, reporter: Reporter, group: Group) -> int:
    """Train, as one of a group of processes; the group must be connected. Returns the number of steps done."""
    job, train = plan.job, plan.job.config.train
    stores, validation = _open_stores(job)
    seed_everything(train.seed)
    if plan.base is None:
        checkpoint = build_checkpoint(job.config, stores)
    else:
        checkpoint = load_checkpoint(plan.base, image_size=job.config.sam.image_size)
    concepts = None
    if job.config.loss.concept:
        concepts = ConceptHead(collect_categories(stores), job.config.sam.prompt_width)
        if plan.base is not None and checkpoint.about.get("categories") == list(concepts.index):
            concepts.load_state_dict(load_concepts(plan.base))
    run = _Run(job, checkpoint, concepts, validation, reporter, group)
    if plan.newest is not None:
        run.resume_from(plan.newest)
    if group.leads:
        run.forget_what_came_after()
    options = SampleOptions(
        queries=train.queries_per_image,
        longest_side=train.longest_side,
        mirror=train.mirror,
        word_dropout=train.word_dropout,
        keep=train.keep_images,
        with_scene=concepts is not None,
    )
    return run.loop(Mixture(stores, job.config.prompt, options, train.seed))


def _open_stores(job: TrainJob) -> tuple[list[Store], Store]:
    """What to train on, and what to validate on."""
    stores = [Store(job.data_root, name, "train") for name in job.config.data]
    return stores, Store(job.data_root, job.config.data[0], "val")


def build_checkpoint(config: Config, stores: list[Store]) -> Checkpoint:
    """A fresh model with a tokenizer trained on the questions of its data."""
    texts: dict[str, None] = {}
    for store in stores:
        for index in range(min(len(store), TOKENIZER_IMAGES)):
            texts |= dict.fromkeys(query.text for region in store[index].regions for query in region.queries)
    processor = build_processor(config, build_tokenizer(texts, config.language.vocabulary))
    return Checkpoint(build_model(config, processor), processor, config, about={})


def newest_checkpoint(output: Path) -> Path | None:
    """The complete checkpoint with the most steps under a run's folder."""
    complete = sorted((output / "checkpoints").glob("step-*/checkpoint.json"))
    return complete[-1].parent if complete else None


def _check_same_model(config: Config, begun: Config, may_resize: bool) -> None:
    """Weights fit the model they were trained in; a new run may show it images of another size."""
    if may_resize:
        begun = replace(begun, sam=replace(begun.sam, image_size=config.sam.image_size))
    for name in ("language", "vision", "sam", "chain", "context", "wording", "conversation"):
        if getattr(config, name) != getattr(begun, name):
            raise ConfigError(
                f"`{name}` differs from that of the checkpoint, {getattr(begun, name)}",
                hint="leave it as it is, or start a new run with another --output",
            )


def _check_same_training(config: Config, begun: Config) -> None:
    """A run that has begun keeps what its saved optimiser state depends on."""
    if bool(config.loss.concept) != bool(begun.loss.concept):
        raise ConfigError("`loss.concept` cannot be turned on or off in a run that has begun")
    if config.train.optimizer != begun.train.optimizer:
        raise ConfigError("`train.optimizer` cannot change in a run that has begun")


class _Run:
    """One process's training run: what `run_training` holds together."""

    def __init__(
        self,
        job: TrainJob,
        checkpoint: Checkpoint,
        concepts: ConceptHead | None,
        validation: Store,
        reporter: Reporter,
        group: Group,
    ) -> None:
        self.job = job
        self.train = job.config.train
        self.processor = checkpoint.processor
        self.model = checkpoint.model.to(job.device).train()
        self.concepts = None if concepts is None else concepts.to(job.device)
        learning = torch.nn.ModuleList([self.model] if self.concepts is None else [self.model, self.concepts])
        self.group, self.leads = group, group.leads
        self.engine = TorchEngine(learning, self.train, group)
        self.learner = Learner(self.model, self.concepts, self.engine)
        self.validation = validation
        self.reporter = reporter
        self.step = 0
        self.best: tuple[float, int] = (-1.0, 0)

    def resume_from(self, folder: Path) -> None:
        state = load_optimizer(folder)
        self.engine.load_state(state["engine"])
        torch.set_rng_state(state["rng"])
        self.step = state["engine"]["steps"]
        self.best = (state["best"][0], state["best"][1])

    def forget_what_came_after(self) -> None:
        """Drop what a killed run logged or half wrote after its last checkpoint."""
        for name in ("metrics", "validation"):
            _drop_rows_after(self.job.output / f"{name}.jsonl", self.step)
        for unfinished in (self.job.output / "checkpoints").glob(".step-*.tmp"):
            shutil.rmtree(unfinished)

    def loop(self, mixture: Mixture) -> int:
        self.reporter.on_start(self.step, self.train.steps)
        steps = Steps(mixture, self.processor, self.train, self.step, self.group)
        board = SummaryWriter(str(self.job.output / "tensorboard"), purge_step=self.step + 1) if self.leads else None
        try:
            for batch in load_batches(steps, self.train.workers):
                report = train_step(self.learner, batch.to(self.job.device), self.job.config)
                self.step = report.step
                last = self.step == self.train.steps
                if board is not None:
                    self._log(report, board)
                    if last or self.step % self.train.validate_every == 0:
                        self._validate(board)
                stop = self.engine.mean(torch.tensor([float(self.reporter.should_stop())])).item() > 0
                best = self.best[1] == self.step
                if self.leads and (stop or last or best or self.step % self.train.save_every == 0):
                    self._save()
                if stop:
                    break
        finally:
            if board is not None:
                board.close()
        return self.step

    def _log(self, report: StepReport, board: SummaryWriter) -> None:
        _append_row(self.job.output / "metrics.jsonl", asdict(report))
        if report.step % self.train.log_every == 0:
            for name, value in asdict(report).items():
                if name != "step":
                    board.add_scalar(f"train/{name}", value, report.step)
        self.reporter.on_step(report)

    def _validate(self, board: SummaryWriter) -> None:
        result = evaluate_store(self._checkpoint(), self.validation, "given", limit=self.train.validation_images)
        self.best = max(self.best, (result.refined.giou or 0.0, self.step))
        summary = {"step": self.step, **result.summary()}
        _append_row(self.job.output / "validation.jsonl", summary)
        for name in ("giou", "ciou", "coarse_giou"):
            board.add_scalar(f"validation/{name}", summary[name] or 0.0, self.step)
        self.reporter.on_validation(self.step, result)

    def _save(self) -> None:
        folder = self.job.output / "checkpoints" / f"step-{self.step:06d}"
        state = {"engine": self.engine.state(), "rng": torch.get_rng_state(), "best": list(self.best)}
        concepts = None if self.concepts is None else self.concepts.state_dict()
        save_checkpoint(folder, self._checkpoint(), optimizer=state, concepts=concepts)
        kept = sorted(folder.parent.glob("step-*"))
        for old in kept[: -self.train.keep_checkpoints]:
            if int(old.name.removeprefix("step-")) != self.best[1]:
                shutil.rmtree(old)
        self.reporter.on_save(self.step, str(folder))

    def _checkpoint(self) -> Checkpoint:
        about: dict[str, Any] = {"step": self.step, "seed": self.train.seed, "data": list(self.job.config.data)}
        if self.concepts is not None:
            about["categories"] = list(self.concepts.index)
        return Checkpoint(self.model, self.processor, self.job.config, about)


def _append_row(path: Path, row: dict[str, object]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _drop_rows_after(path: Path, step: int) -> None:
    """Keep the rows up to a step; a row that was cut off in the middle is not one of them."""
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
