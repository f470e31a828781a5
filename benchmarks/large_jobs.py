"""A large prediction job against the bare model: rate, memory, and the rows of a job that is killed again and again.

    python benchmarks/large_jobs.py --images 1000 --kills 10

Renders PartWorld scenes and asks two questions about each, with the embedded model on all cores of a CPU: as a loop
over `Predictor.predict_many`, which writes no files, and as `cores predict` with a process per core, on a folder and on
a list, with all files and with one for all images. The rates leave out the start of Python and the loading of the
model: those of a job with an image per process are subtracted. Then the job on the folder is killed by SIGKILL at
random moments and resumed; its rows must be those of the undisturbed job in all but their times.
"""

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from cores_core.data.partworld.write import write_partworld
from cores_core.images import load_image
from cores_core.predict import Predictor

QUESTIONS = ("Which part steers it?", "Which part does it see with?")
PROCESSES = len(os.sched_getaffinity(0))
RATE, GROWTH = 0.9, 1.05
"""Least rate of a job against the bare model, and most memory at its end against that after a third of it."""


def main() -> None:
    """Print the rates, the memory and the comparison, one line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        measure(Path(scratch), options.images, options.kills)


def measure(scratch: Path, count: int, kills: int) -> None:
    """Run everything in a folder."""
    folder, few, listed = render(scratch, count)
    bare = count / time_bare(sorted(folder.iterdir()))
    print(f"bare model: {bare:.2f} images/s", flush=True)
    start, _ = run(["predict", str(few), *QUESTIONS], scratch / "few")
    on_folder = [str(folder), *QUESTIONS]
    jobs = {"folder": on_folder, "list": [str(listed)], "folder, --format coco": [*on_folder, "--format", "coco"]}
    for name, inputs in jobs.items():
        seconds, memory = run(["predict", *inputs], scratch / name)
        rate, early = (count - PROCESSES) / (seconds - start), memory[len(memory) // 3]
        verdict = "ok" if rate >= RATE * bare and memory[-1] <= GROWTH * early else "FAIL"
        memories = f"{early / 2**20:.0f} -> {memory[-1] / 2**20:.0f} MiB"
        print(f"{name}: {rate:.2f} images/s, {rate / bare:.2f} of the bare model, {memories}: {verdict}", flush=True)
    undisturbed = read_rows(scratch / "folder")
    done = kill_and_resume(["predict", str(folder), *QUESTIONS], scratch / "killed", kills, seconds)
    rows = read_rows(scratch / "killed")
    verdict = "ok" if rows == undisturbed and len(rows) == 2 * count else "FAIL"
    print(f"killed {done} times: {len(rows)} rows, {'equal' if rows == undisturbed else 'other'} rows: {verdict}")


def render(scratch: Path, count: int) -> tuple[Path, Path, Path]:
    """Scenes in a folder of their own, a folder with the first few, and a list of all with their questions."""
    write_partworld(scratch / "partworld", {"test": count}, seed=1, workers=2, progress=lambda done: None)
    folder, few, listed = scratch / "images", scratch / "first", scratch / "list.jsonl"
    folder.mkdir()
    few.mkdir()
    for path in (scratch / "partworld").rglob("*.JPEG"):
        path.rename(folder / path.name)
    paths = sorted(folder.iterdir())
    for path in paths[:PROCESSES]:
        shutil.copy(path, few)
    rows = ({"image": str(path), "questions": list(QUESTIONS)} for path in paths)
    listed.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return folder, few, listed


def time_bare(paths: Sequence[Path]) -> float:
    """Seconds that a loop over the images takes, with masks and JSON values but without files."""
    predictor = Predictor.from_checkpoint(device="cpu")
    predictor.predict_many(load_image(paths[0]), QUESTIONS)
    started = time.perf_counter()
    for path in paths:
        for answer in predictor.predict_many(load_image(path), QUESTIONS):
            answer.to_json()
    return time.perf_counter() - started


def begin(arguments: Sequence[str], output: Path, *more: str) -> subprocess.Popen[bytes]:
    """Start a command in a process of its own."""
    options = ["--output", str(output), "--device", "cpu", "--processes", str(PROCESSES), *more]
    command = [sys.executable, "-m", "cores_cli.app", *arguments, *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def run(arguments: Sequence[str], output: Path) -> tuple[float, list[int]]:
    """Seconds of a command, and ten times a second the resident memory of its processes, in bytes."""
    started, process, memory = time.perf_counter(), begin(arguments, output), list[int]()
    while process.poll() is None:
        memory.append(sum_memory(process.pid))
        time.sleep(0.1)
    if process.returncode:
        sys.exit(f"failed: cores {' '.join(arguments)}")
    return time.perf_counter() - started, memory[:-10]  # in the last second processes end


def sum_memory(process: int) -> int:
    """Resident bytes of a process and its children; 0 of one that has just ended."""
    folder = Path(f"/proc/{process}")
    try:
        children = (folder / f"task/{process}/children").read_text().split()
        own = resource.getpagesize() * int((folder / "statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return own + sum(sum_memory(int(child)) for child in children)


def kill_and_resume(arguments: Sequence[str], output: Path, kills: int, seconds: float) -> int:
    """Run a command until it ends by itself, killing it at random moments; the number of kills."""
    moments, done = random.Random(0), 0
    while True:
        process = begin(arguments, output, *(["--resume"] if output.exists() else []))
        try:
            process.wait(None if done == kills else moments.uniform(0.3, 2 * seconds / kills))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            done += 1
            continue
        if process.returncode:
            sys.exit(f"failed to resume after {done} kills")
        return done


def read_rows(output: Path) -> list[dict[str, object]]:
    """The rows of a job without their times."""
    lines = (output / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


if __name__ == "__main__":
    main()
