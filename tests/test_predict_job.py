"""A prediction job: rows, files and formats; damaged images; interruption and resuming; several processes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from helpers import noise_image
from interruptions import StopError, stop_after
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from cores_core.errors import CoresError, DataError
from cores_core.inputs import Request, list_requests
from cores_core.instances import MaskCleaning
from cores_core.masks import decode_rle
from cores_core.model.checkpoint import Checkpoint, save_checkpoint
from cores_core.model.source import ModelSource
from cores_core.predict import Predictor
from cores_core.predict_job import PredictJob, run_job
from cores_core.sample import Query

QUERIES = (Query("Which part steers the fish?"), Query("the tail", is_sentence=False))


@pytest.fixture(scope="module")
def source(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    folder = tmp_path_factory.mktemp("model") / "model"
    save_checkpoint(folder, checkpoint)
    return ModelSource(str(folder), device="cpu")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for number in range(4):
        path = folder / ("sub" if number % 2 else "") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise_image(24 + number, 32, seed=number)).save(path)
    return folder


@pytest.fixture
def job(source: ModelSource, tmp_path: Path) -> PredictJob:
    return PredictJob(source, tmp_path / "out", protocol="teacher_forced")


def requests_of(images: Path) -> list[Request]:
    return list(list_requests([str(images)], QUERIES))


def rows_of(job: PredictJob, name: str = "predictions") -> list[dict]:
    return [json.loads(line) for line in (job.output / f"{name}.jsonl").read_text().splitlines()]


def test_rows_are_those_of_the_predictor(job: PredictJob, images: Path) -> None:
    requests = requests_of(images)
    outcome = run_job(job, requests, ["cpu"], resume=False, progress=lambda _: None)
    assert (outcome.questions, outcome.images, dict(outcome.skipped)) == (8, 4, {})
    rows = rows_of(job)
    assert [row["image"] for row in rows] == [request.image for request in requests for _ in QUERIES]
    predictor = Predictor(job.source.load())
    for request in requests:
        own = [row for row in rows if row["image"] == request.image]
        for row, prediction in zip(own, predictor.predict_many(request.path, QUERIES, "teacher_forced"), strict=True):
            assert np.array_equal(decode_rle(row["mask"]), prediction.mask)
            assert (row["question"], row["score"]) == (prediction.question, round(prediction.score, 4))
    assert (job.output / "sub" / "1.2.mask.png").is_file()
    assert not (job.output / "unfinished").exists()


def test_rows_follow_the_published_schema(job: PredictJob, images: Path) -> None:
    run_job(job, requests_of(images), ["cpu"], resume=False, progress=lambda _: None)
    schema = json.loads((Path(__file__).parents[1] / "docs" / "prediction.schema.json").read_text())
    for row in rows_of(job):
        jsonschema.validate(row, schema)
        assert set(row) == set(schema["properties"]) - {"instances"}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**rows_of(job)[0], "score": 2}, schema)


def test_a_damaged_image_is_skipped_and_named(job: PredictJob, images: Path) -> None:
    (images / "broken.png").write_bytes(b"no image")
    outcome = run_job(job, requests_of(images), ["cpu"], resume=False, progress=lambda _: None)
    assert outcome.images == 4
    (row,) = rows_of(job, "skipped")
    assert row["image"].endswith("broken.png") and row["reason"]
    assert dict(outcome.skipped) == {row["image"]: row["reason"]}


def test_instances_are_objects_of_their_own_in_every_format(job: PredictJob, images: Path) -> None:
    divided = replace(job, formats=("coco",), cleaning=MaskCleaning(instances=True, min_area=2))
    run_job(divided, requests_of(images), ["cpu"], resume=False, progress=lambda _: None)
    rows = rows_of(job)
    assert sum(len(row["instances"]) for row in rows) == len(COCO(str(job.output / "coco.json")).anns)
    for row in rows:
        parts = [decode_rle(instance["mask"]) for instance in row["instances"]]
        assert np.array_equal(np.any(parts, axis=0) if parts else decode_rle(row["mask"]), decode_rle(row["mask"]))


def test_an_empty_mask_without_instances_stays_an_annotation(job: PredictJob, images: Path) -> None:
    cleaning = MaskCleaning(instances=True, min_score=1.0)  # no mask is as certain
    run_job(replace(job, formats=("coco",), cleaning=cleaning), requests_of(images), ["cpu"], False, lambda _: None)
    found = COCO(str(job.output / "coco.json"))
    assert [annotation["area"] for annotation in found.anns.values()] == [0] * 8
    assert sorted(category["name"] for category in found.cats.values()) == sorted(query.text for query in QUERIES)


def test_a_folder_that_is_removed_meanwhile_is_one_error(job: PredictJob, images: Path) -> None:
    with pytest.raises(DataError, match="was removed"):
        run_job(job, requests_of(images), ["cpu"], False, lambda rows: shutil.rmtree(job.output) if rows else None)


def test_an_interrupted_job_continues_and_repeats_nothing(job: PredictJob, images: Path, tmp_path: Path) -> None:
    requests = requests_of(images)
    calm = replace(job, output=tmp_path / "calm")
    run_job(calm, requests, ["cpu"], resume=False, progress=lambda _: None)
    with pytest.raises(StopError):
        run_job(job, requests, ["cpu"], resume=False, progress=stop_after(3))
    with pytest.raises(DataError, match="interrupted job") as caught:
        run_job(job, requests, ["cpu"], resume=False, progress=lambda _: None)
    assert "--resume" in str(caught.value.hint)
    news: list[int] = []
    run_job(job, requests, ["cpu"], resume=True, progress=news.append)
    assert news[0] == 4  # two images were done
    assert sum(news) == 8
    assert _stable(rows_of(job)) == _stable(rows_of(calm))


def test_an_interrupted_job_is_not_continued_by_another_model(job: PredictJob, images: Path) -> None:
    with pytest.raises(StopError):
        run_job(job, requests_of(images), ["cpu"], resume=False, progress=stop_after(2))
    with pytest.raises(DataError, match="another"):
        run_job(replace(job, protocol="generate"), requests_of(images), ["cpu"], True, lambda _: None)


def test_two_processes_give_the_rows_of_one(job: PredictJob, images: Path, tmp_path: Path) -> None:
    shared = replace(job, output=tmp_path / "shared")
    for one, devices in ((job, ["cpu"]), (shared, ["cpu", "cpu"])):
        run_job(one, requests_of(images), devices, resume=False, progress=lambda _: None)
    assert _stable(rows_of(shared)) == _stable(rows_of(job))


def test_a_job_that_fails_before_its_first_row_need_not_be_resumed(job: PredictJob, images: Path) -> None:
    absent = replace(job, source=ModelSource("absent", device="cpu"))
    with pytest.raises(CoresError, match="absent"):
        run_job(absent, requests_of(images), ["cpu"], resume=False, progress=lambda _: None)
    assert run_job(job, requests_of(images), ["cpu"], resume=False, progress=lambda _: None).images == 4


def test_a_worker_that_does_not_see_the_output_folder_refuses_files_of_images(job: PredictJob, images: Path) -> None:
    def start_elsewhere(start, items, devices, journal, progress) -> None:
        shutil.rmtree(journal.folder / "unfinished")
        start(devices[0])

    with pytest.raises(DataError, match="output folder") as caught:
        run_job(job, requests_of(images), ["cpu"], False, lambda _: None, start_elsewhere)
    assert "the formats files" in str(caught.value.hint)
    collected = replace(job, formats=("jsonl", "coco"))
    assert run_job(collected, requests_of(images), ["cpu"], False, lambda _: None, start_elsewhere).images == 0


def test_all_formats_hold_the_same_masks(job: PredictJob, images: Path) -> None:
    formats = ("jsonl", "coco", "labelme", "label-studio", "yolo", "palette", "cutout")
    run_job(replace(job, formats=formats), requests_of(images), ["cpu"], resume=False, progress=lambda _: None)
    rows = rows_of(job)
    coco = COCO(str(job.output / "coco.json"))
    assert len(coco.anns) == len(rows)
    for row, annotation in zip(rows, coco.anns.values(), strict=True):
        assert np.array_equal(coco_mask.decode(annotation["segmentation"]), decode_rle(row["mask"]))
    assert not list(job.output.rglob("*.mask.png"))
    assert len(list((job.output / "labelme").rglob("*.json"))) == 4
    assert len(json.loads((job.output / "label-studio.json").read_text())) == 4
    assert (job.output / "yolo" / "data.yaml").is_file()
    assert (job.output / "yolo" / "labels" / "sub" / "1.txt").is_file()
    cutout = np.asarray(Image.open(job.output / "0.1.cutout.png"))
    assert np.array_equal(cutout[..., 3] == 255, decode_rle(rows[0]["mask"]))


def _stable(rows: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]
