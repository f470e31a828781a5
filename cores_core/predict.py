"""Predict masks for questions about an image: the Python API, also used by the command line.

from cores_core.predict import Predictor

predictor = Predictor.from_checkpoint("tiny")
prediction = predictor.predict("fish.jpg", "Which part steers the fish?")
prediction.mask        # (H, W) bool
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cores_core.choices import Protocol, Quantization
from cores_core.errors import CheckpointError, ConfigError, DataError
from cores_core.files import NO_WRITING, replacing_all, write_text, writing_hint
from cores_core.images import check_size, encode_png, load_image, to_rgb
from cores_core.instances import NO_CLEANING, Instance, MaskCleaning, clean_mask, mask_score, split_instances
from cores_core.masks import binarize, bounding_box, encode_rle
from cores_core.model.checkpoint import EMBEDDED, Checkpoint
from cores_core.model.inference import ImageSession, Segmentation
from cores_core.model.source import ModelSource
from cores_core.overlay import render_overlay
from cores_core.prompts import Conversation
from cores_core.sample import BoolMask, Query, RgbImage

FloatMap = NDArray[np.float32]
ImageInput = str | Path | Image.Image | RgbImage
"""A path, a PIL image of any mode, or (H, W, 3) uint8 RGB."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """The answer to one question about one image of H x W pixels (upright)."""

    question: str
    segmentation: Segmentation
    cleaning: MaskCleaning = NO_CLEANING

    @property
    def answer(self) -> str:
        """The answer text of the model."""
        return self.segmentation.answer

    @property
    def logits(self) -> FloatMap:
        """(H, W) float32 unthresholded logits of C2, the final mask."""
        return self.segmentation.refined

    @property
    def coarse_logits(self) -> FloatMap:
        """(H, W) float32 unthresholded logits of C1, the coarse mask."""
        return self.segmentation.coarse

    @cached_property
    def mask(self) -> BoolMask:
        """(H, W) bool, the final mask, post-processed by `cleaning`."""
        mask = binarize(self.logits)
        return clean_mask(mask, self.logits, self.cleaning) if self.cleaning.changes else mask

    @property
    def instances(self) -> list[Instance]:
        """The connected regions of the mask, the largest first."""
        return split_instances(self.mask, self.logits)

    @property
    def coarse_mask(self) -> BoolMask:
        """(H, W) bool, the coarse mask."""
        return binarize(self.coarse_logits)

    @cached_property
    def score(self) -> float:
        """Confidence, 0-1: the mean probability (sigmoid of the logit) over the mask's pixels; 0 for an empty mask."""
        return mask_score(self.mask, self.logits)

    def to_json(self) -> dict[str, Any]:
        """JSON values as in docs/format.md; masks as COCO RLE, boxes as (x, y, width, height)."""
        predicted_iou = self.segmentation.predicted_iou
        values = {
            "question": self.question,
            "answer": self.answer,
            "well_formed": self.segmentation.well_formed,
            "rejected": self.segmentation.rejected,
            "mask": encode_rle(self.mask),
            "coarse_mask": encode_rle(self.coarse_mask),
            "box": list(bounding_box(self.mask)),
            "area": int(self.mask.sum()),
            "score": round(self.score, 4),
            "answer_probability": round(self.segmentation.answer_probability, 4),
            "predicted_iou": None if predicted_iou is None else round(predicted_iou, 4),
        }
        if self.cleaning.instances:
            values["instances"] = [_describe(instance) for instance in self.instances]
        return values

    def to_supervision(self) -> Any:
        """The mask as `supervision.Detections` of one object, or of none if it is empty.

        Raises:
            ConfigError: the package supervision is not installed.
        """
        try:
            from supervision import Detections
        except ImportError as error:
            raise ConfigError("supervision is not installed", hint="pip install 'cores[supervision]'") from error
        if not self.mask.any():
            return Detections.empty()
        x, y, width, height = bounding_box(self.mask)
        return Detections(
            xyxy=np.array([[x, y, x + width, y + height]], dtype=np.float64),
            mask=self.mask[None],
            confidence=np.array([self.score]),
            class_id=np.array([0]),
            data={"class_name": np.array([self.question])},
        )


