"""How an evaluation came about, and what its readers are warned of."""

import json
from pathlib import Path

import numpy as np
import pytest

from cores_core.data.prepare import prepare_partworld
from cores_core.data.store import Record, Region, save_store, store_path
from cores_core.evaluate.about import describe_evaluation
from cores_core.evaluate.run import EvalJob
from cores_core.masks import encode_rle
from cores_core.model.source import ModelSource
from cores_core.sample import Query


def test_results_say_how_they_came_about(partworld_root: Path) -> None:
    job = EvalJob("reasonpart", partworld_root, (("partworld", "test"),), "teacher_forced")
    about = describe_evaluation(ModelSource("tiny"), job, "fixed", "cores eval reasonpart")
    assert (about["benchmark"], about["protocol"], about["model"], about["seed"]) == (
        "reasonpart",
        "teacher_forced",
        "tiny",
        1,
    )
    assert len(about["data"]["partworld/test"]) == 64
    assert about["versions"].keys() >= {"cores", "torch", "transformers"}
    assert about["command"] == "cores eval reasonpart"
    assert about["warnings"] == []
    json.dumps(about)


@pytest.mark.parametrize(
    ("model", "contaminated"),
    [
        ("xinlai/LISA-7B-v1", True),
        ("xinlai/LISA-13B-llama2-v1", True),
        ("models/LISA-7B-v1-explanatory", True),
        ("xinlai/LISA-13B-llama2-v0", False),
        ("models/cores-7b", False),
    ],
)
@pytest.mark.parametrize("split", ["val", "test"])
def test_weights_that_were_trained_on_val_are_named(tmp_path: Path, model: str, contaminated: bool, split: str) -> None:
    _save_reasonseg(tmp_path, split, np.ones((2, 2), bool))
    warnings = _warn(ModelSource(model), EvalJob("reasonseg", tmp_path, (("reasonseg", split),), "teacher_forced"))
    assert any("contaminated" in warning for warning in warnings) == (contaminated and split == "val")


def test_images_without_a_target_are_counted(tmp_path: Path) -> None:
    _save_reasonseg(tmp_path, "test", np.ones((2, 2), bool), np.zeros((2, 2), bool))
    warnings = _warn(ModelSource("tiny"), EvalJob("reasonseg", tmp_path, (("reasonseg", "test"),), "teacher_forced"))
    assert any("1 images have no target" in warning for warning in warnings)


def test_a_store_that_is_older_than_its_annotations_is_named(tmp_path: Path) -> None:
    prepare_partworld(tmp_path, {"val": 1}, seed=0, workers=1, progress=lambda *_: None)
    job = EvalJob("reasonpart", tmp_path, (("partworld", "val"),), "teacher_forced")
    assert _warn(ModelSource("tiny"), job) == []
    path = tmp_path / "partworld/val.json"
    path.write_text(path.read_text() + " ")
    assert any("prepare it again" in warning for warning in _warn(ModelSource("tiny"), job))


def test_a_limit_is_said(partworld_root: Path) -> None:
    job = EvalJob("reasonpart", partworld_root, (("partworld", "test"),), "teacher_forced", limit=2)
    assert any("first 2 images" in warning for warning in _warn(ModelSource("tiny"), job))


def _save_reasonseg(root: Path, split: str, *masks: np.ndarray) -> None:
    records = [
        Record(f"{i}.png", (2, 2), (Region("", "object", encode_rle(m), None, (Query("?"),), ""),))
        for i, m in enumerate(masks)
    ]
    save_store(records, store_path(root, "reasonseg", split))


def _warn(source: ModelSource, job: EvalJob) -> list[str]:
    warnings: list[str] = describe_evaluation(source, job, "fixed", "cores")["warnings"]
    return warnings
