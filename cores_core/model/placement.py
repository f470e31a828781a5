"""Move a loaded model to its device or devices, quantise its language model, compile SAM's image encoder.

Quantisation is transformers' with bitsandbytes: linear layers of the language model in 8 or 4 bits. The vision
tower, the projector, the vocabulary head, SAM and the heads keep their precision.
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
"""Bits per weight; in 4bit, each block of 64 weights also has a scale."""
QUANTIZED = "language model"


@dataclass(frozen=True)
class Placement:
    """Where and how a model runs.

    Attributes:
        device: device of SAM and the heads, and of the MLLM unless `spread`.
        quantization: of the language model; None for none.
        spread: distribute the MLLM's layers over all GPUs (accelerate's `device_map="auto"`).
        compiled: compile SAM's image encoder, see `compile_encoder`.
    """

    device: torch.device
    quantization: Quantization | None = None
    spread: bool = False
    compiled: bool = False


def check_placement(placement: Placement) -> None:
    """Check a placement before the model is loaded, which takes minutes.

    Raises:
        ConfigError: a CUDA device, bitsandbytes or a compiler is missing.
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
    """Move a model from the CPU to its device or devices, in place."""
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
    """Compile SAM's image encoder with torch.compile; its shapes are constant. Compilation happens on first use.

    It takes a minute; afterwards images are encoded faster. Logits differ by about 1e-5 from the uncompiled ones.
    """
    model.segmenter.image_encoder.compile()


def check_compiler() -> None:
    """Check what torch.compile needs.

    Raises:
        ConfigError: there is no C++ compiler, or Python's headers are missing.
    """
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    if not headers.is_file() or not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        hint = "install g++ and Python's headers (python3-dev), or leave out `compile`"
        raise ConfigError("compiling the model needs a C++ compiler and Python's headers", hint=hint)


def _reload(mllm: Mllm, placement: Placement) -> PreTrainedModel:
    """Reload the MLLM with transformers' `from_pretrained`, which quantises and distributes it."""
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
