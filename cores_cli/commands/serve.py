"""`cores serve`: a page and an HTTP API that answer questions about images."""

import importlib.util
import os
import signal
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from cores_cli import console
from cores_cli.interrupts import interrupts
from cores_cli.options import (
    EMBEDDED_MODEL,
    PARTWORLD_ONLY,
    PHOTO_MODEL,
    ConversationOption,
    DtypeOption,
    LoadInOption,
    ModelDeviceOption,
    ModelOption,
)
from cores_core.errors import ConfigError

PACKAGES = ("fastapi", "gradio", "httpx", "python_multipart", "uvicorn")
"""Modules of the extra `serve`."""
LAST_REQUEST_SECONDS = 3.0
"""After a signal, time for the request that is in work."""


def serve(
    model: ModelOption = "tiny",
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on. Any but loopback lets other machines ask.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")] = 7860,
    queue_size: Annotated[
        int, typer.Option("--queue", min=1, help="Requests that may wait; a further one is answered with 429.")
    ] = 32,
    megabytes: Annotated[int, typer.Option("--max-megabytes", min=1, help="Largest image file.")] = 32,
    megapixels: Annotated[int, typer.Option("--max-megapixels", min=1, max=200, help="Largest image.")] = 50,
    label_studio: Annotated[
        str | None,
        typer.Option("--label-studio", metavar="URL", help="Label Studio whose images are read for pre-labelling."),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            "--label-studio-token", envvar="LABEL_STUDIO_API_KEY", help="Its access token.", show_default=False
        ),
    ] = None,
    device: ModelDeviceOption = "auto",
    dtype: DtypeOption = "auto",
    load_in: LoadInOption = None,
    conversation: ConversationOption = None,
) -> None:
    """Answer questions over HTTP: a page at /, `POST /predict` (described at /docs), Label Studio at /label-studio.

    Requests are answered one after another, in order of arrival. Ctrl-C stops.
    """
    _check_packages()
    from cores_core.predict import Predictor
    from cores_core.runtime import set_up_cpu
    from cores_core.serve.app import ServeOptions, build_app
    from cores_core.serve.limits import MEGA, ServeLimits
    from cores_core.serve.queue import AnswerQueue
    from cores_core.serve.server import open_socket, run_server
    from cores_core.serve.task_images import TaskImages

    limits = ServeLimits(waiting=queue_size, upload_bytes=megabytes * MEGA, pixels=megapixels * MEGA)
    options = ServeOptions(host, TaskImages(label_studio, token, limits.upload_bytes))
    with open_socket(host, port) as opened:
        set_up_cpu()
        predictor = Predictor.from_checkpoint(model, device, dtype, load_in, conversation)
        queue = AnswerQueue(predictor, model, limits)
        name = f"[{host}]" if ":" in host else host
        try:
            with interrupts.unwinding(), TemporaryDirectory(prefix="cores-serve-") as folder:
                os.environ["GRADIO_TEMP_DIR"] = folder  # else Gradio shares a folder with its other servers
                app = build_app(queue, options)
                console.say(f"{model} answers at http://{name}:{opened.getsockname()[1]}, Ctrl-C stops")
                if model == EMBEDDED_MODEL:
                    console.say(f"{PARTWORLD_ONLY}: cores serve --model {PHOTO_MODEL} --dtype bfloat16", "yellow")
                run_server(app, queue, opened)
        finally:
            if not queue.close(LAST_REQUEST_SECONDS) and interrupts.number is not None:
                signal.raise_signal(interrupts.number)  # ends the process: a thread that computes cannot be stopped


def _check_packages() -> None:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        names = ", ".join(missing)
        raise ConfigError(f"serving needs packages that are missing: {names}", hint="pip install 'cores[serve]'")
