"""huggingface_hub itself against a local server: what works works, and every fault is one clear error."""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from hub_server import HubServer, direct, serve_hub
from huggingface_hub import constants

from cores_core.errors import CheckpointError
from cores_core.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from cores_core.model.weights.hub import cached_model, cached_models, fetch_model, remove_model

NAME = "someone/model"
WEIGHTS = bytes(range(256)) * 400
NOT_ROOT = 65534
"""A user and a group without rights."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A server with one model, an empty cache, and huggingface_hub directed to both."""
    with serve_hub() as server:
        direct(monkeypatch, server.url, tmp_path / "cache")
        server.put(NAME, **{"config.json": b"{}", "part/model.safetensors": WEIGHTS, "picture.png": b"not for us"})
        yield server


def refused(name: str = NAME) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        fetch_model(name)
    assert name in caught.value.message
    return caught.value


def test_a_model_is_downloaded_whole_and_once(hub: HubServer) -> None:
    folder = fetch_model(NAME)
    assert (folder / "part/model.safetensors").read_bytes() == WEIGHTS
    assert not (folder / "picture.png").exists()
    downloads = [path for method, path, _ in hub.requests if method == "GET" and path.startswith("/cdn/")]
    assert fetch_model(NAME) == folder
    assert [path for method, path, _ in hub.requests if method == "GET" and path.startswith("/cdn/")] == downloads


