"""LoRA adapters on the language model (peft), and the only place that sets `requires_grad`.

Source: CoReS (arXiv:2404.05673), appendix A, and its release. LoRA on `q_proj` and `v_proj` of the language model (rank
8, alpha 16, dropout 0.05). Trained in full: token embedding, vocabulary head, projection, SAM's mask decoder, refiner.
Frozen: vision tower, its projector, SAM's image and prompt encoders.
Deviation: with `lora.vocabulary: rows`, only the rows of new tokens in embedding and head train (peft's trainable
tokens), because current vocabularies have 150,000 rows.
"""

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor

from cores_core.config import LoraConfig
from cores_core.errors import CheckpointError
from cores_core.model.cores import HALVED, CoresModel
from cores_core.model.mllm import Mllm
from cores_core.model.weights.names import HEAD
from cores_core.model.weights.tensors import Tensors, read_file
from cores_core.model.weights.transformers_io import tied_names
from cores_core.model.weights.vocabulary import embedding_name, is_embedding

if TYPE_CHECKING:  # slow to import, and bitsandbytes with it; only models with adapters need it
    from peft import LoraConfig as PeftConfig
    from peft import PeftModel

_TRAINED = ("projection.", "refiner.", "segmenter.mask_decoder.")
"""Name prefixes of the parameters that train in full in addition to the adapters."""
WEIGHTS_FILE = "adapter_model.safetensors"
_TARGETS = r".*(language_model|text_model)\..*\.(q_proj|v_proj)"
_ROWS = ".trainable_tokens_delta"
_NAME = "default"
_PEFT_PREFIX, _OUR_PREFIX = "base_model.model.", "mllm.net."


def add_lora(model: CoresModel, config: LoraConfig, rows: Sequence[int]) -> "PeftModel":
    """Add LoRA adapters to the language model, initialised from torch's global generator; the output is unchanged.

    Args:
        rows: ids of the tokens whose rows train with `lora.vocabulary: rows`.

    Returns:
        peft's wrapper of `model.mllm.net`, which can merge the adapters.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it; it warns about missing kernels
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft uses an old name of transformers
        return PeftModel(model.mllm.net, _peft_config(model.mllm, config, rows), _NAME)


def choose_trainable(model: CoresModel, config: LoraConfig, frozen_dtype: torch.dtype = torch.float32) -> None:
    """Set `requires_grad`: all parameters train, or with adapters those of `trained_tensors`, in float32.

    Args:
        frozen_dtype: precision of frozen parameters, except those that must be in float32.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not config.rank or _trains(name, config))
        half = not parameter.requires_grad and name.startswith(HALVED)
        parameter.data = parameter.data.to(frozen_dtype if half else torch.float32)


def trained_tensors(model: CoresModel, config: LoraConfig) -> Tensors:
    """The tensors to save of a model with adapters; all others equal those of its base."""
    shared = tuple(f"mllm.net.{name.removesuffix('weight')}" for name in tied_names(model.mllm.net))
    found = {name: tensor for name, tensor in model.state_dict().items() if _trains(name, config)}
    return {name: tensor for name, tensor in found.items() if not name.startswith(shared)} if shared else found


def _trains(name: str, config: LoraConfig) -> bool:
    in_full = config.vocabulary == "full" and (name == HEAD or is_embedding(name))
    return in_full or name.startswith(_TRAINED) or is_adapter(name)


def is_adapter(name: str) -> bool:
    """Whether this is the name of an adapter's tensor."""
    return ".lora_" in name or _ROWS in name


def save_adapter(
    folder: Path, weights: Mapping[str, Tensor], mllm: Mllm, config: LoraConfig, rows: Sequence[int]
) -> None:
    """Write the MLLM's part of `trained_tensors` in peft's format, readable by `PeftModel.from_pretrained`.

    Token embedding and head include rows for the new tokens: resize the base model's before loading it with peft.
    """
    peft, weights = _peft_config(mllm, config, rows), dict(weights)
    if config.vocabulary == "full":
        peft.modules_to_save = ["embed_tokens"] if mllm.is_tied else ["embed_tokens", "lm_head"]
        peft.ensure_weight_tying = mllm.is_tied
        if mllm.is_tied:  # peft reads a head even if it is tied to the embedding
            weights[HEAD] = weights[embedding_name(weights)].clone()
    peft.save_pretrained(str(folder))
    theirs = {_PEFT_PREFIX + name.removeprefix(_OUR_PREFIX).replace(f".{_NAME}", ""): t for name, t in weights.items()}
    save_file(theirs, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def read_adapter(folder: Path, shapes_only: bool = False) -> Tensors:
    """Read the tensors written by `save_adapter`, renamed to those of `CoresModel`.

    Raises:
        CheckpointError: the file is damaged or contains no adapter.
    """
    weights: Tensors = {}
    for name, tensor in read_file(folder / WEIGHTS_FILE, shapes_only):
        ours = _OUR_PREFIX + name.removeprefix(_PEFT_PREFIX)
        if ours.endswith(_ROWS):
            ours = f"{ours}.{_NAME}"
        elif is_adapter(ours):
            ours = ours.replace(".weight", f".{_NAME}.weight")
        weights[ours] = tensor
    if not any(map(is_adapter, weights)):
        raise CheckpointError(f"no adapter in: {folder / WEIGHTS_FILE}")
    return weights


def _peft_config(mllm: Mllm, config: LoraConfig, rows: Sequence[int]) -> "PeftConfig":
    from peft import LoraConfig as PeftConfig

    indices = None
    if config.vocabulary == "rows":
        layers = ("embed_tokens",) if mllm.is_tied else ("embed_tokens", "lm_head")
        indices = {layer: list(rows) for layer in layers}
    return PeftConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=_TARGETS,
        trainable_token_indices=indices,
    )
