"""Models by their hub id, such as `openai/clip-vit-large-patch14`: from the hub's cache, or downloaded into it."""

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from cores_core.errors import CheckpointError

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_FILES = ("*.json", "*.yaml", "*.model", "*.safetensors", "*.bin", "*.jinja", "*.txt")
_WEIGHTS = ("*.safetensors", "*.bin")


def is_hub_id(name: str) -> bool:
    """Whether a name has the form `owner/model` and is no path that exists."""
    return _HUB_ID.fullmatch(name) is not None and not Path(name).exists()


def fetch_model(name: str) -> Path:
    """The folder of a hub id with its configs, tokenizer and weights.

    Raises:
        CheckpointError: the hub has no such model, or cannot be reached and the cache does not hold it.
    """
    try:
        return Path(snapshot_download(name, allow_patterns=list(_FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = f"check the name and the network, or download it and give the folder ({reason})"
        raise CheckpointError(f"model is neither a folder nor to be had from the hub: {name}", hint=hint) from error


def cached_model(name: str) -> Path | None:
    """The folder of a hub id in the hub's cache, None if there are no weights in it. The network is not asked."""
    try:
        folder = Path(snapshot_download(name, allow_patterns=list(_FILES), local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError, OSError):
        return None
    return folder if any(any(folder.glob(pattern)) for pattern in _WEIGHTS) else None
