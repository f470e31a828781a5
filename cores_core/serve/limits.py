"""Limits of a server: what one request may hold, and how many may wait."""

from dataclasses import dataclass, fields

from cores_core.errors import ConfigError, CoresError

MEGA = 1_000_000


@dataclass(frozen=True)
class ServeLimits:
    """All are at least 1.

    A waiting request holds its upload, not the decoded image, so waiting takes at most `waiting * upload_bytes`.
    """

    waiting: int = 32
    """Requests that may wait or be in work; a further one is refused."""
    upload_bytes: int = 32 * MEGA
    """Largest image file."""
    pixels: int = 50 * MEGA
    """Largest image, width times height."""
    questions: int = 16
    """Questions in one request. Labels of a Label Studio project are asked in several requests if they are more."""
    characters: int = 1000
    """Longest question."""
    kept_images: int = 16
    """Images whose encodings are kept for further questions, the last ones used."""
    kept_bytes: int = 1000 * MEGA
    """Memory of all kept images, see `ImageSession.nbytes`. The last image is kept whatever its size."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value < 1:
                raise ConfigError(f"the limit `{field.name}` must be at least 1: {value}")


class QueueFullError(CoresError):
    """As many requests are waiting as may."""


class StoppingError(CoresError):
    """The server is about to stop and takes no requests."""
