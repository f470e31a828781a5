"""Run the application on a socket until a signal stops it."""

import logging
import socket

import uvicorn
from fastapi import FastAPI

from cores_core.errors import ConfigError
from cores_core.serve.queue import AnswerQueue

GRACE_SECONDS = 2
"""After a signal, time for connections to end; that of an open page is cut."""


def open_socket(host: str, port: int) -> socket.socket:
    """Reserve an address before a model is loaded; port 0 takes a free one. Connections are accepted by `run_server`.

    Raises:
        ConfigError: it is in use, not allowed, or not of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        opened = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"not an address of this machine: {host}") from error
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
    except (OSError, OverflowError) as error:
        opened.close()
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"cannot listen on {host}:{port}: {reason}", hint="--port 0 takes a free port") from error
    return opened


def run_server(app: FastAPI, queue: AnswerQueue, opened: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM, which is raised again when all connections have ended."""
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    _Server(config, queue).run(sockets=[opened])


class _Server(uvicorn.Server):
    """A server that refuses waiting requests when it stops, in place of answering them first."""

    def __init__(self, config: uvicorn.Config, queue: AnswerQueue) -> None:
        super().__init__(config)
        self._queue = queue

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, without its reports of connections that are cut, which a page always has open."""
        self._queue.close()
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        await super().shutdown(sockets)
