"""Refuse a request whose body is too large before it is read, whatever route it is for."""

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """ASGI middleware: 413 for a body of more than `limit` bytes, announced or counted."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its body counted."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        message = f"the request is larger than {self.limit:,} bytes"
        announced = dict(scope["headers"]).get(b"content-length", b"")
        if announced.isdigit() and int(announced) > self.limit:
            return await JSONResponse({"error": message, "hint": None}, 413)(scope, receive, send)
        count = 0

        async def counted() -> Message:
            nonlocal count
            received = await receive()
            count += len(received.get("body", b""))
            if count > self.limit:
                raise HTTPException(413, message)
            return received

        await self.app(scope, counted, send)
