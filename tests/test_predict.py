"""The Python API: precisions, the images it takes, and the questions it refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import noise_image
from PIL import Image

from cores_core.errors import ConfigError, DataError
from cores_core.model.checkpoint import Checkpoint, save_checkpoint
from cores_core.model.cores import HALVED
from cores_core.predict import Predictor
from cores_core.sample import Query

IMAGE = noise_image(40, 60)
QUESTION = "Which part steers the fish?"


@pytest.fixture(scope="module")
def folder(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("predict") / "model"
    save_checkpoint(path, checkpoint)
    return path


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.2), ("float16", 0.02)])
def test_half_precision_is_near_and_its_mask_head_is_whole(folder: Path, dtype: str, tolerance: float) -> None:
    half, whole = (Predictor.from_checkpoint(folder, device="cpu", dtype=name) for name in (dtype, "float32"))
    for name, parameter in half.checkpoint.model.named_parameters():
        expected = getattr(torch, dtype) if name.startswith(HALVED) else torch.float32
        assert parameter.dtype == expected, name
    ours, exact = (predictor.predict(IMAGE, QUESTION, protocol="teacher_forced").logits for predictor in (half, whole))
    assert ours.dtype == np.float32
    assert np.abs(ours - exact).max() < tolerance * max(1.0, np.abs(exact).max())


def test_a_pil_image_of_another_mode_equals_its_pixels(folder: Path) -> None:
    predictor = Predictor.from_checkpoint(folder, device="cpu")
    image = Image.fromarray(IMAGE).convert("RGBA")
    masks = [predictor.predict(given, QUESTION, "teacher_forced").logits for given in (IMAGE, image)]
    assert np.array_equal(masks[0], masks[1])


def test_a_path_and_its_pixels_are_the_same_image(folder: Path, tmp_path: Path) -> None:
    Image.fromarray(IMAGE).save(tmp_path / "image.png")
    predictor = Predictor.from_checkpoint(folder, device="cpu")
    masks = [predictor.predict(image, QUESTION, "teacher_forced").logits for image in (IMAGE, tmp_path / "image.png")]
    assert np.array_equal(masks[0], masks[1])


@pytest.mark.parametrize(("old", "today"), [("given", "teacher_forced"), ("generated", "generate")])
def test_protocols_are_known_by_their_old_names(folder: Path, old: Any, today: Any) -> None:
    predictor = Predictor.from_checkpoint(folder, device="cpu")
    masks = [predictor.predict(IMAGE, QUESTION, protocol).logits for protocol in (old, today)]
    assert np.array_equal(masks[0], masks[1])


def test_an_unknown_protocol_is_an_error(folder: Path) -> None:
    unknown: Any = "guess"
    with pytest.raises(ConfigError, match="unknown protocol: guess"):
        Predictor.from_checkpoint(folder, device="cpu").predict(IMAGE, QUESTION, unknown)


def test_a_phrase_and_a_sentence_are_worded_differently(folder: Path) -> None:
    predictor = Predictor.from_checkpoint(folder, device="cpu")
    sentence, phrase = predictor.predict_many(IMAGE, [Query("tail", True), Query("tail", False)], "teacher_forced")
    assert not np.array_equal(sentence.logits, phrase.logits)


def test_each_answer_has_the_shape_of_its_image(folder: Path) -> None:
    prediction = Predictor.from_checkpoint(folder, device="cpu").predict(IMAGE, QUESTION, "teacher_forced")
    for pixels in (prediction.mask, prediction.coarse_mask, prediction.logits, prediction.coarse_logits):
        assert pixels.shape == (40, 60)
    assert 0 <= prediction.score <= 1


@pytest.mark.parametrize("question", ["", "  \n"])
def test_an_empty_question_is_refused(folder: Path, question: str) -> None:
    with pytest.raises(DataError, match="empty"):
        Predictor.from_checkpoint(folder, device="cpu").predict(IMAGE, question)


@pytest.mark.parametrize("image", [IMAGE[..., 0], IMAGE.astype(np.float32), IMAGE[:0]])
def test_other_arrays_are_refused(folder: Path, image: np.ndarray) -> None:
    with pytest.raises(DataError, match="uint8"):
        Predictor.from_checkpoint(folder, device="cpu").predict(image, QUESTION)


def test_an_unknown_device_or_dtype_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="tpu"):
        Predictor.from_checkpoint(folder, device="tpu")
    with pytest.raises(ConfigError, match="int3"):
        Predictor.from_checkpoint(folder, dtype="int3")
