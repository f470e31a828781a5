"""Models by hub id, such as `openai/clip-vit-large-patch14`: find them in the Hugging Face cache, download, remove.

`HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HUB_OFFLINE` and the token of `hf auth login` are those of huggingface_hub.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants, scan_cache_dir, snapshot_download
from huggingface_hub.errors import CacheNotFound, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils.tqdm import tqdm

from cores_core.errors import CheckpointError
from cores_core.hub import HUB_ERRORS, has_hub_form, hub_error

_FILES = ("*.json", "*.yaml", "*.model", "*.safetensors", "*.bin", "*.jinja", "*.txt")
_WEIGHTS = ("*.safetensors", "*.bin")
BAR_DELAY = 0.5
"""Seconds after which a download shows its progress."""


class _LateBar(tqdm):
    """A progress bar that appears only if there is something to wait for, not for models that are cached."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"delay": BAR_DELAY, **options})  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class CachedModel:
    """A model in the Hugging Face cache: the revisions (commits) that are there, and its bytes on disk."""

    revisions: tuple[str, ...]
    size: int


def is_hub_id(name: str) -> bool:
    """Whether a name has the form `owner/model` and is not an existing path."""
    return has_hub_form(name) and not Path(name).exists()


def fetch_model(name: str) -> Path:
    """Folder with configs, tokenizer and weights of a hub id, downloaded if it is not cached.

    An interrupted download is resumed when it is repeated.

    Raises:
        CheckpointError: the hub has no such model or does not grant access, the hub cannot be reached and the model is
            not cached, the connection breaks, or the cache cannot be written.
    """
    try:
        return Path(snapshot_download(name, allow_patterns=list(_FILES), tqdm_class=_LateBar))
    except HUB_ERRORS as error:
        raise hub_error(name, error) from error


def cached_model(name: str) -> Path | None:
    """Folder of a hub id in the Hugging Face cache, None if it has no weights there. Does not use the network."""
    try:
        folder = Path(snapshot_download(name, allow_patterns=list(_FILES), local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError, OSError):
        return None
    return folder if any(any(folder.glob(pattern)) for pattern in _WEIGHTS) else None


def cached_models() -> dict[str, CachedModel]:
    """What the Hugging Face cache has, complete or not, by hub id. Does not use the network."""
    try:
        found = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except (CacheNotFound, ValueError):
        return {}
    return {
        repository.repo_id: CachedModel(
            tuple(sorted(revision.commit_hash for revision in repository.revisions)), repository.size_on_disk
        )
        for repository in found
        if repository.repo_type == "model"
    }


def remove_model(name: str) -> int:
    """Delete all revisions of a hub id from the Hugging Face cache.

    Returns:
        The number of bytes that this frees.

    Raises:
        CheckpointError: the cache does not have it, or it cannot be deleted.
    """
    model = cached_models().get(name)
    if model is None:
        raise CheckpointError(f"not in the cache: {name}", hint="`cores models` shows what is")
    plan = scan_cache_dir(constants.HF_HUB_CACHE).delete_revisions(*model.revisions)
    plan.execute()
    if name in cached_models():
        raise CheckpointError(f"cannot be deleted from the cache: {name}", hint="check write permission")
    return plan.expected_freed_size
