"""Load configs, processors and models of transformers from a folder, with failures raised as `CheckpointError`."""

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from jinja2 import TemplateError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoProcessor, PreTrainedConfig, PreTrainedModel, ProcessorMixin
from transformers.utils import logging

from cores_core.errors import CheckpointError, CoresError, reason_of
from cores_core.files import writing_hint

_TORCH_WRITES = re.compile("PytorchStreamWriter|inline_container")
"""Parts of torch's RuntimeErrors about files that it cannot write."""
_SYSTEM_ERROR = re.compile(r"(?:os error |code: )(\d+)")
"""Error number in the messages of safetensors and tokenizers."""
_LITTLE_SPACE = 1 << 20
NO_CODE = {"trust_remote_code": False}
"""Code in a model's folder is never run; without this, transformers asks on the terminal whether to run it."""
_READ_ERRORS = (
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,  # and with it RecursionError
    SafetensorError,
    StrictDataclassError,
    TemplateError,
    TypeError,
    ValueError,
)
"""Exceptions of transformers for configs, tokenizers and weights that it cannot read."""


@contextmanager
def reading(what: str, place: Path | str) -> Iterator[None]:
    """Raise failures of transformers and tokenizers within the block as `CheckpointError`s.

    Args:
        what: what is read or built. place: from where. Both are for the message.

    Raises:
        CheckpointError: a file is missing, damaged or invalid.
    """
    try:
        yield
    except CoresError:
        raise
    except Exception as error:
        if not isinstance(error, _READ_ERRORS) and type(error) is not Exception:  # tokenizers raises plain Exceptions
            raise
        raise CheckpointError(f"cannot read {what}: {place} ({reason_of(error)})") from error


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raise failures of torch, safetensors and tokenizers to write files within the block as `CheckpointError`s.

    Raises:
        CheckpointError: the disk is full, or a file cannot be written.
    """
    try:
        yield
    except Exception as error:
        foreign = isinstance(error, SafetensorError) or type(error) is Exception  # tokenizers raises plain Exceptions
        if not (isinstance(error, OSError) or foreign or _TORCH_WRITES.search(str(error))):
            raise
        hint = writing_hint(OSError(_find_number(error, folder.parent), ""))
        raise CheckpointError(f"cannot write: {folder} ({reason_of(error)})", hint=hint) from error


def _find_number(error: Exception, folder: Path) -> int:
    """The error number of the operating system: as an attribute, in the text, or by the free space; 0 if unknown."""
    found = _SYSTEM_ERROR.search(str(error))
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if found is not None:
        return int(found[1])
    return errno.ENOSPC if shutil.disk_usage(folder).free < _LITTLE_SPACE else 0


def read_config(config_class: type[PreTrainedConfig], folder: Path) -> PreTrainedConfig:
    """Read a folder's config.json.

    Raises:
        CheckpointError: it is missing or invalid.
    """
    with reading("the config", folder):
        return config_class.from_pretrained(folder, **(NO_CODE if config_class is AutoConfig else {}))


def read_processor(folder: Path) -> ProcessorMixin:
    """Load the processor in a folder: tokenizer, chat template, image processor.

    Raises:
        CheckpointError: one of its files is missing or damaged.
    """
    with reading("the processor", folder):
        processor: ProcessorMixin = AutoProcessor.from_pretrained(folder, **NO_CODE)
    for part in ("tokenizer", "image_processor"):
        if not hasattr(processor, part):
            raise CheckpointError(f"the processor has no {part.replace('_', ' ')}: {folder}")
    return processor


def load_whole(model_class: type[PreTrainedModel], folder: Path) -> PreTrainedModel:
    """Load a model with its weights, in the dtype of the files.

    Raises:
        CheckpointError: a tensor is missing, unexpected or of another shape, or a file is damaged.
    """
    with without_progress(), reading("weights", folder):
        net, found = model_class.from_pretrained(folder, dtype="auto", output_loading_info=True)
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
