"""Load configs, processors and models of transformers from a folder, with failures raised as `CheckpointError`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoProcessor, PreTrainedConfig, PreTrainedModel, ProcessorMixin
from transformers.utils import logging

from cores_core.errors import CheckpointError

_READ_ERRORS = (
    AttributeError,
    KeyError,
    OSError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
    TypeError,
    ValueError,
)
_LONGEST_REASON = 160  # characters; some errors of transformers list all model types


def read_config(config_class: type[PreTrainedConfig], folder: Path) -> PreTrainedConfig:
    """Read a folder's config.json.

    Raises:
        CheckpointError: it is missing or invalid.
    """
    try:
        return config_class.from_pretrained(folder)
    except _READ_ERRORS as error:
        raise CheckpointError(f"missing or invalid config: {folder / 'config.json'} ({_short(error)})") from error


def read_processor(folder: Path) -> ProcessorMixin:
    """Load the processor in a folder: tokenizer, chat template, image processor.

    Raises:
        CheckpointError: one of its files is missing or damaged.
    """
    try:
        return AutoProcessor.from_pretrained(folder)
    except (ImportError, *_READ_ERRORS) as error:
        raise CheckpointError(f"cannot read the processor: {folder} ({_short(error)})") from error


def load_whole(model_class: type[PreTrainedModel], folder: Path) -> PreTrainedModel:
    """Load a model with its weights, in the dtype of the files.

    Raises:
        CheckpointError: a tensor is missing, unexpected or of another shape, or a file is damaged.
    """
    with without_progress():
        try:
            net, found = model_class.from_pretrained(folder, dtype="auto", output_loading_info=True)
        except _READ_ERRORS as error:
            raise CheckpointError(f"cannot read weights: {folder} ({_short(error)})") from error
    kinds = ("missing", "unexpected", "mismatched")
    problems = [f"{kind} {name}" for kind in kinds for name in found[f"{kind}_keys"]]
    if problems:
        raise CheckpointError(f"{len(problems)} tensors do not fit in {folder}: {'; '.join(map(str, problems[:3]))}")
    return net


def tied_names(net: nn.Module) -> frozenset[str]:
    """Names of a model's tensors that are tied to others (such as a head tied to the token embedding)."""
    return frozenset(getattr(net, "all_tied_weights_keys", {}))


@contextmanager
def without_progress() -> Iterator[None]:
    """Disable the progress bars of transformers."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:_LONGEST_REASON]
