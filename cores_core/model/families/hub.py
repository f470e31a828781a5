"""Read and build multimodal LLMs of the hub with transformers: config, processor, weights."""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import init_empty_weights
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel, ProcessorMixin

from cores_core.model.families.table import FAMILIES
from cores_core.model.mllm import Mllm
from cores_core.model.weights.tensors import Tensors
from cores_core.model.weights.transformers_io import load_whole, read_config, read_processor, reading, tied_names


@dataclass(frozen=True)
class HubMllm:
    """Config and processor of a multimodal LLM of transformers."""

    config: PreTrainedConfig
    processor: ProcessorMixin


def read_hub_mllm(
    folder: Path, shapes_only: bool = False, processor_folder: Path | None = None
) -> tuple[HubMllm, Tensors]:
    """Read a model of one of the `FAMILIES`; weights as the state dict of an `Mllm` under `mllm.`.

    Args:
        shapes_only: return tensors on the meta device.
        processor_folder: folder of the processor; None for `folder`.

    Raises:
        CheckpointError: a file is missing or damaged, or the weights do not fit the config.
    """
    config, processor = read_config(AutoConfig, folder), read_processor(processor_folder or folder)
    if shapes_only:
        with reading("the config", folder):
            return empty_hub_mllm(config, processor)
    return _describe(load_whole(AutoModelForImageTextToText, folder), processor)


def empty_hub_mllm(config: PreTrainedConfig, processor: ProcessorMixin) -> tuple[HubMllm, Tensors]:
    """Config, processor and weights like those of `read_hub_mllm`, with tensors on the meta device."""
    with init_empty_weights(include_buffers=False):
        net = AutoModelForImageTextToText.from_config(config)
    return _describe(net, processor)


def build_hub_mllm(config: PreTrainedConfig) -> Mllm:
    """Build a model of one of the `FAMILIES` with random weights."""
    return Mllm(AutoModelForImageTextToText.from_config(config, dtype=torch.float32), FAMILIES[config.model_type])


def state_of(net: PreTrainedModel) -> Tensors:
    """State dict of an `Mllm` around `net`, with the prefix `mllm.`; tied tensors are left out."""
    tied = tied_names(net)
    return {f"mllm.net.{name}": tensor for name, tensor in net.state_dict().items() if name not in tied}


def _describe(net: PreTrainedModel, processor: ProcessorMixin) -> tuple[HubMllm, Tensors]:
    config = copy.deepcopy(net.config)
    config.tie_word_embeddings = bool(tied_names(net))  # wrong in some configs; the weights decide
    return HubMllm(config, processor), state_of(net)
