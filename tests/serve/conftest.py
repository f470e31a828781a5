"""A server of the small test model, called in this process."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from helpers import noise_image
from uploads import LIMITS, encode

from cores_core.model.checkpoint import Checkpoint
from cores_core.predict import Predictor
from cores_core.serve.app import ServeOptions, build_app
from cores_core.serve.queue import AnswerQueue
from cores_core.serve.task_images import TaskImages


@pytest.fixture(scope="session")
def predictor(checkpoint: Checkpoint) -> Predictor:
    return Predictor(checkpoint)


@pytest.fixture
def queue(predictor: Predictor) -> Iterator[AnswerQueue]:
    queue = AnswerQueue(predictor, "random", LIMITS)
    yield queue
    assert queue.close(patience=60)


@pytest.fixture(scope="module")
def served_queue(predictor: Predictor) -> Iterator[AnswerQueue]:
    """The queue of `client`."""
    queue = AnswerQueue(predictor, "random", LIMITS)
    yield queue
    assert queue.close(patience=60)


@pytest.fixture(scope="module")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the page's uploads."""
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def client(served_queue: AnswerQueue, uploads: Path) -> Iterator[TestClient]:
    """Calls a server that all tests of a file share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(uploads))
        app = build_app(served_queue, ServeOptions("127.0.0.1", TaskImages(None, None, LIMITS.upload_bytes)))
        with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
            yield client


@pytest.fixture(scope="session")
def pixels() -> np.ndarray:
    """(40, 60, 3) of noise."""
    return noise_image(40, 60)


@pytest.fixture(scope="session")
def png(pixels: np.ndarray) -> bytes:
    return encode(pixels)
