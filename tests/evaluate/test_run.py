"""Asking a model all that a benchmark asks: one row a query; alone, shared or cut off, the scores are the same."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cores_core.data.store import Store
from cores_core.errors import DataError
from cores_core.evaluate.benchmarks import BENCHMARKS
from cores_core.evaluate.items import Item, load_items
from cores_core.evaluate.results import Evaluation, load_evaluation, save_evaluation
from cores_core.evaluate.run import EvalJob, evaluate, list_all_targets, run_evaluation
from cores_core.evaluate.targets import list_targets
from cores_core.journal import Journal
from cores_core.masks import decode_rle
from cores_core.metrics import measure_overlap
from cores_core.model.checkpoint import Checkpoint, save_checkpoint
from cores_core.model.source import ModelSource


@pytest.fixture(scope="module")
def job(partworld_root: Path) -> EvalJob:
    return EvalJob("reasonpart", partworld_root, (("partworld", "val"), ("partworld", "test")), "teacher_forced")


@pytest.fixture(scope="module")
def source(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    folder = tmp_path_factory.mktemp("model") / "checkpoint"
    save_checkpoint(folder, checkpoint)
    return ModelSource(str(folder), device="cpu")


@pytest.fixture(scope="module")
def items(source: ModelSource, job: EvalJob, tmp_path_factory: pytest.TempPathFactory) -> tuple[Item, ...]:
    return run_evaluation(source, job, tmp_path_factory.mktemp("alone"), ["cpu"], lambda _: None)


def test_every_part_is_asked_about_once_with_its_first_query(items: tuple[Item, ...], job: EvalJob) -> None:
    expected = [
        (record.image, region.category, region.queries[0].text)
        for store in job.stores()
        for record in store
        for region in record.regions
        if region.kind == "part"
    ]
    assert [(item.image, item.category, item.question) for item in items] == expected
    assert len({item.id for item in items}) == len(items)


def test_a_row_scores_the_mask_it_holds(items: tuple[Item, ...]) -> None:
    for item in items:
        target = decode_rle(item.target)
        assert item.overlap == measure_overlap(decode_rle(item.mask), target)
        assert item.coarse_overlap == measure_overlap(decode_rle(item.coarse_mask), target)


def test_referring_sets_are_asked_every_query_and_part_sets_their_phrase(job: EvalJob) -> None:
    store = job.stores()[0]
    everything = list_targets(store, 0, replace(BENCHMARKS["referring"], kinds=("part",)))
    phrases = list_targets(store, 0, BENCHMARKS["parts"])
    parts = [region for region in store[0].regions if region.kind == "part"]
    assert len(everything) == sum(len(region.queries) for region in parts)
    assert len(phrases) == len(parts)
    assert not any(target.is_sentence for target in phrases)


@pytest.mark.parametrize("read_ahead", [1, 8])
def test_two_processes_and_any_read_ahead_give_the_same_rows(
    items: tuple[Item, ...], source: ModelSource, job: EvalJob, tmp_path: Path, read_ahead: int
) -> None:
    shared = run_evaluation(source, replace(job, read_ahead=read_ahead), tmp_path, ["cpu", "cpu"], lambda _: None)
    assert [replace(item, seconds=0) for item in shared] == [replace(item, seconds=0) for item in items]
    assert Evaluation(shared, {}).to_json() == Evaluation(items, {}).to_json()


def test_a_call_that_was_cut_off_goes_on_and_asks_nothing_twice(
    items: tuple[Item, ...], source: ModelSource, job: EvalJob, tmp_path: Path
) -> None:
    class EnoughError(Exception):
        pass

    answered = []

    def stop_at(count: int) -> None:
        answered.append(count)
        if len(answered) == 3:
            raise EnoughError

    with pytest.raises(EnoughError):
        run_evaluation(source, job, tmp_path, ["cpu"], stop_at)
    rows = sorted((tmp_path / "unfinished").glob("*.jsonl"))
    with rows[0].open("ab") as file:
        file.write(b'{"id": "partworld/val/2.0.0", "ima')  # a row that was cut off
    done, told = len(list(Journal(tmp_path).read())), []
    assert 0 < done < len(items)
    again = run_evaluation(source, job, tmp_path, ["cpu"], told.append)
    assert told[0] == done
    assert [replace(item, seconds=0) for item in again] == [replace(item, seconds=0) for item in items]


def test_killed_processes_leave_rows_that_are_whole(
    items: tuple[Item, ...], source: ModelSource, job: EvalJob, tmp_path: Path
) -> None:
    code = (
        "from pathlib import Path\n"
        "from cores_core.evaluate.run import EvalJob, run_evaluation\n"
        "from cores_core.model.source import ModelSource\n"
        f"source, folder = ModelSource({source.name!r}, device='cpu'), Path({str(tmp_path)!r})\n"
        f"job = EvalJob('reasonpart', Path({str(job.data_root)!r}), {job.data!r}, 'teacher_forced')\n"
        "run_evaluation(source, job, folder, ['cpu'], lambda _: None)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    deadline = time.monotonic() + 120
    while not Journal(tmp_path).count() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    again = run_evaluation(source, job, tmp_path, ["cpu"], lambda _: None)
    assert [replace(item, seconds=0) for item in again] == [replace(item, seconds=0) for item in items]


def test_another_evaluation_does_not_go_on_with_these_rows(source: ModelSource, job: EvalJob, tmp_path: Path) -> None:
    Journal(tmp_path).begin({"model": "another"})
    with pytest.raises(DataError, match="another evaluation"):
        run_evaluation(source, job, tmp_path, ["cpu"], lambda _: None)


def test_an_example_of_its_own_changes_what_a_question_is_asked_with(checkpoint: Checkpoint, job: EvalJob) -> None:
    small = replace(job, limit=1, data=job.data[:1])
    plain = evaluate(checkpoint, small)
    blank = evaluate(checkpoint, replace(small, examples={plain.items[0].id: ""}))
    changed = [
        a.mask != b.mask or a.coarse_mask != b.coarse_mask for a, b in zip(plain.items, blank.items, strict=True)
    ]
    assert changed[0]
    assert not any(changed[1:])


def test_a_limit_counts_images_of_each_part(checkpoint: Checkpoint, job: EvalJob) -> None:
    done: list[int] = []
    result = evaluate(checkpoint, replace(job, limit=1), done.append)
    assert {item.image for item in result.items} == {store[0].image for store in job.stores()}
    assert sum(done) == len(result.items) == len(list_all_targets(replace(job, limit=1)))


def test_further_questions_are_about_what_an_image_does_not_show(checkpoint: Checkpoint, job: EvalJob) -> None:
    asked = replace(job, no_target=2)
    plain, more = list_all_targets(job), list_all_targets(asked)
    assert [target for target in more if ".absent." not in target.id] == plain
    absent = [target for target in more if ".absent." in target.id]
    assert 0 < len(absent) <= 2 * len({target.image for target in plain})
    assert not any(decode_rle(target.target).any() for target in absent)
    assert list_all_targets(asked) == more
    scores = Evaluation(evaluate(checkpoint, replace(asked, limit=2)).items, {}).scores
    assert scores.values["n_acc"] is not None


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(checkpoint: Checkpoint, job: EvalJob, training: bool) -> None:
    checkpoint.model.train(training)
    try:
        evaluate(checkpoint, replace(job, limit=1))
        assert checkpoint.model.training == training
    finally:
        checkpoint.model.eval()


def test_a_store_of_other_images_is_an_error(checkpoint: Checkpoint, job: EvalJob, tmp_path: Path) -> None:
    from PIL import Image

    prepared = tmp_path / "prepared/partworld"
    prepared.mkdir(parents=True)
    (prepared / "val.arrow").write_bytes((job.data_root / "prepared/partworld/val.arrow").read_bytes())
    image = tmp_path / Store(tmp_path, "partworld", "val")[0].image
    image.parent.mkdir(parents=True)
    Image.new("RGB", (9, 7)).save(image, format="PNG")
    with pytest.raises(DataError, match=r"\(7, 9\)"):
        evaluate(checkpoint, EvalJob("reasonpart", tmp_path, (("partworld", "val"),), "teacher_forced", limit=1))


@pytest.mark.parametrize(("old", "today"), [("given", "teacher_forced"), ("generated", "generate")])
def test_results_with_an_old_protocol_name_are_read(old: str, today: str, tmp_path: Path) -> None:
    save_evaluation(Evaluation((), {"protocol": old}), tmp_path)
    assert load_evaluation(tmp_path).about["protocol"] == today


def test_what_is_saved_is_read_back(items: tuple[Item, ...], tmp_path: Path) -> None:
    evaluation = Evaluation(items, {"protocol": "teacher_forced", "seed": 0})
    save_evaluation(evaluation, tmp_path / "scores")
    saved = json.loads((tmp_path / "scores/results.json").read_text())
    assert saved == json.loads(json.dumps(evaluation.to_json()))
    assert saved["giou"] == pytest.approx(np.mean([item.overlap.iou for item in items]))
    assert saved["coarse_giou"] == pytest.approx(np.mean([item.coarse_overlap.iou for item in items]))
    assert saved["intervals"]["giou"]["low"] <= saved["giou"] <= saved["intervals"]["giou"]["high"]
    assert set(saved["parts"]) == {"partworld/val", "partworld/test"}
    assert load_items(tmp_path / "scores") == list(items)
    assert load_evaluation(tmp_path / "scores") == evaluation
    assert sorted(path.name for path in (tmp_path / "scores").iterdir()) == ["items.jsonl", "results.json"]


def test_nothing_to_score_is_null_and_not_an_error(checkpoint: Checkpoint, job: EvalJob) -> None:
    tree = evaluate(checkpoint, replace(job, limit=0)).to_json()
    assert tree["giou"] is None
    assert tree["count"] == 0
    json.dumps(tree, allow_nan=False)


def test_damaged_rows_are_named(items: tuple[Item, ...], tmp_path: Path) -> None:
    save_evaluation(Evaluation(items, {}), tmp_path)
    (tmp_path / "items.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(DataError, match=r"items\.jsonl"):
        load_evaluation(tmp_path)
