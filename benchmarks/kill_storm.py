"""Kill train, prepare-data, eval and predict by SIGKILL at random moments, resume them, and count what is lost.

    python benchmarks/kill_storm.py --kills 100

Each command first runs undisturbed, then is killed and repeated until it has had its share of the kills. A loss is a
repetition that fails, finished work (checkpoints, pieces, rows) that is missing after a kill, or a result that differs
from the undisturbed one in more than its times. The output of the commands is appended to kill_storm.log.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from cores_cli.app import main as cores

PRELOADED = ["cores_core.train.trainer", "cores_core.predict_job", "cores_core.evaluate.run", "cores_core.data.prepare"]
IMAGES, LABEL_MAPS, STEPS = 60, 480, 120
PATIENCE = 600
"""Seconds until a run that is not killed counts as hanging."""
MODEL = {
    "language": {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 800,
    },
    "vision": {
        "image_size": 32, "patch_size": 16, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    },
    "sam": {
        "image_size": 64, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "window_size": 4,
        "global_attn_indexes": [1], "prompt_embed_dim": 16,
    },
    "chain": {"stages": 2, "refiner": True},
    "train": {
        "steps": STEPS, "global_batch_size": 2, "queries_per_image": 2, "save_every": 3, "validate_every": 60,
        "validation_images": 1, "log_every": 1, "warmup_steps": 1, "workers": 1,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One command.

    Attributes:
        command: its arguments for an output folder. work: finished work in the folder; grows until the command ends.
        result: what must equal the undisturbed run.
    """

    name: str
    command: Callable[[Path], Sequence[str]]
    work: Callable[[Path], int]
    result: Callable[[Path], Any]


def main() -> None:
    """Run the storm and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--commands", nargs="+", default=["train", "prepare-data", "eval", "predict"])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    rng, total = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as place:
        jobs = [job for job in prepare_jobs(Path(place)) if job.name in options.commands]
        print(
            f"{'command':14}{'kills':>7}{'repeated':>10}{'finished':>10}{'losses':>8}   seconds undisturbed", flush=True
        )
        for job in jobs:
            kills = options.kills // len(jobs)
            losses, runs, finished, seconds = storm(job, Path(place), kills, rng)
            print(f"{job.name:14}{kills:7}{runs:10}{finished:10}{len(losses):8}   {seconds:.1f}", flush=True)
            for loss in losses:
                print(f"    {loss}", flush=True)
            total += len(losses)
    print(f"{total} losses")
    raise SystemExit(total > 0)


def prepare_jobs(place: Path) -> list[Job]:
    """Make a small data set and a model, and the jobs on them."""
    data, preset, model = place / "data", place / "preset.yaml", place / "model"
    preset.write_text(yaml.safe_dump(MODEL), encoding="utf-8")
    run_whole("prepare-data", "partworld", "--data-root", str(data), "--images", str(IMAGES), "--workers", "2")
    short = (*_train(preset, data, model), "--set", "train.steps=3")
    run_whole(*short)
    trained = next(model.glob("checkpoints/step-*"), None) or next(model.rglob("step-*"))
    images = sorted((data / "partworld").rglob("*.JPEG"))[:IMAGES]
    (place / "images").mkdir()
    for number, image in enumerate(images):
        shutil.copy(image, place / f"images/{number}.jpg")
    draw_label_maps(place / "labels")
    return [
        Job("train", lambda out: (*_train(preset, data, out), *_resume(out / "config.yaml")), newest_step, trajectory),
        Job("prepare-data", lambda out: _prepare(place / "labels", out), count_pieces, stores),
        Job("eval", lambda out: _eval(data, trained, out), count_rows, items),
        Job("predict", lambda out: _predict(place / "images", trained, out), count_rows, predictions),
    ]


def storm(job: Job, place: Path, kills: int, rng: random.Random) -> tuple[list[str], int, int, float]:
    """Kill a job again and again; returns losses, number of runs, number of finished runs, and undisturbed seconds."""
    calm = place / f"{job.name}-calm"
    started = time.monotonic()
    code = end_of(start(job.command(calm)))
    seconds = time.monotonic() - started
    if code != 0:
        return [f"the undisturbed run ended with {code}"], 1, 0, seconds
    expected, losses, runs, finished, done = job.result(calm), [], 0, 0, 0
    folder = place / f"{job.name}-0"
    while done < kills or folder.exists():
        before, process = job.work(folder), start(job.command(folder))
        runs += 1
        if done < kills:
            process.join(rng.uniform(0, seconds * 0.7))
        if process.is_alive() and done < kills:
            _kill(process)
            done += 1
            if job.work(folder) < before:
                losses.append(f"work after kill {done}: {job.work(folder)}, before: {before}")
            folder.mkdir(exist_ok=True)
            continue
        code = end_of(process)
        if code != 0:
            losses.append(f"a repetition ended with {code} after kill {done}")
        elif job.result(folder) != expected:
            losses.append(f"another result after kill {done}")
        finished += 1
        shutil.rmtree(folder, ignore_errors=True)
        folder = place / f"{job.name}-{finished}"
    return losses, runs, finished, seconds


def run_whole(*arguments: str) -> None:
    """Run a command that must succeed."""
    code = end_of(start(arguments))
    if code != 0:
        raise SystemExit(f"cores {' '.join(arguments)} ended with {code}")


def start(arguments: Sequence[str]) -> ForkServerProcess:
    """Start `cores` with these arguments in a process group of its own."""
    process = multiprocessing.get_context("forkserver").Process(target=_enter, args=(list(arguments),))
    process.start()
    return process


def end_of(process: ForkServerProcess) -> int | None:
    """Exit code of a process that is not killed; None if it does not end."""
    process.join(PATIENCE)
    if process.is_alive():
        _kill(process)
        return None
    return process.exitcode


def _kill(process: ForkServerProcess) -> None:
    """Kill a process with its workers, or alone if it has not made a group of its own yet."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()
    process.join()


