"""Jobs on a Ray cluster of two CPU workers: the rows of local processes, resuming, damaged images, workers that die."""

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import noise_image
from interruptions import StopError, stop_after
from PIL import Image

from cores_core.errors import CheckpointError, ConfigError, CoresError
from cores_core.inputs import Request, list_requests
from cores_core.journal import Journal, Row
from cores_core.model.checkpoint import Checkpoint, save_checkpoint
from cores_core.model.source import ModelSource
from cores_core.pool import Executor, share_work
from cores_core.predict_job import PredictJob, run_job
from cores_core.ray_cluster import RayCluster
from cores_core.sample import Query

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'cores[ray]'")

QUERIES = (Query("Which part steers the fish?"), Query("the tail", is_sentence=False))
TWO = ("cpu", "cpu")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """A cluster of two CPUs, which the jobs of this file use because the process is connected to it."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init("local", num_cpus=2, num_gpus=0, object_store_memory=100 << 20, include_dashboard=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def source(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    folder = tmp_path_factory.mktemp("model") / "model"
    save_checkpoint(folder, checkpoint)
    return ModelSource(str(folder), device="cpu")


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> list[Request]:
    """Six images in two folders, of which one is damaged, two with a URL."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(6):
        path = folder / ("sub" if number % 2 else "") / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(noise_image(24 + number, 32, seed=number)).save(path)
    (folder / "sub" / "3.png").write_bytes(b"no image")
    names = [f"{folder}/0.png", f"file://{folder}/sub/1.png", *(f"{folder}/{name}.png" for name in ("2", "sub/3", "4"))]
    lines = [json.dumps({"image": name}) for name in (*names, f"file://{folder}/sub/5.png")]
    (folder / "list.jsonl").write_text("\n".join(lines))
    return list(list_requests([str(folder / "list.jsonl")], QUERIES))


def job_in(output: Path, source: ModelSource) -> PredictJob:
    return PredictJob(source, output, "teacher_forced", ("files", "cutout", "labelme", "coco"))


@pytest.fixture
def job(source: ModelSource, tmp_path: Path) -> PredictJob:
    return job_in(tmp_path / "out", source)


def run(job: PredictJob, requests: Sequence[Request], execute: Executor, resume: bool = False) -> int:
    """Run a job with two workers; returns the number of questions of which progress was reported."""
    news: list[int] = []
    run_job(job, requests, TWO if execute != share_work else ["cpu"], resume, news.append, execute)
    return sum(news)


def contents(folder: Path) -> dict[str, object]:
    """All files: rows without their times, in order, and the bytes of pictures."""
    return {
        path.relative_to(folder).as_posix(): _without_times(path.read_text())
        if path.suffix in (".json", ".jsonl")
        else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _without_times(text: str) -> list[Row]:
    rows = [json.loads(line) for line in text.splitlines()] if text.startswith('{"') else [json.loads(text)]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def local(source: ModelSource, requests: list[Request], tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """All that the same job leaves behind when it runs in this process."""
    folder = tmp_path_factory.mktemp("local") / "out"
    run(job_in(folder, source), requests, share_work)
    return contents(folder)


def test_all_files_equal_those_of_the_local_job(job, requests, local) -> None:
    assert run(job, requests, RayCluster()) == 11  # two of each image, one reason
    assert contents(job.output) == local
    (skipped,) = [json.loads(line) for line in (job.output / "skipped.jsonl").read_text().splitlines()]
    assert skipped["image"].endswith("3.png")
    assert len(list(job.output.rglob("*.mask.png"))) == 10


def test_a_cluster_continues_a_local_job(job, requests, local) -> None:
    """The opposite is tested with an interrupted command in cli/test_ray_command.py."""
    with pytest.raises(StopError):
        run_job(job, requests, ["cpu"], False, stop_after(3), share_work)
    assert Journal(job.output).count() == 4
    assert run(job, requests, RayCluster(), resume=True) == 11
    assert contents(job.output) == local


def test_an_error_of_a_worker_is_that_of_the_local_job(job, requests, tmp_path) -> None:
    absent = replace(job, source=ModelSource(str(tmp_path / "absent"), device="cpu"))
    errors = []
    for execute in (share_work, RayCluster()):
        with pytest.raises(CheckpointError) as caught:
            run_job(replace(absent, output=tmp_path / f"out-{len(errors)}"), requests, ["cpu"], False, print, execute)
        errors.append((caught.value.message, caught.value.hint))
    assert errors[0] == errors[1]


def test_gpus_that_the_cluster_does_not_have_are_one_error(job, requests) -> None:
    with pytest.raises(ConfigError, match="no GPU"):
        run_job(job, requests, ["cuda:0"], False, lambda _: None, RayCluster())


def start_dying(marker: Path, times: int) -> Callable[[str], Callable[[Sequence[int]], Iterator[list[Row]]]]:
    """A worker that dies at item 3, the first times that it comes. Nested, so that it is sent by value."""

    def start(_: str) -> Callable[[Sequence[int]], Iterator[list[Row]]]:
        def work(items: Sequence[int]) -> Iterator[list[Row]]:
            for item in items:
                if item == 3 and len(list(marker.glob("*"))) < times:
                    (marker / str(os.getpid())).touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                yield [{"item": item}]

        return work

    return start


def test_a_worker_that_dies_is_started_again(tmp_path) -> None:
    journal, marker = Journal(tmp_path), tmp_path / "deaths"
    marker.mkdir()
    journal.begin({})
    RayCluster()(start_dying(marker, times=1), range(8), TWO, journal, lambda _: None)
    assert sorted(row["item"] for row in journal.read()) == list(range(8))
    assert len(list(marker.iterdir())) == 1


def test_an_item_at_which_workers_always_die_ends_the_job(tmp_path) -> None:
    journal, marker = Journal(tmp_path), tmp_path / "deaths"
    marker.mkdir()
    journal.begin({})
    with pytest.raises(CoresError, match="worker failed") as caught:
        RayCluster()(start_dying(marker, times=99), range(4), TWO, journal, lambda _: None)
    assert "--resume" in str(caught.value.hint)
    assert 3 not in [row["item"] for row in journal.read()]
