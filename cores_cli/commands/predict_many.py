"""The part of `cores predict` that answers questions about folders, lists, videos and standard input."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cores_cli import console
from cores_cli.interrupts import interrupts
from cores_core.choices import Engine

if TYPE_CHECKING:
    from cores_core.predict_job import Outcome, PredictJob
    from cores_core.sample import Query


@dataclass(frozen=True)
class Sources:
    """The inputs of a job: sources as given, questions about each image, every n-th frame of videos."""

    names: Sequence[str]
    queries: Sequence["Query"]
    every: int


@dataclass(frozen=True)
class Workers:
    """What runs a job: an engine, the device of each worker, and the address of a Ray cluster."""

    engine: Engine
    devices: Sequence[str]
    ray_address: str | None = None


def choose_workers(engine: Engine, ray_address: str | None, devices: Sequence[str]) -> Workers:
    """Check that the options of workers fit together. Actors of Ray see a GPU only if they ask for it (`cuda:N`).

    Raises:
        BadParameter: they do not.
    """
    if engine == "local":
        if ray_address is not None:
            raise typer.BadParameter("needs --engine ray", param_hint="--ray-address")
        return Workers(engine, devices)
    if not all(device in ("auto", "cpu") or device.startswith("cuda:") for device in devices):
        raise typer.BadParameter("with --engine ray, GPUs are asked for with --gpus N", param_hint="--device")
    return Workers(engine, ["cpu" if device == "auto" else device for device in devices], ray_address)


def predict_many(job: "PredictJob", sources: Sources, workers: Workers, resume: bool) -> None:
    """Run a prediction job with a progress bar; exits with 1 if an image could not be used."""
    from cores_core.inputs import list_requests
    from cores_core.locks import locked
    from cores_core.pool import share_work
    from cores_core.predict_job import run_job
    from cores_core.ray_cluster import RayCluster

    requests = list(list_requests(sources.names, sources.queries, every=sources.every))
    questions = sum(len(request.queries) for request in requests)
    execute = share_work if workers.engine == "local" else RayCluster(workers.ray_address)
    with locked(job.output), console.progress_bar() as progress, interrupts.unwinding():
        task = progress.add_task(f"{len(requests)} images", total=questions)
        advance = partial(progress.advance, task)
        outcome = run_job(job, requests, workers.devices, resume, advance, execute)
    _show(job, outcome)


def predict_stream(job: "PredictJob", sources: Sources) -> None:
    """Answer JSONL lines of standard input as they arrive; prints one JSON object per question."""
    from cores_core.inputs import list_requests
    from cores_core.predict import Predictor
    from cores_core.predict_job import answer_stream

    requests = list_requests(sources.names, sources.queries, stdin=sys.stdin, every=sources.every)
    skipped = 0
    predictor = Predictor(job.source.load())
    for rows in answer_stream(predictor, requests, job, is_live=True):
        for row in rows:
            console.show_json(row)
            skipped += "reason" in row
    if skipped:
        raise typer.Exit(1)


def _show(job: "PredictJob", outcome: "Outcome") -> None:
    from cores_core.predict_job import PREDICTIONS, SKIPPED

    console.say(f"{outcome.questions} questions about {outcome.images} images: {job.output / PREDICTIONS}")
    if outcome.skipped:
        for image, reason in list(outcome.skipped.items())[:5]:
            console.say(f"skipped {Path(image)}: {reason}", style="yellow")
        console.say(f"{len(outcome.skipped)} images skipped: {job.output / SKIPPED}", style="yellow")
        raise typer.Exit(1)
