"""The paper's ablations at tiny scale: Tables S1 and S2, the table of components and the depth of the chain.

    cores prepare-data partworld --images 2000 --seed 0
    python benchmarks/ablations.py --output runs/ablations

Every arm fine-tunes the embedded `tiny` model, with the arm's chain, for the same number of steps on the same images.
It is scored on the first 100 images of the val split: masks with protocol `teacher_forced`, well-formed answers with
protocol `generate`. Finished runs are reused. Prints a Markdown table with means and ranges (minimum to maximum) over
seeds, next to the paper's results (ReasonSeg val).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

BUDGET = (
    "train.steps=150",
    "scratch.sam_steps=0",
    "scratch.align_steps=0",
    "scratch.prototype_loss=0",
    "scratch.optimizer=adamw",
    "train.learning_rate=5e-4",
    "scratch.embedding_lr_scale=1.0",
    "scratch.joint_lr_scale=1.0",
    "train.global_batch_size=8",
    "train.queries_per_image=3",
    "train.warmup_steps=10",
    "train.precision=fp32",
    "train.max_image_size=96",
    "sam.image_size=96",
    "train.validate_every=1000",
    "train.validation_images=100",
    "train.save_every=1000",
)
ARMS = {  # arm: its variants of the preset, and the paper's gIoU and cIoU
    "CoReS (both chains, refiner, example; depth 2)": ((), "59.4 / 62.1"),
    "S1: LISA": (("lisa",), "52.9 / 54.0"),
    "S1: LISACoT": (("lisa-cot",), "44.7 / 45.9"),
    "S1: C1-GT": (("c1-gt",), "55.9 / 55.8"),
    "S1: pseudo": (("c1-pseudo",), "58.1 / 62.1"),
    "components: without refiner": (("no-refiner",), "58.4 / 59.3"),
    "components: without example": (("no-context",), "57.5 / 60.4"),
    "components: both chains alone": (("mask-chain",), "55.3 / 56.9"),
    "example: another for each image": (("random-context",), "-"),
    "depth 1": (("depth-1",), "53.2 / -"),
    "depth 3": (("depth-3",), "59.7 / -"),
    "S2: mask : text 1 : 1": (("mask-text-1-1",), "58.8 / 61.1"),
    "S2: mask : text 1 : 2": (("mask-text-1-2",), "55.5 / 55.8"),
    "S2: BCE : DICE 3 : 2": (("bce-dice-3-2",), "59.0 / 66.2"),
    "S2: BCE : DICE 4 : 1": (("bce-dice-4-1",), "57.6 / 62.2"),
}
SCORES = ("giou", "ciou", "coarse_giou")


def main() -> None:
    """Run unfinished arms, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--output", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--show", action="store_true", help="only print what is finished")
    parser.add_argument("--at-once", type=int, default=2, help="runs at a time, each with one thread")
    options = parser.parse_args()
    if options.show:
        return show(options)
    jobs = [(arm, seed) for seed in range(options.seeds) for arm in ARMS]
    with ThreadPoolExecutor(options.at_once) as pool:
        list(pool.map(partial(run, options), jobs))
    show(options)


def show(options: argparse.Namespace) -> None:
    """Print a row per arm, over its finished seeds."""
    print(
        "| arm | seeds | gIoU | cIoU | C1 gIoU | gIoU, written | well-formed | the paper's gIoU / cIoU |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    for arm, (_, published) in ARMS.items():
        folders = [folder_of(options, arm, seed) for seed in range(options.seeds)]
        folders = [folder for folder in folders if (folder / "generated/results.json").is_file()]
        found = [load(folder, "teacher_forced") for folder in folders]
        cells = [spread([100 * row[name] for row in found]) for name in SCORES]
        written = [load(folder, "generate") for folder in folders]
        cells += [spread([100 * row[name] for row in written]) for name in ("giou", "well_formed")]
        print(f"| {arm} | {len(folders)} | {' | '.join(cells)} | {published} |")


def run(options: argparse.Namespace, job: tuple[str, int]) -> None:
    """Train and score one arm with one seed, with the commands `cores train` and `cores eval`."""
    arm, seed = job
    folder = folder_of(options, arm, seed)
    place = ["--data-root", str(options.data_root), "--device", "cpu"]
    if not (folder / "checkpoints/step-000150/checkpoint.json").is_file():
        changes = [word for setting in (*BUDGET, f"train.seed={seed}") for word in ("--set", setting)]
        variants = [word for variant in ARMS[arm][0] for word in ("--variant", variant)]
        resume = ["--resume"] if (folder / "config.yaml").is_file() else []
        cores(
            [
                "train",
                "--preset",
                "tiny",
                "--from",
                "tiny",
                "--output",
                str(folder),
                *variants,
                *changes,
                *resume,
                *place,
            ]
        )
    for protocol in ("teacher_forced", "generate"):
        if not (folder / protocol / "results.json").is_file():
            model = ["--model", str(folder / "checkpoints/step-000150"), "--protocol", protocol]
            data = ["--data", "partworld", "--split", "val", "--limit", "100", "--output", str(folder / protocol)]
            cores(["eval", "reasonpart", *data, *model, *place])


def cores(arguments: Sequence[str]) -> None:
    """Run a `cores` command in a single-threaded process."""
    command = [sys.executable, "-m", "cores_cli.app", *arguments]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)


def folder_of(options: argparse.Namespace, arm: str, seed: int) -> Path:
    """Folder of one run."""
    name = "-".join(ARMS[arm][0]) or "cores"
    return Path(options.output) / f"{name}-{seed}"


def load(folder: Path, protocol: str) -> dict[str, float]:
    """Load the scores of one run."""
    scores: dict[str, float] = json.loads((folder / protocol / "results.json").read_text(encoding="utf-8"))
    return scores


def spread(values: list[float]) -> str:
    """Mean with minimum and maximum, as text."""
    if len(values) < 2:
        return f"{values[0]:.1f}" if values else "-"
    return f"{statistics.mean(values):.1f} ({min(values):.1f}-{max(values):.1f})"


if __name__ == "__main__":
    main()
