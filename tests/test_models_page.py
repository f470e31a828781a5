"""docs/models.md, which `benchmarks/models_table.py` writes, speaks of every model whose sizes ship."""

from pathlib import Path

from cores_core.model.families.published import published_models
from cores_core.model.sams.table import HUB_IDS, SAM_FILES
from cores_core.model.weights.stand_in import LLAVA_SIZES
from cores_core.settings import list_presets, load_config

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "models.md").read_text(encoding="utf-8")


def test_every_model_with_published_sizes_has_a_line() -> None:
    rows = {line.split("|")[1].strip() for line in PAGE.splitlines() if line.startswith("|")}
    names = {*published_models(), *LLAVA_SIZES, *(f"`{name}`" for name in (*SAM_FILES, *HUB_IDS))}
    assert names <= rows


def test_every_preset_with_a_base_is_named() -> None:
    based = [name for name in list_presets() if load_config(name).base.mllm is not None]
    assert [name for name in based if f"`{name}`" not in PAGE] == []
