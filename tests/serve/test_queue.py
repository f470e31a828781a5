"""The queue: an image is encoded once, few are kept, a full queue refuses, a closed one cancels."""

import threading
from concurrent.futures import CancelledError

import numpy as np
import pytest
from helpers import noise_image
from uploads import LIMITS, encode

from cores_core.errors import ConfigError, DataError
from cores_core.sample import Query
from cores_core.serve.limits import QueueFullError, ServeLimits, StoppingError
from cores_core.serve.queue import AnswerQueue, Upload

QUERIES = [Query("Which part steers the fish?")]


def upload(seed: int) -> Upload:
    return Upload(f"{seed}.png", encode(noise_image(40, 60, seed=seed)))


@pytest.fixture
def encoded(checkpoint, monkeypatch):
    """Counts the images that SAM's encoder has seen."""
    seen: list[int] = []
    handle = checkpoint.model.segmenter.image_encoder.register_forward_hook(lambda *_: seen.append(1))
    yield seen
    handle.remove()


@pytest.fixture
def held(checkpoint):
    """Holds the model at the start of its next pass, until the event is set."""
    begun, release = threading.Event(), threading.Event()

    def hold(*_: object) -> None:
        begun.set()
        assert release.wait(60)

    handle = checkpoint.model.segmenter.image_encoder.register_forward_pre_hook(hold)
    yield begun, release
    release.set()
    handle.remove()


def test_a_further_question_encodes_nothing(queue, encoded):
    replies = [queue.submit(upload(0), QUERIES, "teacher_forced").result() for _ in range(3)]
    assert len(encoded) == 1
    assert [reply.was_kept for reply in replies] == [False, True, True]
    assert replies[0].rows[0]["mask"] == replies[2].rows[0]["mask"]


def test_the_last_images_are_kept(queue, encoded):
    for seed in (0, 1, 0, 2, 0):  # two are kept: 2 replaces 1
        queue.submit(upload(seed), QUERIES, "teacher_forced").result()
    assert len(encoded) == 3
    queue.submit(upload(1), QUERIES, "teacher_forced").result()
    assert len(encoded) == 4


def test_kept_images_are_bounded_by_their_memory(predictor, encoded):
    queue = AnswerQueue(predictor, "random", ServeLimits(kept_bytes=200_000))
    for seed in (0, 1, 0):
        queue.submit(upload(seed), QUERIES, "teacher_forced").result()
    assert len(encoded) == 3
    assert queue.close(60)


def test_an_answer_does_not_depend_on_other_requests(queue, predictor):
    futures = [queue.submit(upload(seed), QUERIES, "teacher_forced") for seed in (0, 1, 0, 1)]
    for seed, future in zip((0, 1, 0, 1), futures, strict=True):
        expected = predictor.predict(noise_image(40, 60, seed=seed), QUERIES[0], "teacher_forced")
        assert future.result().rows[0]["mask"] == expected.to_json()["mask"]


def test_a_full_queue_refuses_and_recovers(client, served_queue, held, png):
    begun, release = held
    queue = served_queue
    futures = [queue.submit(upload(seed), QUERIES, "teacher_forced") for seed in range(LIMITS.waiting)]
    assert begun.wait(60)
    with pytest.raises(QueueFullError):
        queue.submit(upload(0), QUERIES)
    response = client.post("/predict", files={"image": ("a.png", png)}, data={"question": "Where?"})
    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"
    assert client.get("/health").json()["waiting"] == LIMITS.waiting
    release.set()
    assert all(future.result() for future in futures)
    assert queue.submit(upload(0), QUERIES, "teacher_forced").result().rows


def test_a_bad_request_leaves_the_queue_working(queue):
    bad = queue.submit(Upload("a.png", b"nothing"), QUERIES)
    with pytest.raises(DataError, match="not an image"):
        bad.result()
    assert queue.waiting == 0
    assert queue.submit(upload(0), QUERIES, "teacher_forced").result().rows


def test_a_closed_queue_cancels_what_waits_and_takes_no_more(predictor, held):
    queue = AnswerQueue(predictor, "random", LIMITS)
    begun, release = held
    first, second = (queue.submit(upload(seed), QUERIES, "teacher_forced") for seed in (0, 1))
    assert begun.wait(60)
    assert not queue.close(patience=0.05)
    with pytest.raises(CancelledError):
        second.result()
    with pytest.raises(StoppingError):
        queue.submit(upload(0), QUERIES)
    release.set()
    assert first.result().rows
    assert queue.close(patience=60)


@pytest.mark.parametrize("name", ["waiting", "pixels"])
def test_a_limit_of_nothing_is_refused(name):
    with pytest.raises(ConfigError, match=name):
        ServeLimits(**{name: 0})


@pytest.mark.parametrize(
    ("name", "stem"), [("a/b.png", "b"), ("c:\\d\\e.jpg", "e"), ("", "image"), ("..", ".."), ("f", "f")]
)
def test_the_stem_of_an_upload(name, stem):
    assert Upload(name, b"").stem == stem


def test_masks_are_of_the_image(queue):
    reply = queue.submit(upload(3), QUERIES, "teacher_forced").result()
    assert np.array_equal(reply.image, noise_image(40, 60, seed=3))
    assert reply.rows[0]["mask"]["size"] == [40, 60]
