"""Repositories of the Hugging Face hub: their ids and pages, and its faults as errors with the next step.

`HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HUB_OFFLINE` and the token of `hf auth login` are those of huggingface_hub.
"""

import re
from dataclasses import dataclass

import httpx2
from huggingface_hub import constants
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from cores_core.errors import CheckpointError, CoresError, DataError
from cores_core.files import writing_hint

HUB_ERRORS = (httpx2.HTTPError, HFValidationError, RevisionNotFoundError, OSError)
"""All exceptions that huggingface_hub raises for faults of the hub, of the network and of its cache."""
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_LOGIN = "log in with `hf auth login`, or set HF_TOKEN"


@dataclass(frozen=True)
class RepositoryKind:
    """What differs between models and data sets in messages.

    Attributes:
        noun: its name. error: class of its errors. page: start of the path of its page.
        unknown: message for an unknown id. download: command that downloads one. otherwise: the way without the hub.
    """

    noun: str
    error: type[CoresError]
    page: str
    unknown: str
    download: str
    otherwise: str


MODEL = RepositoryKind(
    "model",
    CheckpointError,
    "",
    "not a local folder and not found on the hub",
    "cores models download {name}",
    "or download it elsewhere and give the folder",
)
DATA_SET = RepositoryKind(
    "data set",
    DataError,
    "datasets/",
    "no such data set on the hub",
    "cores prepare-data hub/{name}",
    "or download its parquet files elsewhere and give their folder with --from",
)


def has_hub_form(name: str) -> bool:
    """Whether a name has the form `owner/model`."""
    return _HUB_ID.fullmatch(name) is not None


def page_of(name: str, kind: RepositoryKind = MODEL) -> str:
    """Address of a repository's page on the hub."""
    return f"{constants.ENDPOINT}/{kind.page}{name}"


def hub_error(name: str, error: Exception, kind: RepositoryKind = MODEL) -> CoresError:
    """Say in one sentence why the hub or its cache failed for a repository, with the next step as the hint."""
    if isinstance(error, HFValidationError):
        return kind.error(f"not a hub id: {name}", hint="a hub id is OWNER/NAME")
    if isinstance(error, GatedRepoError):
        hint = f"ask for access at {page_of(name, kind)}, then {_LOGIN}"
        return kind.error(f"access to this {kind.noun} must be asked for on its page: {name}", hint=hint)
    if isinstance(error, RepositoryNotFoundError):
        hint = f"check the name at {page_of(name, kind)}; if it is private, {_LOGIN}; {kind.otherwise}"
        return kind.error(f"{kind.unknown}: {name}", hint=hint)
    if isinstance(error, DisabledRepoError):
        return kind.error(f"the hub has disabled this {kind.noun}: {name}", hint=f"see {page_of(name, kind)}")
    if isinstance(error, HfHubHTTPError):
        return _status_error(name, error, kind)
    if isinstance(error, IncompleteSnapshotError):
        hint = f"the network is needed to finish it: {kind.download.format(name=name)}"
        return kind.error(f"only a part of this {kind.noun} is in the cache: {name}", hint=hint)
    if isinstance(error, LocalEntryNotFoundError):
        return _unreachable(name, error.__cause__, kind)
    if isinstance(error, httpx2.HTTPError):
        hint = "check the network, then run the command again: the download is resumed"
        return kind.error(f"the connection to the hub broke: {name} ({_reason(error)})", hint=hint)
    advice = writing_hint(error) if isinstance(error, OSError) else None
    return kind.error(f"cannot read or write the hub's cache for: {name} ({_reason(error)})", hint=advice)


def _status_error(name: str, error: HfHubHTTPError, kind: RepositoryKind) -> CoresError:
    status = error.response.status_code
    if status in (401, 403):
        hint = f"{_LOGIN}, with a token that may do this; the page: {page_of(name, kind)}"
        return kind.error(f"the hub does not allow this: {name} (HTTP {status})", hint=hint)
    if status == 404:
        hint = f"see {page_of(name, kind)}/tree/main, then run the command again"
        return kind.error(f"a file of this {kind.noun} is missing on the hub: {name} ({error.response.url})", hint=hint)
    return kind.error(f"the hub answered with HTTP {status}: {name}", hint="try again later")


def _unreachable(name: str, cause: BaseException | None, kind: RepositoryKind) -> CoresError:
    """The hub was not asked, or did not answer, and the cache does not have the repository."""
    if constants.HF_HUB_OFFLINE:
        hint = f"unset HF_HUB_OFFLINE and download it with the network, {kind.otherwise}"
        return kind.error(f"HF_HUB_OFFLINE is set and this {kind.noun} is not in the cache: {name}", hint=hint)
    if isinstance(cause, HfHubHTTPError):
        return _status_error(name, cause, kind)
    reason = f" ({_reason(cause)})" if cause is not None else ""
    hint = f"check the network, then run the command again, {kind.otherwise}"
    return kind.error(f"the hub cannot be reached and this {kind.noun} is not in the cache: {name}{reason}", hint=hint)


def _reason(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
