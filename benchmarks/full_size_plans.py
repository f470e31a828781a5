"""Parameters and memory of 7B and 13B models, by `--plan` on releases written as sparse files.

    cores prepare-data partworld --images 20 --val-images 5 --test-images 0 --seed 0
    python benchmarks/full_size_plans.py

All tensors of such a release have their real names and shapes, so loading it on the meta device verifies the mapping of
names. Prints the output of `cores predict --plan` and `cores train --plan`.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from synthetic_release import LLAMA_7B, LLAMA_13B, Sizes, write_hollow_release

PLANS = (
    ("predict", "--plan", "--dtype", "bfloat16"),
    ("predict", "--plan", "--dtype", "bfloat16", "--load-in", "4bit"),
)


def main() -> None:
    """Print the plans of both sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, language in (("7b", LLAMA_7B), ("13b", LLAMA_13B)):
            release = Path(folder) / f"cores-{name}"
            print(f"{release.name}: {write_hollow_release(release, Sizes(language)):,} parameters in the files")
            for plan in PLANS:
                run(*plan, "--model", str(release))
            run(
                "train", "--plan", "--preset", "cores-7b", "--from", str(release), "--data-root", str(options.data_root)
            )


def run(*arguments: str) -> None:
    """One `cores` command."""
    print(f"\n$ cores {' '.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", "cores_cli.app", *arguments], check=True)


if __name__ == "__main__":
    main()
