"""How much memory loading and converting takes, as a multiple of the size of the weights.

    python benchmarks/loading_memory.py --size-gb 2

Makes synthetic released weights of that size in bfloat16 (safetensors in shards, and pickles in shards), loads and
converts each in a process of its own, and prints the peak resident memory beyond what an idle process with the same
imports has, divided by the size of the weight files. The bar is 1.3.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from sentencepiece import SentencePieceTrainer

from cores_core import prompts
from cores_core.config import ChainConfig, LanguageConfig, SamConfig, VisionConfig
from cores_core.model.cores import CoresModel
from cores_core.model.mllm import build_mllm
from cores_core.model.names import SECOND_LAYER, released_name
from cores_core.model.segmenter import build_segmenter

SHARDS = 5
VOCABULARY = 320
VISION = VisionConfig(image_size=224, patch_size=14, width=256, layers=4, heads=4, mlp=1024, projector_layers=1)
SAM = SamConfig(
    image_size=1024,
    patch_size=16,
    width=768,
    depth=12,
    heads=12,
    window=14,
    global_blocks=(2, 5, 8, 11),
    prompt_width=256,
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
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        idle = peak("idle", folder, folder)
        print("| files | size | load | convert |\n|---|---|---|---|")
        for ending in ("safetensors", "bin"):
            release = folder / ending
            size = write_release(release, options.size_gb * 1e9, ending)
            ratios = [(peak(task, release, folder / f"{ending}-{task}") - idle) / size for task in ("load", "convert")]
            print(f"| .{ending} in {SHARDS} shards | {size / 1e9:.2f} GB | {ratios[0]:.2f} | {ratios[1]:.2f} |")


def peak(task: str, source: Path, target: Path) -> int:
    """Peak resident bytes of a process that does one task."""
    lines = TASKS[task].format(source=str(source), target=str(target)).splitlines()
    script = SCRIPT.format(task="\n".join(f"    {line}" for line in lines))
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def write_release(folder: Path, size: float, ending: str) -> int:
    """Random weights in the releases' format, with as many layers of LLaMA as fit the size. Returns their bytes."""
    folder.mkdir()
    language = LanguageConfig(width=2048, layers=1, heads=16, mlp=5504, vocabulary=VOCABULARY)
    sizes = [weights_of(LanguageConfig(**{**vars(language), "layers": n})) for n in (1, 2)]
    bytes_of = [sum(2 * tensor.numel() for tensor in weights.values()) for weights in sizes]
    layers = max(1, 1 + round((size - bytes_of[0]) / (bytes_of[1] - bytes_of[0])))
    language = LanguageConfig(**{**vars(language), "layers": layers})
    weights = weights_of(language)
    names = list(weights)
    places = {name: f"shard-{number * SHARDS // len(names)}.{ending}" for number, name in enumerate(names)}
    for shard in sorted(set(places.values())):
        tensors = {n: torch.randn(weights[n].shape).bfloat16() for n in names if places[n] == shard}
        save_file(tensors, folder / shard) if ending == "safetensors" else torch.save(tensors, folder / shard)
    kind = "model.safetensors" if ending == "safetensors" else "pytorch_model.bin"
    (folder / f"{kind}.index.json").write_text(json.dumps({"weight_map": places}))
    write_config(folder, language)
    return sum(path.stat().st_size for path in folder.glob("shard-*"))


def weights_of(language: LanguageConfig) -> dict[str, torch.Tensor]:
    """Names in the releases' format, and shapes."""
    with torch.device("meta"):
        mllm = build_mllm(language, VISION, image_token_id=0)
        model = CoresModel(mllm, build_segmenter(SAM), chain_ids=(1, 2), refiner=ChainConfig().refiner)
    state = {n: t for n, t in model.state_dict().items() if not n.startswith(SECOND_LAYER)}
    return {released_name(name, projector_layers=1): tensor for name, tensor in state.items()}


def write_config(folder: Path, language: LanguageConfig) -> None:
    """What stands beside the weights: sizes, the CLIP's config, a tokenizer."""
    tree = {
        "hidden_size": language.width, "intermediate_size": language.mlp, "num_hidden_layers": language.layers,
        "num_attention_heads": language.heads, "mm_vision_tower": "clip",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(tree))
    clip = {
        "image_size": VISION.image_size, "patch_size": VISION.patch_size, "hidden_size": VISION.width,
        "intermediate_size": VISION.mlp, "num_hidden_layers": VISION.layers, "num_attention_heads": VISION.heads,
    }  # fmt: skip
    (folder / "clip").mkdir()
    (folder / "clip/config.json").write_text(json.dumps(clip))
    text = folder / "text.txt"
    text.write_text("which part of the fish steers it\nthe quick brown fox jumps over the lazy dog\n" * 50)
    SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "tokenizer"), vocab_size=60, model_type="bpe", minloglevel=2
    )
    tokens = [*prompts.REFERENCE_SPELLING.values(), prompts.IMAGE_START, prompts.IMAGE_END]
    added = {token: VOCABULARY - len(tokens) + number for number, token in enumerate(tokens)}
    (folder / "added_tokens.json").write_text(json.dumps(added))


if __name__ == "__main__":
    main()
