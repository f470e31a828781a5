"""Write docs/models.md: parameters, tokens per image and memory of the supported models, from their published sizes.

    python benchmarks/models_table.py

Nothing is loaded or downloaded: models are built on the meta device, image tokens are counted by their processors.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from huggingface_hub import constants

from cores_core.config import BaseConfig, Config, LoraConfig, TrainConfig, VisionConfig
from cores_core.files import save_text
from cores_core.model.build import build_tokenizer
from cores_core.model.checkpoint import Checkpoint, LoadOptions, assemble
from cores_core.model.families.published import published_config, published_models
from cores_core.model.families.table import FAMILIES
from cores_core.model.plan import count_image_tokens, count_parameters, plan_prediction
from cores_core.model.sams.hub import build_hub_sam
from cores_core.model.sams.sam1 import build_sam1
from cores_core.model.sams.table import HUB_IDS
from cores_core.model.segmenter import Segmenter
from cores_core.model.weights.pretrained import read_base
from cores_core.model.weights.stand_in import LLAVA_SIZES, SAM_SIZES
from cores_core.settings import list_presets, load_config
from cores_core.train.start import TrainJob, plan_memory

SMALL_HW, LARGE_HW = (480, 640), (3024, 4032)
UNCAPPED = 10**6
"""A limit above the number of image tokens of any processor."""
TRAIN = TrainConfig(
    precision="bf16", activation_checkpointing=True, global_batch_size=1, micro_batch_size=1, queries_per_image=3
)
COLUMNS = (
    "model", "family", "tokens, 640x480", "tokens, 4032x3024", "packed", "parameters", "trained: rows / full",
    "predict: bfloat16 / 4 bit", "train: rows / full",
)  # fmt: skip
HEAD = """\
# Models

Written by `python benchmarks/models_table.py`. Parameters and memory are computed on the meta device without loading
weights; the memory of activations is an estimate. The sizes are those of the published configs included in
cores (`cores_core/model/families/published.yaml`, `cores_core/model/weights/stand_in.py`), not checked against the hub.

## Multimodal LLMs

All with SAM 2.1 large and a two-step chain with the refiner.

- *Tokens*: per image, with `vision.max_tokens` at its default of 576 and, in brackets, without a limit.
- *Packed*: whether the questions of an image share one row with a common prefix in training.
- *Predict*: one question about a 640x480 image, weights in bfloat16, or linear layers of the language model in 4 bits.
- *Train*: LoRA of rank 8, one such image with three questions per batch, bfloat16, activation checkpointing; with
  `lora.vocabulary: rows` or `full`. CUDA itself uses about 1 GB more.
"""
NOTES = """\
- Gemma 3 has the same number of tokens for every image. LLaVA-OneVision uses the whole image and a grid of at least one
  tile, which exceeds 576. LLaVA 1 and LLaVA 1.5 (CLIP at 224 and 336 px) use one square image.
- InternVL, SmolVLM and Idefics3 use whole tiles, so they rarely reach the limit. Markers between tiles are not counted.
- Qwen3.5 is not packed: its linear attention is recurrent, so each question has its own row.

Presets:

{presets}
"""
SAM_HEAD = """\
## SAMs

Names are values of `--sam`. *Image*: input size in pixels; SAM 1 keeps the aspect ratio and pads, the others do not.
*Kept*: size of the features of an image in `--cache-embeddings` (bfloat16). SAM 3 is gated; only its tracker is used.
"""


def main() -> None:
    """Write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parents[1] / "docs" / "models.md")
    options = parser.parse_args()
    constants.HF_HUB_OFFLINE = True
    based = [(name, load_config(name).base.mllm) for name in list_presets()]
    presets = "\n".join(f"- `{name}`: {mllm}" for name, mllm in based if mllm is not None)
    columns = (
        "model",
        "family",
        "tokens, 640x480",
        "tokens, 4032x3024",
        "packed",
        "parameters",
        "trained: rows / full",
    )
    columns = (*columns, "predict: bfloat16 / 4 bit", "train: rows / full")
    models = table(columns, [model_row(name) for name in (*published_models(), *LLAVA_SIZES)])
    sams = table(("SAM", "parameters", "image", "prompt width", "kept"), list(sam_rows()))
    page = "\n".join((HEAD, models, NOTES.format(presets=presets), SAM_HEAD, sams))
    save_text(page, options.output)


def model_row(name: str) -> list[str]:
    """The table row of one model."""
    print(name, flush=True)
    config = Config(base=BaseConfig(name, "sam2.1-large"), train=TRAIN, data=("reasonseg",))
    capped = build(config)
    free = build(replace(config, vision=VisionConfig(max_tokens=UNCAPPED)))
    family = FAMILIES.get(capped.model.mllm.kind)
    tokens = [f"{count_image_tokens(capped, hw)} ({count_image_tokens(free, hw)})" for hw in (SMALL_HW, LARGE_HW)]
    predicted = [plan_prediction(capped, torch.bfloat16, bits).total for bits in (None, "4bit")]
    trained, training = [], []
    for vocabulary in ("rows", "full"):
        lora = LoraConfig(rank=8, vocabulary=vocabulary)
        job = TrainJob(replace(config, lora=lora), Path("data"), Path("runs"), torch.device("cpu"))
        _, memory = plan_memory(job)
        trained.append(millions(sum(part.trainable for part in memory.parts)))
        training.append(memory.total)
    return [
        name,
        capped.model.mllm.kind,
        *tokens,
        "yes" if family is None or family.packs else "no: recurrent",
        millions(count_parameters(capped.model)["all"]),
        " / ".join(trained),
        " / ".join(map(gibibytes, predicted)),
        " / ".join(map(gibibytes, training)),
    ]


def build(config: Config) -> Checkpoint:
    """The model of a config on the meta device."""
    parts = read_base(config, lambda: build_tokenizer((), 1), shapes_only=True, published=True)
    return assemble(parts, LoadOptions(dtype=None))


def sam_rows() -> Iterator[list[str]]:
    """A row per SAM with a short name."""
    for name in (*SAM_SIZES, *HUB_IDS):
        with torch.device("meta"):
            if name in SAM_SIZES:
                segmenter: Segmenter = build_sam1(SAM_SIZES[name])
            else:
                segmenter = build_hub_sam(published_config(HUB_IDS[name]))
            side = segmenter.frame.side
            features = segmenter.encode(torch.empty(1, 3, side, side))
        count = sum(parameter.numel() for parameter in segmenter.parameters())
        kept = sum(level.numel() for level in features) * torch.bfloat16.itemsize
        maps = " + ".join("x".join(map(str, level.shape[1:])) for level in features)
        yield [f"`{name}`", millions(count), f"{side}", f"{segmenter.width}", f"{kept / 1e6:.1f} MB ({maps})"]


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def millions(count: int) -> str:
    """Format a number of parameters, in millions."""
    return f"{count / 1e6:,.1f} M" if count < 1e9 else f"{count / 1e9:.2f} B"


def gibibytes(size: int) -> str:
    """Format a number of bytes, in GiB."""
    return f"{size / 2**30:.1f} GiB"


if __name__ == "__main__":
    main()
