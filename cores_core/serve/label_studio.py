"""Label Studio's ML backend protocol, so that it pre-labels: each brush label of a project is asked about each image.

A label is a question if it ends as a sentence does, else a phrase; with an attribute `question`, that is asked in its
place: `<Label value="tail" question="Which part steers the fish?"/>`.

Source: https://labelstud.io/guide/ml_create and label_studio_ml/api.py.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any
from xml.etree import ElementTree

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from cores_core.errors import DataError
from cores_core.formats.label_studio import MODEL_VERSION, Tags, render_prediction
from cores_core.formats.labelled import LabelledMask, read_label
from cores_core.masks import decode_rle
from cores_core.sample import Query
from cores_core.serve.answers import ask
from cores_core.serve.queue import AnswerQueue
from cores_core.serve.task_images import TaskImages

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Interface:
    """What a labelling interface (XML) asks for.

    Attributes:
        tags: of the brush labels and of the image. image_key: of the image in a task's data.
        queries: label -> what is asked for it.
    """

    tags: Tags
    image_key: str
    queries: Mapping[str, Query]


class TasksBody(BaseModel):
    """Tasks to pre-label, and the labelling interface of their project."""

    tasks: list[dict[str, Any]]
    label_config: str


def label_studio_routes(queue: AnswerQueue, images: TaskImages) -> APIRouter:
    """The routes of the protocol; a Label Studio is given the URL under which they lie."""
    routes = APIRouter(tags=["Label Studio"])
    version = f"{MODEL_VERSION}-{PurePath(queue.model).name}"

    @routes.get("/health")
    @routes.get("/", include_in_schema=False)
    async def health() -> dict[str, str]:
        """Whether the server answers."""
        return {"status": "UP", "model_class": MODEL_VERSION}

    @routes.post("/setup")
    async def setup(body: dict[str, Any]) -> dict[str, str]:
        """Check the labelling interface of a project."""
        schema = body.get("schema")
        if isinstance(schema, str) and schema.strip():
            read_interface(schema)
        return {"model_version": version}

    @routes.post("/predict")
    async def predict(body: TasksBody) -> dict[str, Any]:
        """Pre-label tasks. One that cannot be used gets no regions; if none can be, that is an error."""
        interface = read_interface(body.label_config)
        results: list[dict[str, Any]] = []
        failures: list[DataError] = []
        for task in body.tasks:
            try:
                masks = await _answer(queue, images, interface, task)
            except DataError as error:
                logger.warning("Label Studio task %s: %s", task.get("id"), error.message)
                failures.append(error)
                masks = []
            results.append(await run_in_threadpool(render_prediction, masks, version, interface.tags))
        if failures and len(failures) == len(results):
            raise failures[0]
        return {"results": results, "model_version": version}

    @routes.post("/webhook", status_code=201, include_in_schema=False)
    @routes.post("/train", status_code=201, include_in_schema=False)
    async def ignore() -> dict[str, str]:
        """Label Studio reports new annotations; the model does not learn from them."""
        return {}

    return routes


def read_interface(config: str) -> Interface:
    """Read the labelling interface of a project.

    Raises:
        DataError: it is not XML, or has no brush labels for an image.
    """
    try:
        if "<!" in config.replace("<!--", ""):
            raise DataError("the labelling interface has a document type, which is not allowed")
        root = ElementTree.fromstring(config)
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"the labelling interface is not XML: {error}") from error
    images = {tag.get("name"): tag.get("value", "") for tag in root.iter("Image")}
    for brush in root.iter("BrushLabels"):
        name, image = brush.get("name"), brush.get("toName")
        queries = {value: _query(label, value) for label in brush.iter("Label") if (value := label.get("value"))}
        if name and image in images and queries and images[image].startswith("$"):
            return Interface(Tags(name, str(image)), images[image][1:], queries)
    hint = 'it needs <Image name="image" value="$image"/> and <BrushLabels name="tag" toName="image"> with labels'
    raise DataError("the labelling interface has no brush labels for an image", hint)


def _query(label: ElementTree.Element, value: str) -> Query:
    questions, phrases = read_label(label.get("question") or value)
    return Query((questions + phrases)[0], is_sentence=bool(questions))


async def _answer(
    queue: AnswerQueue, images: TaskImages, interface: Interface, task: Mapping[str, Any]
) -> list[LabelledMask]:
    data = task.get("data")
    location = data.get(interface.image_key) if isinstance(data, dict) else None
    if not isinstance(location, str) or not location:
        raise DataError(f"a task without `data.{interface.image_key}`")
    upload = await images.read(location)
    labels, most = list(interface.queries), queue.limits.questions
    masks: list[LabelledMask] = []
    for start in range(0, len(labels), most):
        some = labels[start : start + most]
        reply = await ask(queue, upload, [interface.queries[label] for label in some])
        masks += [
            LabelledMask(label, decode_rle(row["mask"]), row["score"])
            for label, row in zip(some, reply.rows, strict=True)
        ]
    return masks
