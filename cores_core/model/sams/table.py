"""Find SAM weights by name, path or hub id: segment-anything's three, SAM 2.1 in four sizes, SAM 3's tracker."""

from pathlib import Path

import torch
from transformers import PreTrainedConfig

from cores_core.errors import CheckpointError, reason_of
from cores_core.model.families.llava import model_type
from cores_core.model.sams.hub import HUB_SAMS, read_hub_sam
from cores_core.model.weights.hub import fetch_model, is_hub_id
from cores_core.model.weights.tensors import Tensors, read_file

SAM_FILES = {
    name: f"sam_{name}_{digest}.pth" for name, digest in (("vit_h", "4b8939"), ("vit_l", "0b3195"), ("vit_b", "01ec64"))
}
"""File names of the released SAMs by their names in segment-anything; they end in the first digits of the SHA-256."""
SAM_URL = "https://dl.fbaipublicfiles.com/segment_anything/"
HUB_IDS = {
    "sam2.1-tiny": "facebook/sam2.1-hiera-tiny",
    "sam2.1-small": "facebook/sam2.1-hiera-small",
    "sam2.1-base-plus": "facebook/sam2.1-hiera-base-plus",
    "sam2.1-large": "facebook/sam2.1-hiera-large",
    "sam3": "facebook/sam3",
}
"""Hub ids of SAM 2.1 and SAM 3 by short name."""
GATED = "facebook/sam3"


def read_sam(path: Path, shapes_only: bool = False) -> tuple[PreTrainedConfig | None, Tensors]:
    """Read a SAM from a file of segment-anything, or from a folder in the hub's format.

    Returns:
        Its transformers config (None for segment-anything), and its weights with the prefix `segmenter.`.

    Raises:
        CheckpointError: a file is missing or damaged, or not of a SAM.
    """
    if path.is_dir():
        return read_hub_sam(path, shapes_only)
    tensors = read_file(path, shapes_only)
    return None, {f"segmenter.{name}": tensor for name, tensor in tensors if name not in ("pixel_mean", "pixel_std")}


def find_sam(source: str) -> Path:
    """File or folder of a SAM given by path, hub id or name; names and hub ids are downloaded if not cached.

    Raises:
        CheckpointError: there is none, it is another type of model, or it cannot be downloaded.
    """
    if source in SAM_FILES:
        return _find_file(source)
    hub_id = HUB_IDS.get(source, source)
    path = _fetch(hub_id) if is_hub_id(hub_id) else Path(source)
    if not path.exists():
        hint = f"give a sam_vit_*.pth, a folder, a hub id, or one of {', '.join((*SAM_FILES, *HUB_IDS))}"
        raise CheckpointError(f"base.sam does not exist: {source}", hint=hint)
    if path.is_dir() and model_type(path) not in HUB_SAMS:
        hint = f"supported are segment-anything's files and the model types {', '.join(HUB_SAMS)}"
        found = model_type(path)
        raise CheckpointError(f"base.sam has the model type `{found}`, which is not supported: {source}", hint=hint)
    return path


def kept_file(name: str) -> Path:
    """Path of a released file of segment-anything in torch's hub cache."""
    return Path(torch.hub.get_dir()) / "checkpoints" / SAM_FILES[name]


def sam_weight_files(path: Path) -> list[Path]:
    """Weight files and config of a SAM, for fingerprints."""
    return sorted([*path.glob("*.safetensors"), path / "config.json"]) if path.is_dir() else [path]


def _fetch(hub_id: str) -> Path:
    try:
        return fetch_model(hub_id)
    except CheckpointError as error:
        if hub_id != GATED:
            raise
        hint = f"accept its terms at https://huggingface.co/{GATED} and run `hf auth login`; {error.hint}"
        raise CheckpointError(error.message, hint=hint) from error


def _find_file(source: str) -> Path:
    """Path of a released file of segment-anything in torch's hub cache, downloaded if missing."""
    path, name = kept_file(source), SAM_FILES[source]
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = name.removesuffix(".pth").rpartition("_")[2]
        try:
            torch.hub.download_url_to_file(f"{SAM_URL}{name}", str(path), hash_prefix=digest, progress=False)
        except (OSError, RuntimeError) as error:
            hint = f"check the network, or download {SAM_URL}{name} and set base.sam to its path"
            raise CheckpointError(f"cannot download SAM {source} ({reason_of(error)})", hint=hint) from error
    return path
