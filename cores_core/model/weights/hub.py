"""Models by hub id, such as `openai/clip-vit-large-patch14`: find them in the Hugging Face cache, download, remove.

`HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HUB_OFFLINE` and the token of `hf auth login` are those of huggingface_hub.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import httpx2
from huggingface_hub import constants, scan_cache_dir, snapshot_download
from huggingface_hub.errors import (
    CacheNotFound,
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from cores_core.errors import CheckpointError, reason_of
from cores_core.files import writing_hint

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_FILES = ("*.json", "*.yaml", "*.model", "*.safetensors", "*.bin", "*.jinja", "*.txt")
_WEIGHTS = ("*.safetensors", "*.bin")
_LOGIN = "log in with `hf auth login`, or set HF_TOKEN"
_OWN_FOLDER = "or download it elsewhere and give the folder"


@dataclass(frozen=True)
class CachedModel:
    """A model in the Hugging Face cache: the revisions (commits) that are there, and its bytes on disk."""

    revisions: tuple[str, ...]
    size: int


def has_hub_form(name: str) -> bool:
    """Whether a name has the form `owner/model`."""
    return _HUB_ID.fullmatch(name) is not None


def is_hub_id(name: str) -> bool:
    """Whether a name has the form `owner/model` and is not an existing path."""
    return has_hub_form(name) and not Path(name).exists()


def page_of(name: str) -> str:
    """Address of a model's page on the hub."""
    return f"{constants.ENDPOINT}/{name}"


def fetch_model(name: str) -> Path:
    """Folder with configs, tokenizer and weights of a hub id, downloaded if it is not cached.

    An interrupted download is resumed when it is repeated.

    Raises:
        CheckpointError: the hub has no such model or does not grant access, the hub cannot be reached and the model is
            not cached, the connection breaks, or the cache cannot be written.
    """
    try:
        return Path(snapshot_download(name, allow_patterns=list(_FILES)))
    except (httpx2.HTTPError, HFValidationError, RevisionNotFoundError, OSError) as error:
        raise hub_error(name, error) from error


def hub_error(name: str, error: Exception) -> CheckpointError:
    """Say in one sentence why the hub or its cache failed for a model, with the next step as the hint."""
    if isinstance(error, HFValidationError):
        return CheckpointError(f"not a hub id: {name}", hint="a hub id is OWNER/NAME")
    if isinstance(error, GatedRepoError):
        hint = f"ask for access at {page_of(name)}, then {_LOGIN}"
        return CheckpointError(f"access to this model must be asked for on its page: {name}", hint=hint)
    if isinstance(error, RepositoryNotFoundError):
        hint = f"check the name at {page_of(name)}; if it is private, {_LOGIN}; {_OWN_FOLDER}"
        return CheckpointError(f"not a local folder and not found on the hub: {name}", hint=hint)
    if isinstance(error, DisabledRepoError):
        return CheckpointError(f"the hub has disabled this model: {name}", hint=f"see {page_of(name)}")
    if isinstance(error, HfHubHTTPError):
        return _status_error(name, error)
    if isinstance(error, IncompleteSnapshotError):
        hint = f"the network is needed to finish it: cores models download {name}"
        return CheckpointError(f"only a part of this model is in the cache: {name}", hint=hint)
    if isinstance(error, LocalEntryNotFoundError):
        return _unreachable(name, error.__cause__)
    if isinstance(error, httpx2.HTTPError):
        hint = "check the network, then run the command again: the download is resumed"
        return CheckpointError(f"the connection to the hub broke: {name} ({reason_of(error)})", hint=hint)
    advice = writing_hint(error) if isinstance(error, OSError) else None
    return CheckpointError(f"cannot read or write the hub's cache for: {name} ({reason_of(error)})", hint=advice)


def _status_error(name: str, error: HfHubHTTPError) -> CheckpointError:
    status = error.response.status_code
    if status in (401, 403):
        hint = f"{_LOGIN}, with a token that may do this; the page: {page_of(name)}"
        return CheckpointError(f"the hub does not allow this: {name} (HTTP {status})", hint=hint)
    if status == 404:
        hint = f"see {page_of(name)}/tree/main, then run the command again"
        return CheckpointError(f"a file of this model is missing on the hub: {name} ({error.response.url})", hint=hint)
    return CheckpointError(f"the hub answered with HTTP {status}: {name}", hint="try again later")


def _unreachable(name: str, cause: BaseException | None) -> CheckpointError:
    """The hub was not asked, or did not answer, and the cache does not have the model."""
    if constants.HF_HUB_OFFLINE:
        hint = f"unset HF_HUB_OFFLINE and download it with the network, {_OWN_FOLDER}"
        return CheckpointError(f"HF_HUB_OFFLINE is set and this model is not in the cache: {name}", hint=hint)
    if isinstance(cause, HfHubHTTPError):
        return _status_error(name, cause)
    reason = f" ({reason_of(cause)})" if cause is not None else ""
    hint = f"check the network, then run the command again, {_OWN_FOLDER}"
    return CheckpointError(f"the hub cannot be reached and this model is not in the cache: {name}{reason}", hint=hint)


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
