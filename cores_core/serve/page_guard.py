"""Keep Gradio's events from naming files: an image of the page is a file that was uploaded through it, nothing else.

Gradio copies what an event names as a file into its temporary folder: paths of the server, which it checks only if it
was launched by itself and not mounted (`has_launched`, gradio 6.31), and URLs, which it downloads.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

EVENTS, UPLOAD = "/gradio_api/", "/gradio_api/upload"


class PageGuard:
    """ASGI middleware: 422 for an event of the page that names a file outside `folder`, where uploads are kept."""

    def __init__(self, app: ASGIApp, folder: Path) -> None:
        self.app = app
        self.folder = folder.resolve()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, an event after its files were checked."""
        path = scope.get("path", "")
        is_event = scope["type"] == "http" and scope["method"] == "POST" and path.startswith(EVENTS)
        if not is_event or path.rstrip("/") == UPLOAD:
            return await self.app(scope, receive, send)
        try:
            body = await Request(scope, receive).body()
        except HTTPException as error:
            return await JSONResponse({"error": error.detail, "hint": None}, error.status_code)(scope, receive, send)
        try:
            is_allowed = all(map(self._is_upload, _find_paths(json.loads(body or b"null"))))
        except (ValueError, RecursionError):
            is_allowed = False
        if not is_allowed:
            refusal = JSONResponse({"error": "not an event of the page", "hint": "upload the image first"}, 422)
            return await refusal(scope, receive, send)
        replayed = False

        async def replay() -> Message:
            nonlocal replayed
            if replayed:
                return await receive()
            replayed = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, send)

    def _is_upload(self, path: Any) -> bool:
        if not isinstance(path, str) or ":" in path or "\0" in path:
            return False
        file = Path(path).resolve()
        return file.is_relative_to(self.folder) and file.is_file()


def _find_paths(tree: Any) -> Iterator[Any]:
    """What stands under `path` in any object of a JSON tree."""
    if isinstance(tree, dict):
        if tree.get("path") is not None:
            yield tree["path"]
        for value in tree.values():
            yield from _find_paths(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _find_paths(value)
