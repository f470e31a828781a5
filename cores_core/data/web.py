"""The HTTP client of downloads and of question generation."""

import httpx2

from cores_core.errors import DataError


def build_client(timeout: float, follow_redirects: bool) -> httpx2.Client:
    """Build a client that asks for bodies as they are, uncompressed, and uses the proxies of the environment.

    Args:
        timeout: seconds without a byte after which a connection is closed.

    Raises:
        DataError: a proxy of the environment is no URL, of an unknown kind, or SOCKS without its package.
    """
    headers = {"User-Agent": "cores", "Accept-Encoding": "identity"}
    try:
        return httpx2.Client(headers=headers, timeout=timeout, follow_redirects=follow_redirects)
    except (ImportError, ValueError, httpx2.InvalidURL) as error:
        hint = "check HTTP_PROXY, HTTPS_PROXY and ALL_PROXY"
        raise DataError(f"cannot use the proxy of the environment ({error})", hint=hint) from error
