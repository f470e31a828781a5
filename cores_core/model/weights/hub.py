"""Find models by hub id, such as `openai/clip-vit-large-patch14`, in the Hugging Face cache, or download them to it."""

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from cores_core.errors import CheckpointError

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_FILES = ("*.json", "*.yaml", "*.model", "*.safetensors", "*.bin", "*.jinja", "*.txt")
_WEIGHTS = ("*.safetensors", "*.bin")


def is_hub_id(name: str) -> bool:
    """Whether a name has the form `owner/model` and is not an existing path."""
    return _HUB_ID.fullmatch(name) is not None and not Path(name).exists()


def fetch_model(name: str) -> Path:
    """Folder with configs, tokenizer and weights of a hub id, downloaded if it is not cached.

    Raises:
        CheckpointError: the hub has no such model, or it is not cached and the hub cannot be reached.
    """
    try:
        return Path(snapshot_download(name, allow_patterns=list(_FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = f"check the name and the network, or download it and give the folder ({reason})"
        raise CheckpointError(f"not a local folder and not found on the hub: {name}", hint=hint) from error


def cached_model(name: str) -> Path | None:
    """Folder of a hub id in the Hugging Face cache, None if it has no weights there. Does not use the network."""
    try:
        folder = Path(snapshot_download(name, allow_patterns=list(_FILES), local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError, OSError):
        return None
    return folder if any(any(folder.glob(pattern)) for pattern in _WEIGHTS) else None
