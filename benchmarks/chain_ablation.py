"""Dual chain (CoReS) against single chain (LISA's design): equal data, steps and size, several seeds, small budget.

    cores prepare-data partworld --images 8000 --seed 0
    python benchmarks/chain_ablation.py --output runs/chain_ablation

Writes a row a run to `results.jsonl` (finished runs are kept when it is called again) and prints one Markdown table
with the mean and the spread (smallest to largest) over the seeds. The score is the last validation of each run:
protocol `given`, the first 100 images of the val split.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

SIZE = (
    "language.width=128",
    "language.layers=2",
    "language.heads=4",
    "language.mlp=384",
    "vision.image_size=64",
    "vision.width=64",
    "vision.layers=2",
    "vision.heads=2",
    "sam.image_size=64",
    "sam.width=96",
    "sam.depth=4",
    "sam.global_blocks=[1, 3]",
    "train.longest_side=64",
)
BUDGET = (
    "train.steps=1000",
    "train.pretrain_steps=600",
    "train.align_steps=300",
    "train.save_every=500",
    "train.validate_every=1000",
    "train.validation_images=100",
)
ARMS = {"single chain": ("chain.steps=1",), "dual chain": ("chain.steps=2",)}
SCORES = ("giou", "ciou", "coarse_giou")


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--output", type=Path, default=Path("runs/chain_ablation"))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    rows = []
    for seed in range(options.seeds):
        for arm, settings in ARMS.items():
            run = options.output / f"{arm.split()[0]}-{seed}"
            if not (run / "validation.jsonl").is_file():
                train(run, options.data_root, (*SIZE, *BUDGET, *settings, f"train.seed={seed}"))
            last = json.loads((run / "validation.jsonl").read_text(encoding="utf-8").splitlines()[-1])
            rows.append({"arm": arm, "seed": seed, **{name: last[name] for name in SCORES}})
    (options.output / "results.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    print("| chain | gIoU | cIoU | C1 gIoU |\n|---|---|---|---|")
    for arm in ARMS:
        cells = [spread([100 * row[name] for row in rows if row["arm"] == arm]) for name in SCORES]
        print(f"| {arm} | {' | '.join(cells)} |")


def train(run: Path, data_root: Path, settings: tuple[str, ...]) -> None:
    """One run through the real command, continued if it was interrupted."""
    changes = [word for setting in settings for word in ("--set", setting)]
    resume = ["--resume"] if (run / "config.yaml").exists() else []
    command = [sys.executable, "-m", "cores_cli.app", "train", "--preset", "tiny", "--processes", "2"]
    subprocess.run([*command, "--data-root", str(data_root), "--output", str(run), *changes, *resume], check=True)


def spread(values: list[float]) -> str:
    """Mean with the smallest and the largest value."""
    return f"{statistics.mean(values):.1f} ({min(values):.1f}-{max(values):.1f})"


if __name__ == "__main__":
    main()