def test_progress_is_shown_only_where_there_is_a_wait(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch_model(NAME)
    assert "Fetching" not in capsys.readouterr().err
    monkeypatch.setattr("cores_core.model.weights.hub.BAR_DELAY", 0)
    fetch_model(NAME)
    assert "Fetching" in capsys.readouterr().err


def test_a_cut_connection_goes_on_where_it_stopped(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    hub.repositories[NAME].cuts, hub.repositories[NAME].cut_after = 1, 50_000
    assert (fetch_model(NAME) / "part/model.safetensors").read_bytes() == WEIGHTS
    ranges = [asked for method, path, asked in hub.requests if method == "GET" and path.startswith("/cdn/")]
    assert ranges[-1] is not None
    assert 0 < int(ranges[-1].removeprefix("bytes=").split("-")[0]) <= 50_000


def test_a_connection_that_keeps_breaking_is_one_error(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    hub.repositories[NAME].cuts = 100
    error = refused()
    assert "connection to the hub broke" in error.message
    assert "is resumed" in str(error.hint)
    hub.repositories[NAME].cuts = 0
    assert (fetch_model(NAME) / "part/model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_model_names_the_page_to_visit(hub: HubServer, status: int) -> None:
    hub.repositories[NAME].gate = status
    error = refused()
    assert "access" in error.message
    assert f"{hub.url}/{NAME}" in str(error.hint)
    assert "hf auth login" in str(error.hint)


def test_a_gated_model_that_is_cached_is_used(hub: HubServer) -> None:
    folder = fetch_model(NAME)
    hub.repositories[NAME].gate = 403
    assert fetch_model(NAME) == folder


def test_a_missing_model_is_named(hub: HubServer) -> None:
    error = refused("someone/nothing")
    assert "not found on the hub" in error.message
    assert f"{hub.url}/someone/nothing" in str(error.hint)


def test_a_missing_file_is_named(hub: HubServer) -> None:
    hub.repositories[NAME].gone = frozenset({"part/model.safetensors"})
    assert "part/model.safetensors" in refused().message


def test_a_renamed_model_is_found(hub: HubServer) -> None:
    hub.put("someone/new", **{"config.json": b"{}"})
    hub.repositories[NAME].moved_to = "someone/new"
    assert (fetch_model(NAME) / "config.json").read_bytes() == b"{}"


def test_offline_the_cache_is_all_there_is(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch_model(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch_model(NAME) == folder
    assert "HF_HUB_OFFLINE" in refused("someone/nothing").message


def test_without_a_network_the_cache_is_used(hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = fetch_model(NAME)
    direct(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")
    assert fetch_model(NAME) == folder
    assert "cannot be reached" in refused("someone/nothing").message


def test_a_half_written_cache_is_completed(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch_model(NAME)
    (folder / "part/model.safetensors").resolve().unlink()
    (folder / "part/model.safetensors").unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    error = refused()
    assert "only a part" in error.message
    assert f"cores models download {NAME}" in str(error.hint)
    assert cached_model(NAME) is None
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert (fetch_model(NAME) / "part/model.safetensors").read_bytes() == WEIGHTS


def fetch_as_user(answers: Connection) -> None:
    """Fetch the model without the rights of root, and send its folder or the error."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOT_ROOT)
        os.setuid(NOT_ROOT)
    try:
        answers.send(fetch_model(NAME))
    except Exception as error:
        answers.send(error)


@pytest.mark.parametrize("state", ["empty", "complete", "complete, without a network", "without a file"])
def test_a_read_only_cache_gives_what_it_has_or_is_one_error(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """In a folder that others may enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder, "cache")
        direct(monkeypatch, hub.url, cache)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
        expected = fetch_model(NAME)
        if state == "empty":
            shutil.rmtree(cache)
            cache.mkdir()
        elif state == "without a file":
            (expected / "part/model.safetensors").resolve().unlink()
            (expected / "part/model.safetensors").unlink()
        elif "network" in state:
            direct(monkeypatch, "http://127.0.0.1:9", cache)
        Path(folder).chmod(0o755)
        for path in (cache, *cache.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o555 if path.is_dir() else 0o444)
        receiver, sender = Pipe(duplex=False)
        child = get_context("fork").Process(target=fetch_as_user, args=(sender,))
        child.start()
        child.join()
        answer = receiver.recv()
        for path in (cache, *cache.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)
    if state.startswith("complete"):
        assert answer == expected
    else:
        assert isinstance(answer, CheckpointError), answer
        assert NAME in answer.message
        assert "permission" in str(answer.hint)


def test_a_cache_that_is_a_file_is_one_error(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    assert "cache" in refused().message


def test_two_downloads_at_once_agree(hub: HubServer) -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(fetch_model(NAME))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert all((folder / "part/model.safetensors").read_bytes() == WEIGHTS for folder in found)


def fetch_at(barrier: Barrier) -> None:
    barrier.wait()
    fetch_model(NAME)


def test_two_processes_that_download_at_once_leave_one_copy(hub: HubServer, tmp_path: Path) -> None:
    context = get_context("fork")
    barrier = context.Barrier(2)
    processes = [context.Process(target=fetch_at, args=(barrier,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    (copy,) = (tmp_path / "cache").glob("models--*")
    (snapshot,) = (copy / "snapshots").iterdir()
    assert (snapshot / "part/model.safetensors").read_bytes() == WEIGHTS
    blobs = {path.read_bytes() for path in (copy / "blobs").iterdir()}
    assert blobs == {b"{}", WEIGHTS}
    assert len(list((copy / "blobs").iterdir())) == len(blobs)
    assert sum(method == "GET" and path.startswith("/cdn/") for method, path, _ in hub.requests) == 1


def test_a_removed_model_frees_its_bytes(hub: HubServer) -> None:
    fetch_model(NAME)
    assert cached_models()[NAME].revisions == (hub.repositories[NAME].commit,)
    assert remove_model(NAME) >= len(WEIGHTS)
    assert NAME not in cached_models()
    with pytest.raises(CheckpointError, match="not in the cache"):
        remove_model(NAME)


def test_a_checkpoint_is_loaded_by_name_from_the_server(hub: HubServer, checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "mine", checkpoint)
    hub.put("someone/mine", tmp_path / "mine")
    shutil.rmtree(tmp_path / "mine")
    loaded = load_checkpoint("someone/mine").model.state_dict()
    assert all(tensor.equal(loaded[name]) for name, tensor in checkpoint.model.state_dict().items())


def test_the_environment_directs_a_new_process(hub: HubServer, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "other"), "HF_HUB_OFFLINE": "0"}
    code = f"from cores_core.model.weights.hub import fetch_model; print(fetch_model({NAME!r}))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert (Path(done.stdout.strip()) / "part/model.safetensors").read_bytes() == WEIGHTS
