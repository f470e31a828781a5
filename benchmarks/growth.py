"""How time and memory grow with questions, pixels, items of an evaluation and records of a data set, for `tiny`.

    python benchmarks/growth.py            # about 10 minutes on one core of a CPU; --short takes one

Each amount is measured in a new single-threaded process: the median of some repetitions after a warm-up (the largest
amounts once), and the peak resident memory beyond that of the loaded model or the imports. `growth` is the exponent of
the CPU seconds between an amount and the one before it: 1 is proportional, 0 constant. Prints Markdown.
"""

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from speed import list_questions, new_image

from cores_core.config import Config
from cores_core.data.mixture import Mixture, SampleOptions
from cores_core.data.store import Record, Region, Store, save_store, store_path
from cores_core.evaluate.run import EvalJob, evaluate
from cores_core.images import resize_image
from cores_core.masks import encode_rle
from cores_core.model.checkpoint import EMBEDDED, load_checkpoint
from cores_core.predict import Predictor
from cores_core.sample import Query

NAME, SPLIT, IMAGE = "partworld", "train", "image.jpg"
SIDE = 320
DRAWN = 200
"""Samples that are drawn from the records."""
REGIONS = 10
"""Questions of an image of the evaluation."""


@dataclass(frozen=True)
class Kind:
    """What grows: its name in the table, its amounts, and those of --short."""

    title: str
    amounts: Sequence[float]
    short: Sequence[float]


KINDS: Mapping[str, Kind] = {
    "questions": Kind("questions about an image", (1, 2, 4, 8, 16, 32, 64), (1, 16)),
    "pixels": Kind("megapixels of an image", (0.3, 1, 3, 12, 25, 50), (0.3, 3)),
    "items": Kind("items of an evaluation", (100, 500, 1000, 5000), (50, 100)),
    "records": Kind(f"records of a data set, {DRAWN} samples drawn", (1e3, 1e4, 1e5, 1e6), (1e3, 1e4)),
}
COLUMNS = ("what grows", "amount", "seconds", "CPU seconds", "CPU ms each", "peak MB", "growth")
FEW_SECONDS = 5.0
"""An action that takes longer is measured once."""


@dataclass(frozen=True)
class Cost:
    """Median seconds and CPU seconds, and peak memory in MB beyond what was loaded."""

    seconds: float
    cpu_seconds: float
    memory: float


Action = Callable[[], object]


def main() -> None:
    """Print the table; with --cell, used internally, measure one row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a few small amounts")
    parser.add_argument("--only", choices=tuple(KINDS), help="measure one of them")
    parser.add_argument("--cell", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        kind, amount, folder = options.cell
        print(json.dumps(asdict(measure(kind, float(amount), Path(folder)))))
        return
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    for name, kind in KINDS.items():
        if options.only in (None, name):
            for row in measure_kind(name, kind.short if options.short else kind.amounts):
                print(f"| {kind.title} | {' | '.join(row)} |", flush=True)


def measure_kind(name: str, amounts: Sequence[float]) -> Iterator[list[str]]:
    """Rows of one kind."""
    before: tuple[float, float] | None = None
    for amount in amounts:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "--cell", name, str(amount), folder]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
        cost = Cost(**json.loads(done.stdout.splitlines()[-1]))
        growth = (
            "" if before is None else f"{math.log(cost.cpu_seconds / before[1]) / math.log(amount / before[0]):.2f}"
        )
        before = amount, cost.cpu_seconds
        numbers = [f"{cost.seconds:.3f}", f"{cost.cpu_seconds:.3f}", f"{1e3 * cost.cpu_seconds / amount:.3g}"]
        yield [f"{amount:,.10g}", *numbers, f"{cost.memory:.0f}", growth]


def measure(kind: str, amount: float, folder: Path) -> Cost:
    """Measure in this process, which must do nothing else."""
    torch.set_num_threads(1)
    action = ACTIONS[kind](amount, folder)
    loaded = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    action()
    costs = [timed(action)]
    if costs[0][0] < FEW_SECONDS:
        costs += [timed(action) for _ in range(4)]
    seconds, cpu_seconds = (statistics.median(values) for values in zip(*costs, strict=True))
    return Cost(seconds, cpu_seconds, (peak_memory() - loaded) / 1e6)


def timed(action: Action) -> tuple[float, float]:
    """Seconds and CPU seconds of an action."""
    started, used = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - started, time.process_time() - used


def peak_memory() -> int:
    """Peak of the resident memory in bytes since it was reset."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024


def ask_questions(amount: float, folder: Path) -> Action:
    """Many questions about an image, with masks of its size."""
    predictor, image = Predictor(load_checkpoint(EMBEDDED)), new_image(0)
    queries = list_queries(round(amount))
    return lambda: [answer.mask for answer in predictor.predict_many(image, queries)]


def read_pixels(amount: float, folder: Path) -> Action:
    """One question about an image file, with a mask of its size."""
    predictor, path = Predictor(load_checkpoint(EMBEDDED)), folder / IMAGE
    height = round(math.sqrt(amount * 1e6 * 3 / 4))
    save_image(path, height, height * 4 // 3)
    return lambda: predictor.predict(path, "Which part steers the fish?").mask


def evaluate_items(amount: float, folder: Path) -> Action:
    """Answers and scores of a benchmark's items."""
    checkpoint, images = load_checkpoint(EMBEDDED), round(amount) // REGIONS
    write_store(folder, images, REGIONS)
    job = EvalJob("reasonpart", folder, ((NAME, SPLIT),), "teacher_forced")

    def run() -> object:
        found = evaluate(checkpoint, job)
        assert len(found.items) == images * REGIONS
        return found.scores

    return run


def draw_records(amount: float, folder: Path) -> Action:
    """Open a data set and draw samples at random places."""
    write_store(folder, round(amount), 1)
    positions = np.random.default_rng(0).integers(0, round(amount), DRAWN).tolist()

    def draw() -> object:
        mixture = Mixture([Store(folder, NAME, SPLIT)], Config().prompt, SampleOptions(queries=1), seed=0)
        return [mixture[position].key for position in positions]

    return draw


ACTIONS: Mapping[str, Callable[[float, Path], Action]] = {
    "questions": ask_questions,
    "pixels": read_pixels,
    "items": evaluate_items,
    "records": draw_records,
}


def list_queries(count: int) -> list[Query]:
    """Different questions of the bank."""
    return [Query(text.replace("{object}", "animal")) for text in list_questions()[:count]]


def write_store(root: Path, images: int, regions: int) -> None:
    """Write a prepared data set, all of whose records show the same image file."""
    save_image(root / IMAGE, SIDE, SIDE)
    queries = list_queries(regions)
    masks = []
    for number in range(regions):
        mask = np.zeros((SIDE, SIDE), dtype=np.bool_)
        mask[20 * number : 20 * number + 80, 40:200] = True
        masks.append(encode_rle(mask))
    things = tuple(
        Region("Fish Tail", "part", mask, None, (query,), "0") for mask, query in zip(masks, queries, strict=True)
    )
    save_store((Record(IMAGE, (SIDE, SIDE), things) for _ in range(images)), store_path(root, NAME, SPLIT))


def save_image(path: Path, height: int, width: int) -> None:
    """Write a JPEG of blurred noise, which compresses as a photograph does."""
    small = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    Image.fromarray(resize_image(small, (height, width))).save(path)


if __name__ == "__main__":
    main()
