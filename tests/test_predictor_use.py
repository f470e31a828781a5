"""A predictor in threads, forked and pickled, with arrays of any layout, and in long-lived processes."""

import multiprocessing
import pickle
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from helpers import noise_image
from PIL import Image

from cores_core.choices import Protocol
from cores_core.errors import CheckpointError, DataError
from cores_core.model.checkpoint import Checkpoint, save_checkpoint
from cores_core.predict import ImageInput, Predictor

IMAGES = [noise_image(40, 60, seed=seed) for seed in range(8)]
QUESTION = "Which part steers the fish?"


@pytest.fixture(scope="module")
def predictor(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    folder = tmp_path_factory.mktemp("use") / "model"
    save_checkpoint(folder, checkpoint)
    return Predictor.from_checkpoint(folder, device="cpu")


@pytest.fixture(scope="module")
def expected(predictor: Predictor) -> list[np.ndarray]:
    return [answer(predictor, image) for image in IMAGES]


def answer(predictor: Predictor, image: ImageInput) -> np.ndarray:
    """Logits under both protocols, (2, H, W)."""
    return np.stack([predictor.predict(image, QUESTION, protocol).logits for protocol in get_args(Protocol)])


def test_eight_threads_get_the_answers_of_one(predictor: Predictor, expected: list[np.ndarray]) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda image: answer(predictor, image), IMAGES * 3))
    assert all(np.array_equal(logits, expected[number % 8]) for number, logits in enumerate(found))


def test_a_forked_process_gets_the_same_answer(predictor: Predictor, expected: list[np.ndarray]) -> None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=lambda: theirs.send(answer(predictor, IMAGES[0])))
    process.start()
    assert ours.poll(60)
    assert np.array_equal(ours.recv(), expected[0])
    process.join(60)
    assert process.exitcode == 0


def test_a_pickled_predictor_gives_the_same_answer(predictor: Predictor, expected: list[np.ndarray]) -> None:
    assert np.array_equal(answer(pickle.loads(pickle.dumps(predictor)), IMAGES[0]), expected[0])


def test_a_predictor_of_a_model_in_memory_says_why_it_cannot_be_pickled(checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match="cannot be pickled") as caught:
        pickle.dumps(Predictor(checkpoint))
    assert "from_checkpoint" in str(caught.value.hint)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_any_mode_of_torch_gives_the_same_answer(
    predictor: Predictor, expected: list[np.ndarray], mode: type[torch.inference_mode]
) -> None:
    with mode():
        assert np.array_equal(answer(predictor, IMAGES[0]), expected[0])


def read_only(image: np.ndarray) -> np.ndarray:
    image = image.copy()
    image.flags.writeable = False
    return image


LAYOUTS = {
    "Fortran order": np.asfortranarray,
    "read-only": read_only,
    "reversed twice": lambda image: image[..., ::-1].copy()[..., ::-1],
    "every other pixel": lambda image: image.repeat(2, axis=0).repeat(2, axis=1)[::2, ::2],
    "flipped": lambda image: image[::-1].copy()[::-1],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_of_an_array_does_not_matter(predictor: Predictor, expected: list[np.ndarray], layout: str) -> None:
    image = LAYOUTS[layout](IMAGES[0])
    before = image.copy()
    assert np.array_equal(answer(predictor, image), expected[0])
    assert np.array_equal(image, before)


def test_a_pil_image_is_not_changed(predictor: Predictor) -> None:
    image = Image.fromarray(IMAGES[0])
    exif = image.getexif()
    exif[0x0112] = 6
    assert answer(predictor, image).shape == (2, 60, 40)
    assert image.size == (60, 40)
    assert image.getexif()[0x0112] == 6


@pytest.mark.parametrize(
    "image",
    [
        IMAGES[0].astype(np.float64) / 255,
        IMAGES[0].astype(np.uint16),
        IMAGES[0] > 127,
        np.concatenate([IMAGES[0], IMAGES[0][..., :1]], axis=2),
        IMAGES[0].transpose(2, 0, 1),
        IMAGES[0][None],
    ],
    ids=["float", "16 bits", "bool", "RGBA", "channels first", "batch"],
)
def test_arrays_of_another_kind_are_refused_with_their_shape_and_type(predictor: Predictor, image: np.ndarray) -> None:
    with pytest.raises(DataError, match="uint8") as caught:
        predictor.predict(image, QUESTION)
    assert str(image.dtype) in caught.value.message


def test_memory_stays_flat_over_many_predictions(predictor: Predictor) -> None:
    for _ in range(20):
        answer(predictor, IMAGES[0])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(30):
        answer(predictor, IMAGES[number % 8])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10  # KiB


def test_path_objects_and_texts_are_both_paths(
    predictor: Predictor, expected: list[np.ndarray], tmp_path: Path
) -> None:
    Image.fromarray(IMAGES[0]).save(tmp_path / "a b%20\u00e9.png")
    for path in (tmp_path / "a b%20\u00e9.png", str(tmp_path / "a b%20\u00e9.png")):
        assert np.array_equal(answer(predictor, path), expected[0])
