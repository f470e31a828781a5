"""Recognise folders that peft saved, which hold an adapter without the model that it belongs to."""

from pathlib import Path

from cores_core.errors import CheckpointError
from cores_core.files import read_json
from cores_core.model.weights.tensors import weight_files

ADAPTER_CONFIG = "adapter_config.json"


def refuse_adapter(folder: Path) -> None:
    """Check that a folder is not an adapter of peft.

    Raises:
        CheckpointError: it is one, without weights of a model.
    """
    if not (folder / ADAPTER_CONFIG).is_file() or weight_files(folder):
        return
    if (folder.parent / "checkpoint.json").is_file():
        hint = f"give the checkpoint that it is a part of: {folder.parent}"
    else:
        hint = (
            f"merge it into {_find_base(folder)} with peft (merge_and_unload), save that with its processor, "
            "and train it: cores train --preset PRESET --mllm FOLDER"
        )
    raise CheckpointError(f"an adapter of peft, not a whole model: {folder}", hint=hint)


def _find_base(folder: Path) -> str:
    try:
        name = read_json(folder / ADAPTER_CONFIG)["base_model_name_or_path"]
    except (OSError, ValueError, LookupError, TypeError):
        name = None
    return f"its base model, {name}," if isinstance(name, str) and name else "its base model"