class Predictor:
    """A loaded model that answers questions about images. Threads may share it; pickling it passes on its source.

    On a CPU it is faster after `cores_core.runtime.set_up_cpu()`, which the commands call; masks are equal.
    """

    def __init__(self, checkpoint: Checkpoint, source: ModelSource | None = None) -> None:
        self.checkpoint = checkpoint
        self._source = source

    def __reduce__(self) -> "tuple[Callable[[ModelSource], Predictor], tuple[ModelSource]]":
        """Load the model again where it is unpickled.

        Raises:
            CheckpointError: it was not made by `from_checkpoint`.
        """
        if self._source is None:
            hint = "save its checkpoint, and load that with Predictor.from_checkpoint"
            raise CheckpointError("a predictor of a model in memory cannot be pickled", hint=hint)
        return _load_predictor, (self._source,)

    @classmethod
    def from_checkpoint(
        cls,
        source: str | Path = EMBEDDED,
        device: str = "auto",
        dtype: str = "float32",
        load_in: Quantization | None = None,
        conversation: Conversation | None = None,
    ) -> "Predictor":
        """Load a checkpoint folder, released weights, a hub id, or `tiny`, the model that ships with the package.

        Args:
            device: auto, cpu, cuda or mps; `spread` distributes the MLLM over all CUDA devices.
            dtype: float32, bfloat16, float16, or auto (bfloat16 on CUDA, else float32). The mask decoder is float32.
            load_in: quantise the language model to 4bit or 8bit (bitsandbytes, CUDA).
            conversation: chat template, for releases that were not trained with llava_v1.

        Raises:
            CheckpointError: there is no such checkpoint, or it is damaged.
            ConfigError: unknown or unavailable device, dtype or quantisation.
        """
        origin = ModelSource(str(source), device, dtype, load_in, conversation)
        return cls(origin.load(), origin)

    def set_image(self, image: ImageInput, cleaning: MaskCleaning = NO_CLEANING) -> "ImagePredictor":
        """Prepare an image for several calls of `ask`; SAM's encoder runs once, at the first.

        Args:
            cleaning: post-processing of the masks; none by default.

        Raises:
            DataError: the image cannot be read.
        """
        return ImagePredictor(ImageSession(self.checkpoint, _load_pixels(image)), cleaning)

    def predict(self, image: ImageInput, question: str | Query, protocol: Protocol = "generate") -> Prediction:
        """Answer one question; arguments and errors as for `predict_many`."""
        return self.predict_many(image, [question], protocol)[0]

    def predict_many(
        self, image: ImageInput, questions: Sequence[str | Query], protocol: Protocol = "generate"
    ) -> list[Prediction]:
        """Answer N questions about one image, which is encoded once.

        Args:
            image: a path, a PIL image, or (H, W, 3) uint8 RGB.
            questions: sentences, or `Query(text, is_sentence=False)` for a noun phrase such as "tail of the fish".
            protocol: `generate` decodes the model's own answer; `teacher_forced` supplies the answer template.

        Raises:
            DataError: the image cannot be read, or a question is empty or too long.
        """
        return self.set_image(image).ask(questions, protocol)


def _load_predictor(source: ModelSource) -> Predictor:
    return Predictor(source.load(), source)


class ImagePredictor:
    """A predictor with a fixed image, see `Predictor.set_image`."""

    def __init__(self, session: ImageSession, cleaning: MaskCleaning) -> None:
        self._session = session
        self._cleaning = cleaning

    @property
    def image(self) -> RgbImage:
        """(H, W, 3) uint8 RGB, upright."""
        return self._session.image

    @property
    def nbytes(self) -> int:
        """Memory that the image and its encodings take, see `ImageSession.nbytes`."""
        return self._session.nbytes

    def ask(self, questions: Sequence[str | Query], protocol: Protocol = "generate") -> list[Prediction]:
        """Answer N questions, see `Predictor.predict_many`."""
        queries = [_check_query(question) for question in questions]
        results = self._session.ask(queries, protocol)
        return [Prediction(query.text, result, self._cleaning) for query, result in zip(queries, results, strict=True)]


@dataclass(frozen=True)
class SavedFiles:
    """Paths of the files of one prediction."""

    mask: Path
    overlay: Path
    description: Path


def save_prediction(
    prediction: Prediction, image: RgbImage, base: Path, description: Mapping[str, Any] | None = None
) -> SavedFiles:
    """Write `<base>.mask.png` (8 bit, 0 or 255, the image's size), `<base>.overlay.png` and `<base>.json`.

    All three are replaced together; if one cannot be written, older ones are kept.

    Args:
        image: (H, W, 3) uint8, the image of the prediction.
        base: path without suffix; the folder is created if missing.
        description: content of the JSON file; None for `prediction.to_json()`.

    Raises:
        DataError: the folder cannot be written to.
    """
    files = SavedFiles(*(base.with_name(f"{base.name}{ending}") for ending in (".mask.png", ".overlay.png", ".json")))
    overlay = render_overlay(image, prediction.question, prediction.answer, prediction.coarse_mask, prediction.mask)
    text = json.dumps(prediction.to_json() if description is None else description, ensure_ascii=False)
    try:
        base.parent.mkdir(parents=True, exist_ok=True)
        with replacing_all([files.mask, files.overlay, files.description]) as (mask_path, overlay_path, json_path):
            mask_path.write_bytes(encode_png(prediction.mask.astype(np.uint8) * np.uint8(255)))
            overlay_path.write_bytes(encode_png(overlay))
            write_text(f"{text}\n", json_path)
    except OSError as error:
        hint = writing_hint(error) if error.errno in NO_WRITING else "choose --output"
        raise DataError(f"cannot write to {base.parent}: {error.strerror or error}", hint=hint) from error
    return files


def _describe(instance: Instance) -> dict[str, Any]:
    return {
        "mask": encode_rle(instance.mask),
        "box": list(bounding_box(instance.mask)),
        "area": int(instance.mask.sum()),
        "score": round(instance.score, 4),
    }


def _check_query(question: str | Query) -> Query:
    query = Query(question) if isinstance(question, str) else question
    if not query.text.strip():
        raise DataError("the question is empty")
    try:
        query.text.encode()
    except UnicodeEncodeError as error:
        raise DataError("the question is not Unicode text", hint="enter it in UTF-8") from error
    return query


def _load_pixels(image: ImageInput) -> RgbImage:
    if isinstance(image, Image.Image):
        check_size(*image.size)
        return to_rgb(image)
    return _check_image(image) if isinstance(image, np.ndarray) else load_image(image)


def _check_image(image: NDArray[Any]) -> RgbImage:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise DataError(f"an image array must be (H, W, 3) uint8, not {image.shape} {image.dtype}")
    check_size(image.shape[1], image.shape[0])
    return cast(RgbImage, image)
