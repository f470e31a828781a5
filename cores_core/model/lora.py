"""Low-rank adapters on the language model, by peft, and which parameters train. The only home of `requires_grad`.

Source: CoReS (arXiv:2404.05673), appendix A, and its release: LoRA on `q_proj` and `v_proj` of the language model (rank
8, alpha 16, dropout 0.05); fully the token embedding, the vocabulary head, the projection, SAM's mask decoder and the
refiner. Frozen are the vision tower, its projector, SAM's image and prompt encoders.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor

from cores_core.config import LoraConfig
from cores_core.errors import CheckpointError
from cores_core.model.cores import HALVED, CoresModel
from cores_core.model.names import EMBEDDING, HEAD
from cores_core.model.tensors import Tensors, read_file

if TYPE_CHECKING:  # slow to import, and bitsandbytes with it; only models with adapters need it
    from peft import LoraConfig as PeftConfig
    from peft.tuners.lora import LoraModel

TRAINED = (EMBEDDING, HEAD, "projection.", "refiner.", "segmenter.mask_decoder.")
"""Names, or their beginnings, of what trains in full beside the adapters."""
WEIGHTS_FILE = "adapter_model.safetensors"
_TARGETS = r".*language_model\..*\.(q_proj|v_proj)"
_NAME = "default"
_PEFT_PREFIX, _OUR_PREFIX = "base_model.model.", "mllm.llava."


def add_lora(model: CoresModel, config: LoraConfig) -> "LoraModel":
    """Put adapters, drawn from torch's generator, beside the language model's projections; they change nothing yet.

    Returns:
        peft's view of the model, which can merge the adapters again.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # which peft imports, and which warns of kernels
    from peft.tuners.lora import LoraModel

    return LoraModel(model.mllm.llava, {_NAME: _peft_config(config)}, _NAME)


def choose_trainable(model: CoresModel, config: LoraConfig, frozen_dtype: torch.dtype = torch.float32) -> None:
    """Let those parameters learn that should, in float32: all, or with adapters these and `TRAINED`.

    Args:
        frozen_dtype: precision of those that do not learn, as far as they may be in half precision.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not config.rank or name.startswith(TRAINED) or is_adapter(name))
        half = not parameter.requires_grad and name.startswith(HALVED)
        parameter.data = parameter.data.to(frozen_dtype if half else torch.float32)


def trained_tensors(model: CoresModel) -> Tensors:
    """The tensors that a model with adapters must keep: all others are those of its base."""
    return {n: tensor for n, tensor in model.state_dict().items() if n.startswith(TRAINED) or is_adapter(n)}


def is_adapter(name: str) -> bool:
    """Whether a tensor belongs to an adapter."""
    return ".lora_" in name


def save_adapter(folder: Path, weights: Mapping[str, Tensor], config: LoraConfig) -> None:
    """Write the MLLM's part of `trained_tensors` as peft's `save_pretrained` does, for `PeftModel.from_pretrained`.

    The token embedding and the head have rows for the new tokens: resize the base model's before.
    """
    peft = _peft_config(config)
    peft.modules_to_save = ["embed_tokens", "lm_head"]
    peft.save_pretrained(str(folder))
    theirs = {_PEFT_PREFIX + name.removeprefix(_OUR_PREFIX).replace(f".{_NAME}", ""): t for name, t in weights.items()}
    save_file(theirs, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def read_adapter(folder: Path, shapes_only: bool = False) -> Tensors:
    """What `save_adapter` wrote, by our names.

    Raises:
        CheckpointError: it is damaged, or there is no adapter in it.
    """
    weights: Tensors = {}
    for name, tensor in read_file(folder / WEIGHTS_FILE, shapes_only):
        ours = _OUR_PREFIX + name.removeprefix(_PEFT_PREFIX)
        weights[ours.replace(".weight", f".{_NAME}.weight") if is_adapter(ours) else ours] = tensor
    if not any(map(is_adapter, weights)):
        raise CheckpointError(f"no adapter in: {folder / WEIGHTS_FILE}")
    return weights


def _peft_config(config: LoraConfig) -> "PeftConfig":
    from peft import LoraConfig as PeftConfig

    return PeftConfig(r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=_TARGETS)
