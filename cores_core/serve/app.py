"""The HTTP application: `POST /predict`, `GET /health`, Label Studio's protocol below /label-studio, and the page at /.

Every error of a route is a JSON object `{"error", "hint"}` with a status of its kind: 413 too large a body, 422 an
image or question that cannot be used, 429 too many requests, 503 the server is stopping.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, File, Form, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from cores_core.choices import Protocol
from cores_core.errors import CoresError, DataError
from cores_core.images import encode_png
from cores_core.sample import Query
from cores_core.serve.answers import Problem, Rows, ask, draw_overlay, render_mask
from cores_core.serve.body_limit import BodyLimit
from cores_core.serve.label_studio import label_studio_routes
from cores_core.serve.limits import MEGA, QueueFullError, StoppingError
from cores_core.serve.page import mount_page
from cores_core.serve.page_guard import PageGuard
from cores_core.serve.queue import AnswerQueue, Upload
from cores_core.serve.task_images import TaskImages

LOOPBACK = ("127.0.0.1", "localhost", "::1")
FORM_BYTES = MEGA
"""What a request may hold beside its image. Label Studio sends the labelling interface and tasks, all within this."""
PROBLEMS: dict[int | str, dict[str, Any]] = {
    413: {"model": Problem, "description": "The request is too large."},
    422: {"model": Problem, "description": "The image or a question cannot be used, or a field is missing."},
    429: {"model": Problem, "description": "Too many requests are waiting. Retry-After says when to try again."},
    503: {"model": Problem, "description": "The server is stopping."},
}
PICTURES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}
}
ImageField = Annotated[UploadFile, File(description="An image file: JPEG, PNG, WebP, BMP, TIFF or GIF.")]
QuestionField = Annotated[list[str], Form(description="A question; repeat the field to ask several.")]
PhraseField = Annotated[bool, Form(description="The questions are bare phrases, such as: tail of the fish.")]
ProtocolField = Annotated[Protocol, Form(description="Whether the model writes its answer, or the template is given.")]
OutputField = Annotated[
    Literal["json", "mask", "overlay"],
    Form(description="JSON rows; or of one question the mask (PNG, 0 or 255) or a picture with both masks (PNG)."),
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServeOptions:
    """How the application is reached, and whom it reaches.

    Attributes:
        host: the address that it listens on. On loopback, requests that name another host are refused, so that a web
            page cannot reach it through a name that resolves to loopback (DNS rebinding).
        task_images: reads images of Label Studio's tasks.
    """

    host: str
    task_images: TaskImages


def build_app(queue: AnswerQueue, options: ServeOptions) -> FastAPI:
    """The application that answers through `queue`."""
    app = FastAPI(
        title="cores",
        description="Ask an image a question that needs thought and get the mask of the answer.",
        redoc_url=None,
    )
    app.include_router(_routes(queue))
    app.include_router(label_studio_routes(queue, options.task_images), prefix="/label-studio")
    for kind, handler in (
        (CoresError, _handle_cores_error),
        (RequestValidationError, _handle_validation_error),
        (HTTPException, _handle_http_error),
        (Exception, _handle_crash),
    ):
        app.add_exception_handler(kind, handler)
    folder = mount_page(app, queue)
    app.add_middleware(PageGuard, folder=folder)
    app.add_middleware(BodyLimit, limit=queue.limits.upload_bytes + FORM_BYTES)
    if options.host in LOOPBACK:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]"])
    return app


def _routes(queue: AnswerQueue) -> APIRouter:
    routes = APIRouter()

    @routes.post("/predict", response_model=Rows, responses=PROBLEMS | PICTURES)
    async def predict(
        image: ImageField,
        question: QuestionField,
        phrase: PhraseField = False,
        protocol: ProtocolField = "generate",
        output: OutputField = "json",
    ) -> Any:
        """Segment what each question asks about."""
        if output != "json" and len(question) != 1:
            raise DataError(f"`output={output}` takes one question, not {len(question)}", hint="or leave it out")
        upload = Upload(image.filename or "image", await image.read())
        reply = await ask(queue, upload, [Query(text, is_sentence=not phrase) for text in question], protocol)
        if output == "json":
            return {"answers": reply.rows}
        if output == "mask":
            return _send_png(await run_in_threadpool(render_mask, reply.rows[0]))
        overlay = await run_in_threadpool(draw_overlay, reply.image, reply.rows[0])
        return _send_png(await run_in_threadpool(encode_png, overlay))

    @routes.get("/health")
    async def health() -> dict[str, str | int]:
        """Whether the server answers, with which model, and how many requests wait or are in work."""
        return {"status": "UP", "model": queue.model, "waiting": queue.waiting}

    return routes


def _send_png(data: bytes) -> Response:
    return Response(data, media_type="image/png")


async def _handle_cores_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, CoresError)
    kinds = ((QueueFullError, 429), (StoppingError, 503), (DataError, 422))
    status = next((number for kind, number in kinds if isinstance(error, kind)), 500)
    if status == 500:
        logger.error("a request failed: %s", error.message)
    return _refuse(status, error.message, error.hint)


async def _handle_validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = error.errors()
    is_missing = problems[0]["type"] == "missing"
    hint = "send multipart/form-data with a file `image` and one or more `question`" if is_missing else None
    return _refuse(422, _describe(problems), hint)


async def _handle_http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _refuse(error.status_code, str(error.detail))


async def _handle_crash(_: Request, error: Exception) -> Response:
    return _refuse(500, f"internal error ({type(error).__name__})", "the server's log has more")


def _refuse(status: int, message: str, hint: str | None = None) -> Response:
    headers = {"Retry-After": "1"} if status == 429 else None
    return JSONResponse({"error": message, "hint": hint}, status, headers)


def _describe(errors: Sequence[Any]) -> str:
    """The first problem that FastAPI found with a request, in one sentence."""
    first = errors[0]
    name = ".".join(str(part) for part in first["loc"][1:]) or "body"
    if first["type"] == "missing":
        return f"the field `{name}` is missing"
    if name == "image":
        return "the field `image` must be an uploaded file, not text"
    return f"the field `{name}` cannot be used: {first['msg']}"
