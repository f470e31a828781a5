"""Upload a checkpoint to the hub, with a model card, in one commit."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HFValidationError, RevisionNotFoundError

from cores_core.config import Config
from cores_core.errors import CheckpointError, reason_of
from cores_core.files import read_json
from cores_core.hub import has_hub_form, hub_error, page_of
from cores_core.model.card import CardFacts, render_card
from cores_core.model.catalog import RELEASED
from cores_core.model.checkpoint import EMBEDDED
from cores_core.model.weights.hub import is_hub_id
from cores_core.settings import load_config

CARD = "README.md"
_LEFT_OUT = "optimizer"
_OWN = ("mllm/", "adapter/", "processor/", "segmenter/", "heads.safetensors", "objective.safetensors")
"""Files of an earlier upload with these names that the checkpoint no longer has are deleted."""


@dataclass(frozen=True)
class Upload:
    """What would be uploaded: files by their path in the repository, and the text of the model card."""

    name: str
    files: dict[str, Path]
    card: str

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes by path in the repository, card included."""
        sizes = {path: file.stat().st_size for path, file in self.files.items()}
        return sizes | {CARD: len(self.card.encode())}


def prepare_upload(folder: Path, name: str, facts: CardFacts) -> Upload:
    """Collect the files of a checkpoint, without optimiser state, and write its card. Uses no network.

    A README.md in the folder is the card as it stands.

    Raises:
        CheckpointError: no checkpoint, not a hub id, or the checkpoint refers to files of this machine.
    """
    if not has_hub_form(name):
        raise CheckpointError(f"not a hub id: {name}", hint="a hub id is OWNER/NAME")
    about = _read_about(folder)
    config = load_config(folder / "config.yaml")
    start = _find_start(config)
    if config.lora.rank and start not in (None, EMBEDDED) and not is_hub_id(str(start)):
        hint = f"merge it first: cores checkpoint merge {folder} FOLDER"
        raise CheckpointError(f"the adapter needs a model of this machine: {start}", hint=hint)
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    files = {path.relative_to(folder).as_posix(): path for path in paths}
    files = {name: path for name, path in files.items() if name.split("/")[0] != _LEFT_OUT}
    own_card = files.pop(CARD, None)
    if own_card is not None and facts != CardFacts():
        hint = "remove it to have a card written, or leave out --results, --license and --base-model"
        raise CheckpointError(f"the checkpoint has a card of its own: {own_card}", hint=hint)
    source = about.get("base", {}).get("mllm", {}).get("source") or start
    if facts.base_model is None and source is not None and is_hub_id(source):
        facts = replace(facts, base_model=source)
    card = render_card(name, config, about, facts) if own_card is None else own_card.read_text(encoding="utf-8")
    return Upload(name, files, card)


def push(upload: Upload, private: bool = True) -> str:
    """Create the repository if there is none, and upload everything in one commit.

    Returns:
        The address of the commit.

    Raises:
        CheckpointError: the hub refuses, cannot be reached, or the repository is public and `private` is set.
    """
    api, name = HfApi(), upload.name
    try:
        api.create_repo(name, private=private, exist_ok=True)
        info = api.model_info(name)
        if private and not info.private:
            hint = "give --public to upload to it, or choose another name"
            raise CheckpointError(f"this model exists on the hub and is public: {name}", hint=hint)
        present = [file.rfilename for file in info.siblings or ()]
        stale = [path for path in present if path.startswith(_OWN) and path not in upload.files]
        additions = [CommitOperationAdd(path, str(file)) for path, file in upload.files.items()]
        card = CommitOperationAdd(CARD, upload.card.encode())
        deletions = [CommitOperationDelete(path) for path in stale]
        commit = api.create_commit(name, [*additions, card, *deletions], commit_message="Upload a checkpoint of cores")
    except (httpx2.HTTPError, HFValidationError, RevisionNotFoundError, OSError) as error:
        raise hub_error(name, error) from error
    except RuntimeError as error:  # huggingface_hub's, of a single file
        hint = "run the command again: files that arrived are not sent twice"
        raise CheckpointError(f"upload failed: {page_of(name)} ({error.__cause__ or error})", hint=hint) from error
    return str(commit.commit_url)


def _find_start(config: Config) -> str | None:
    """What the training started from: a hub id, also for a name of `cores models`, a path, or the embedded model."""
    start = config.train.start_from or config.base.mllm
    if start is None or Path(start).exists():
        return start
    known = RELEASED.get(start.lower())
    return start if known is None else known.hub_id


def _read_about(folder: Path) -> dict[str, Any]:
    try:
        about: dict[str, Any] = read_json(folder / "checkpoint.json")
    except (OSError, ValueError) as error:
        hint = "give a checkpoint of cores; for released weights: cores checkpoint convert MODEL FOLDER"
        raise CheckpointError(f"not a complete checkpoint: {folder} ({reason_of(error)})", hint=hint) from error
    return about
