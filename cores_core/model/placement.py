"""Where a loaded model goes, how small and how compiled: one device, several, or a quantised language model.

Quantisation is transformers' through bitsandbytes: linear layers of the language model in 8 or 4 bits. The vision
tower, the projector and the vocabulary head keep their precision, and so do SAM and the heads.
"""

import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from cores_core.choices import Quantization
from cores_core.errors import ConfigError
from cores_core.model.cores import CoresModel
from cores_core.model.mllm import Mllm
from cores_core.model.weights.transformers_io import without_progress

BITS: Mapping[str, float] = {"4bit": 4.5, "8bit": 8}
"""Bits a weight; 4-bit blocks of 64 have a scale each."""
QUANTIZED = "language model"


@dataclass(frozen=True)
class Placement:
    """Where a model runs.

    Attributes:
        device: of SAM and the heads; of the MLLM too unless it is spread.
        quantization: None for none.
        spread: divide the MLLM's layers among all GPUs, as accelerate's `device_map="auto"` does.
        compiled: compile SAM's image encoder, see `compile_encoder`.
    """

    device: torch.device
    quantization: Quantization | None = None
    spread: bool = False
    compiled: bool = False


def check_placement(placement: Placement) -> None:
    """Raise what would only show after minutes of loading.

    Raises:
        ConfigError: the machine has not what the placement needs.
    """
    if placement.quantization and placement.device.type != "cuda":
        raise ConfigError(
            f"{placement.quantization} needs a CUDA device, not `{placement.device}`",
            hint="leave out --load-in, or choose --dtype bfloat16",
        )
    if placement.quantization and importlib.util.find_spec("bitsandbytes") is None:
        hint = "pip install 'cores[quantization]'"
        raise ConfigError(f"{placement.quantization} needs the package bitsandbytes", hint=hint)
    if placement.compiled:
        check_compiler()


def place_model(model: CoresModel, placement: Placement) -> None:
    """Bring a model from the CPU to where it runs."""
    if placement.quantization or placement.spread:
        model.mllm.net = _reload(model.mllm, placement)
    else:
        model.mllm.to(placement.device)
    for part in (model.segmenter, model.projection, model.refiner):
        if part is not None:
            part.to(placement.device)
    if placement.compiled:
        compile_encoder(model)


def compile_encoder(model: CoresModel) -> None:
    """Compile SAM's image encoder (torch.compile), whose sizes are always the same, when it is first used.

    That takes a minute; then an image takes less time, and its logits are rounded otherwise (some 1e-5).
    """
    model.segmenter.image_encoder.compile()


def check_compiler() -> None:
    """Raises ConfigError where torch.compile would not find what it needs."""
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    if not headers.is_file() or not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        hint = "install g++ and Python's headers (python3-dev), or leave out `compile`"
        raise ConfigError("to compile the model needs a C++ compiler and Python's headers", hint=hint)


def _reload(mllm: Mllm, placement: Placement) -> PreTrainedModel:
    """The same model through transformers' loading, which can quantise and spread."""
    net, family = mllm.net, mllm.family
    kept = ["lm_head", *(f"model.{name}" for name in (family.vision, family.projector) if name is not None)]
    config = None
    if placement.quantization == "8bit":
        config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
    elif placement.quantization == "4bit":
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=net.dtype,
            llm_int8_skip_modules=kept,
        )
    with without_progress():
        moved: PreTrainedModel = type(net).from_pretrained(
            None,
            config=net.config,
            state_dict=net.state_dict(),
            dtype=net.dtype,
            device_map="auto" if placement.spread else {"": placement.device},
            quantization_config=config,
        )
    return moved.eval()
