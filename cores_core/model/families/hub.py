"""A multimodal LLM of the hub as transformers reads and builds it: sizes, processor, weights."""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import init_empty_weights
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel, ProcessorMixin

from cores_core.model.families.table import FAMILIES
from cores_core.model.mllm import Mllm
from cores_core.model.weights.tensors import Tensors
from cores_core.model.weights.transformers_io import load_whole, read_config, read_processor, tied_names


@dataclass(frozen=True)
class HubMllm:
    """Sizes and processor of a multimodal LLM, in transformers' own terms."""

    config: PreTrainedConfig
    processor: ProcessorMixin


def read_hub_mllm(
    folder: Path, shapes_only: bool = False, processor_folder: Path | None = None
) -> tuple[HubMllm, Tensors]:
    """Read a model of one of the `FAMILIES`, its weights as the state of an `Mllm` under `mllm.`.

    Args:
        processor_folder: where its processor is, None for the same folder.

    Raises:
        CheckpointError: a file is missing or damaged, or the weights do not fit the sizes.
    """
    config, processor = read_config(AutoConfig, folder), read_processor(processor_folder or folder)
    if shapes_only:
        return empty_hub_mllm(config, processor)
    return _describe(load_whole(AutoModelForImageTextToText, folder), processor)


def empty_hub_mllm(config: PreTrainedConfig, processor: ProcessorMixin) -> tuple[HubMllm, Tensors]:
    """A model of these sizes on the meta device, as `read_hub_mllm` gives it."""
    with init_empty_weights(include_buffers=False):
        net = AutoModelForImageTextToText.from_config(config)
    return _describe(net, processor)


def build_hub_mllm(config: PreTrainedConfig) -> Mllm:
    """A model of one of the `FAMILIES` with random weights."""
    return Mllm(AutoModelForImageTextToText.from_config(config, dtype=torch.float32), FAMILIES[config.model_type])


def state_of(net: PreTrainedModel) -> Tensors:
    """The state of an `Mllm` of a model under `mllm.`; a head that is the embedding is left out."""
    tied = tied_names(net)
    return {f"mllm.net.{name}": tensor for name, tensor in net.state_dict().items() if name not in tied}


def _describe(net: PreTrainedModel, processor: ProcessorMixin) -> tuple[HubMllm, Tensors]:
    config = copy.deepcopy(net.config)
    config.tie_word_embeddings = bool(tied_names(net))  # which some configs say wrongly; the weights decide
    return HubMllm(config, processor), state_of(net)