def _enter(arguments: list[str]) -> None:
    os.setpgrp()  # so that a kill takes the workers along
    log = os.open("kill_storm.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    cores(arguments)


def _train(preset: Path, data: Path, output: Path) -> tuple[str, ...]:
    return ("train", "--preset", str(preset), "--data-root", str(data), "--output", str(output), "--device", "cpu")


def _resume(sign: Path) -> tuple[str, ...]:
    return ("--resume",) if sign.exists() else ()


def _prepare(labels: Path, output: Path) -> tuple[str, ...]:
    if not output.exists():
        shutil.copytree(labels, output)
    return ("prepare-data", "ade20k", "--data-root", str(output), "--workers", "2")


def _eval(data: Path, model: Path, output: Path) -> tuple[str, ...]:
    common = ("--data", "partworld", "--split", "test", "--data-root", str(data), "--model", str(model))
    return ("eval", "reasonpart", *common, "--output", str(output), "--device", "cpu")


def _predict(images: Path, model: Path, output: Path) -> tuple[str, ...]:
    common = ("--question", "What is it?", "--model", str(model), "--output", str(output), "--device", "cpu")
    return ("predict", str(images), *common, *_resume(output / "unfinished/about.json"))


def draw_label_maps(root: Path) -> None:
    """A validation split of ADE20K's layout with random rectangles of classes."""
    rng = np.random.default_rng(0)
    for folder in ("annotations/training", "annotations/validation", "images/training", "images/validation"):
        (root / "ade20k" / folder).mkdir(parents=True)
    for number in range(LABEL_MAPS):
        split = "validation" if number % 2 else "training"
        labels = np.kron(rng.integers(1, 151, (12, 16)), np.ones((20, 20))).astype(np.uint8)
        Image.fromarray(labels).save(root / f"ade20k/annotations/{split}/{number:04}.png")
        Image.fromarray(np.stack([labels] * 3, axis=2)).save(root / f"ade20k/images/{split}/{number:04}.jpg")


def newest_step(output: Path) -> int:
    """The step of the newest complete checkpoint."""
    return max((int(path.parent.name[5:]) for path in output.rglob("step-*/checkpoint.json")), default=0)


def trajectory(output: Path) -> Any:
    """All logged values but times, and the weights of the last checkpoint."""
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [{key: value for key, value in row.items() if key not in ("seconds", "changes")} for row in rows]
    step = f"step-{newest_step(output):06}"
    return rows, {str(path.relative_to(output)): _hash(path) for path in output.rglob(f"{step}/**/*.safetensors")}


def count_pieces(output: Path) -> int:
    """Finished pieces; those of a finished split, which are removed, count as all."""
    folder = output / "prepared/ade20k"
    return sum(
        LABEL_MAPS if (folder / f"{split}.arrow").exists() else len(list(folder.glob(f".{split}.pieces/*.json")))
        for split in ("train", "val")
    )


def stores(output: Path) -> Any:
    """The bytes of the stores."""
    return {path.name: _hash(path) for path in (output / "prepared/ade20k").glob("*.arrow")}


def count_rows(output: Path) -> int:
    """Rows of the journal; those of a finished job, whose journal is removed, count as all."""
    if (output / "results.json").exists() or (output / "predictions.jsonl").exists():
        return sys.maxsize
    return sum(path.read_bytes().count(b"\n") for path in output.glob("unfinished/*.jsonl"))


def items(output: Path) -> Any:
    """The rows of an evaluation without their times."""
    return _rows(output / "items.jsonl")


def predictions(output: Path) -> Any:
    """The rows of a prediction without their times, and the masks."""
    return _rows(output / "predictions.jsonl"), {path.name: _hash(path) for path in output.glob("*.mask.png")}


def _rows(path: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
