"""Data and base weights that a training needs and that are not here, listed at once, each with how to get it."""

from dataclasses import dataclass
from pathlib import Path

from cores_core.config import BaseConfig, Config
from cores_core.data.parquet.known import HUB
from cores_core.data.registry import CUSTOM
from cores_core.data.sources.custom import find_splits
from cores_core.data.store import store_path
from cores_core.data.survey import find_state, how_to_get
from cores_core.errors import MissingDataError
from cores_core.model.sams.table import HUB_IDS, SAM_FILES, kept_file
from cores_core.model.weights.delta import delta_command
from cores_core.model.weights.hub import cached_model, is_hub_id


@dataclass(frozen=True)
class Need:
    """Something that is not here.

    Attributes:
        what: weights or a data set, by name.
        steps: how to get it, in order; commands where possible.
        is_fetched: whether a training downloads it by itself at its start.
    """

    what: str
    steps: tuple[str, ...]
    is_fetched: bool = False


def check_needs(config: Config, data_root: Path, resume: bool) -> None:
    """Raise one error that lists all that is missing, unless a training fetches all of it by itself.

    Args:
        resume: whether a run is continued, which does not begin with base weights.

    Raises:
        MissingDataError: something must be got first.
    """
    needs = find_needs(config, data_root, resume)
    if all(need.is_fetched for need in needs):
        return
    lines = [f"missing for this training ({len(needs)}):"]
    for need in needs:
        lines += [f"  {need.what}", *(f"      {step}" for step in need.steps)]
    raise MissingDataError(
        lines[0], details=lines[1:], hint="run these commands, then train again; `--plan` needs none of them"
    )


def find_needs(config: Config, data_root: Path, resume: bool = False) -> list[Need]:
    """Base weights and data sets that a training needs and that are not here."""
    is_new = not resume and config.train.start_from is None
    weights = _find_weights(config.base) if is_new else []
    return [*weights, *(_need_data(name, data_root) for name in config.data if not _is_prepared(name, data_root))]


def _find_weights(base: BaseConfig) -> list[Need]:
    needs = []
    if base.mllm is not None and not Path(base.mllm).is_dir():
        command = delta_command(base.mllm)
        if command is not None and not is_hub_id(base.mllm):
            steps = (command, "or name its folder with --mllm")
            needs.append(Need(f"multimodal LLM {base.mllm}, published as a difference from LLaMA", steps))
        elif not is_hub_id(base.mllm):
            needs.append(
                Need(f"multimodal LLM {base.mllm}, no such folder", ("name its folder or hub id with --mllm",))
            )
        elif cached_model(base.mllm) is None:
            needs.append(_of_hub("multimodal LLM", base.mllm))
    sam = HUB_IDS.get(base.sam or "", base.sam)
    if sam in SAM_FILES:
        if not kept_file(sam).is_file():
            needs.append(Need(f"SAM {sam}", ("downloaded when the training starts",), is_fetched=True))
    elif sam is not None and not Path(sam).exists():
        if not is_hub_id(sam):
            needs.append(Need(f"SAM {sam}, no such file or folder", ("name a file, a folder or a hub id with --sam",)))
        elif cached_model(sam) is None:
            needs.append(_of_hub("SAM", sam))
    return needs


def _of_hub(kind: str, name: str) -> Need:
    steps = (f"downloaded when the training starts, or before: hf download {name}",)
    return Need(f"{kind} {name}", steps, is_fetched=True)


def _is_prepared(name: str, data_root: Path) -> bool:
    return store_path(data_root, name, "train").is_file()


def _need_data(name: str, data_root: Path) -> Need:
    what = f"data set {name}"
    if name.startswith(CUSTOM) and not find_splits(data_root / name):
        place = f"put your own data at {data_root / name}/train.jsonl (docs/own_data.md)"
        return Need(what, (place, f"cores prepare-data {name} --data-root {data_root}"))
    if name.startswith(HUB):
        return Need(what, (f"cores prepare-data {name} --data-root {data_root}",))
    return Need(what, how_to_get(find_state(name, data_root), data_root))
