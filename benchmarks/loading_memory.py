"""Peak memory of loading and converting weights, as a multiple of their size.

    python benchmarks/loading_memory.py --size-gb 2

Writes synthetic released weights of that size in bfloat16 (sharded safetensors and sharded pickles), loads and converts
each in a separate process, and prints the peak resident memory beyond that of an idle process with the same imports,
divided by the size of the weight files. The target is at most 1.3.
"""

import argparse
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from synthetic_release import Sizes, list_tensors, write_release

from cores_core.config import LanguageConfig, VisionConfig
from cores_core.model.weights.stand_in import SAM_SIZES

SHARDS = 5
LLAMA = LanguageConfig(
    hidden_size=2048, num_hidden_layers=1, num_attention_heads=16, intermediate_size=5504, vocab_size=320
)
CLIP = VisionConfig(
    image_size=224,
    patch_size=14,
    hidden_size=256,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=1024,
    projector_layers=1,
)
TASKS = {
    "idle": "import cores_core.predict",
    "load": "from cores_core.model.checkpoint import LoadOptions, load_checkpoint\n"
    "load_checkpoint({source!r}, LoadOptions(dtype=torch.bfloat16))",
    "convert": "from cores_cli.app import main\nmain(['checkpoint', 'convert', {source!r}, {target!r}])",
}
SCRIPT = """
import resource, torch
try:
{task}
except SystemExit as end:
    assert not end.code, end.code
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-gb", type=float, default=2.0)
    options = parser.parse_args()
    sizes = sizes_of(options.size_gb * 1e9)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        idle = peak("idle", folder, folder)
        print("| files | size | load | convert |\n|---|---|---|---|")
        for ending in ("safetensors", "bin"):
            release = folder / ending
            size = write_release(release, sizes, SHARDS, ending)
            ratios = [(peak(task, release, folder / f"{ending}-{task}") - idle) / size for task in ("load", "convert")]
            print(f"| .{ending} in {SHARDS} shards | {size / 1e9:.2f} GB | {ratios[0]:.2f} | {ratios[1]:.2f} |")


def sizes_of(total: float) -> Sizes:
    """A release with the number of LLaMA layers that gives `total` bytes."""

    def with_layers(layers: int) -> Sizes:
        return Sizes(replace(LLAMA, num_hidden_layers=layers), CLIP, SAM_SIZES["vit_b"])

    one, two = (sum(2 * tensor.numel() for tensor in list_tensors(with_layers(layers)).values()) for layers in (1, 2))
    return with_layers(max(1, 1 + round((total - one) / (two - one))))


def peak(task: str, source: Path, target: Path) -> int:
    """Peak resident bytes of a process that does one task."""
    lines = TASKS[task].format(source=str(source), target=str(target)).splitlines()
    script = SCRIPT.format(task="\n".join(f"    {line}" for line in lines))
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


if __name__ == "__main__":
    main()
