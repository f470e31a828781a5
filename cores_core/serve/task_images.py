"""Images of Label Studio's tasks: read from the one Label Studio that the server was started for, from nowhere else.

Source: https://labelstud.io/guide/access_tokens (legacy tokens; personal access tokens, which are exchanged for short
ones).
"""

import base64
import binascii
from pathlib import PurePosixPath
from urllib.parse import parse_qs, unquote, urljoin, urlsplit

import httpx

from cores_core.errors import ConfigError, DataError
from cores_core.serve.queue import Upload

TIMEOUT = 30.0
"""Seconds without a byte, after which reading an image fails."""
_DATA_URL = "data:image/"
_JWT_DOTS = 2


class TaskImages:
    """Reads the images of tasks."""

    def __init__(self, base_url: str | None, token: str | None, limit: int) -> None:
        """Nothing is read yet.

        Args:
            base_url: of Label Studio, such as http://localhost:8080; None if only images inside tasks can be used.
            token: a legacy token or a personal access token of Label Studio.
            limit: largest file in bytes.

        Raises:
            ConfigError: `base_url` is no HTTP URL.
        """
        if base_url is not None and _origin(base_url) is None:
            raise ConfigError(f"not the URL of a Label Studio: {base_url}", hint="such as http://localhost:8080")
        self._base = base_url
        self._token = token
        self._limit = limit

    async def read(self, location: str) -> Upload:
        """Read what a task gives as its image: a path or URL of Label Studio, or a data URL.

        Raises:
            DataError: it lies elsewhere, or cannot be read.
        """
        if location.startswith(_DATA_URL):
            return Upload("image", _decode_data_url(location))
        if self._base is None:
            hint = "start `cores serve` with --label-studio URL"
            raise DataError(f"no Label Studio is known from which to read {_shorten(location)}", hint)
        try:
            url = urljoin(self._base.rstrip("/") + "/", location)
            is_ours = _origin(url) == _origin(self._base)
        except ValueError as error:
            raise DataError(f"not a path of an image: {_shorten(location)}") from error
        if not is_ours:
            raise DataError(f"the image is not on {self._base}: {_shorten(location)}")
        try:
            async with httpx.AsyncClient(timeout=TIMEOUT) as client:
                return Upload(_name(url), await self._download(client, url))
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            message = f"cannot read {_shorten(location)} from {self._base}: {type(error).__name__} {error}"
            raise DataError(message, hint="is it running, and is --label-studio its URL?") from error

    async def _download(self, client: httpx.AsyncClient, url: str) -> bytes:
        async with client.stream("GET", url, headers=await self._authorize(client)) as response:
            if response.status_code != httpx.codes.OK:
                hint = "set LABEL_STUDIO_API_KEY to an access token" if response.status_code in (401, 403) else None
                raise DataError(f"Label Studio answers {response.status_code} for {_shorten(url)}", hint)
            parts, size = [], 0
            async for part in response.aiter_bytes():
                size += len(part)
                if size > self._limit:
                    raise DataError(f"the image file is larger than {self._limit:,} bytes: {_shorten(url)}")
                parts.append(part)
        return b"".join(parts)

    async def _authorize(self, client: httpx.AsyncClient) -> dict[str, str]:
        """The header that shows the token; a personal access token is a JWT, which is exchanged first."""
        if self._token is None:
            return {}
        if self._token.count(".") != _JWT_DOTS:
            return {"Authorization": f"Token {self._token}"}
        assert self._base is not None
        answer = await client.post(self._base.rstrip("/") + "/api/token/refresh", json={"refresh": self._token})
        if answer.status_code != httpx.codes.OK:
            hint = "set LABEL_STUDIO_API_KEY to an access token"
            raise DataError(f"Label Studio refuses the access token ({answer.status_code})", hint)
        access = answer.json()
        return {"Authorization": f"Bearer {access['access']}"} if "access" in access else {}


def _decode_data_url(location: str) -> bytes:
    header, _, data = location.partition(",")
    if not header.endswith(";base64"):
        raise DataError("a data URL that is not base64")
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError("a data URL that cannot be decoded") from error


def _origin(url: str) -> tuple[str, str, int] | None:
    """Scheme, host and port of an HTTP URL; None for another one."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}[parts.scheme]


def _name(url: str) -> str:
    """The file name in a URL, also of a local file of Label Studio (`?d=folder/name.jpg`)."""
    parts = urlsplit(url)
    return PurePosixPath(parse_qs(parts.query).get("d", [unquote(parts.path)])[0]).name or "image"


def _shorten(location: str) -> str:
    return location if len(location) <= 100 else f"{location[:100]}..."
