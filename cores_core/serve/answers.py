"""Replies as the server sends them: rows with a published schema, PNG files, and errors of one form."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from cores_core.choices import Protocol
from cores_core.images import encode_png
from cores_core.masks import decode_rle
from cores_core.overlay import render_overlay
from cores_core.sample import Query, RgbImage
from cores_core.serve.limits import StoppingError
from cores_core.serve.queue import AnswerQueue, Reply, Upload


class MaskRle(BaseModel):
    """COCO run-length encoding, compressed; `pycocotools.mask.decode` reads it."""

    size: tuple[int, int] = Field(description="Height, width.")
    counts: str


class Row(BaseModel):
    """The answer to one question, docs/format.md."""

    image: str = Field(description="Name of the uploaded file.")
    name: str = Field(description="The same without suffix.")
    question: str
    is_sentence: bool = Field(description="False for a bare phrase, such as: tail of the fish.")
    answer: str = Field(description="The text that the model wrote, chain tokens included.")
    well_formed: bool = Field(description="If not, the mask is empty.")
    rejected: bool = Field(description="The image shows no such thing; the mask is empty.")
    mask: MaskRle = Field(description="The answer, C2, in the size of the upright image.")
    coarse_mask: MaskRle = Field(description="The coarse mask, C1.")
    box: tuple[int, int, int, int] = Field(description="x, y, width, height in pixels; zeros for an empty mask.")
    area: int = Field(description="Pixels of the mask.")
    score: float = Field(description="Mean probability over the mask's pixels, 0 to 1; 0 for an empty mask.")
    answer_probability: float = Field(description="Geometric mean of the probabilities of the answer's tokens, 0 to 1.")
    predicted_iou: float | None = Field(
        description="IoU of the mask as SAM predicts it; null if its head is untrained."
    )
    model: str
    protocol: Protocol
    seconds: float = Field(description="Time of the request, without waiting, divided by its questions.")


class Rows(BaseModel):
    """The answers to the questions of a request, in their order."""

    answers: list[Row]


class Problem(BaseModel):
    """What is wrong with a request, and what to do about it."""

    error: str
    hint: str | None = None


async def ask(queue: AnswerQueue, upload: Upload, queries: Sequence[Query], protocol: Protocol = "generate") -> Reply:
    """Append a request to the queue and wait for its reply.

    Raises:
        CoresError: see `AnswerQueue.submit`; StoppingError also if the queue was closed meanwhile.
    """
    future = asyncio.wrap_future(queue.submit(upload, queries, protocol))
    try:
        return await future
    except asyncio.CancelledError:
        if queue.is_closed:
            raise StoppingError("the server is stopping") from None
        raise


def render_mask(row: dict[str, Any]) -> bytes:
    """The mask of a row as the PNG that `cores predict` writes: 8 bit, 0 or 255."""
    return encode_png(decode_rle(row["mask"]).astype(np.uint8) * np.uint8(255))


def draw_overlay(image: RgbImage, row: dict[str, Any]) -> RgbImage:
    """Both masks of a row drawn over its image, see `render_overlay`."""
    coarse, refined = decode_rle(row["coarse_mask"]), decode_rle(row["mask"])
    return render_overlay(image, row["question"], row["answer"], coarse, refined)
