"""Errors that a user can fix: a message with the offending value, and a hint for the next step."""

from collections.abc import Sequence

LONGEST_REASON = 160
"""Characters of another library's message within one of ours; some list all that they know."""


class CoresError(Exception):
    """Base class of errors that the command line shows without a traceback."""

    def __init__(self, message: str, hint: str | None = None, details: Sequence[str] = ()) -> None:
        """Create an error.

        Args:
            message: what is wrong, on one line. hint: the next step. details: further lines, below the message.
        """
        super().__init__(message, hint, details)  # all arguments, so that it can be pickled by worker processes
        self.message = message
        self.hint = hint
        self.details = details

    def __str__(self) -> str:
        return "\n".join((self.message, *self.details))


class ConfigError(CoresError):
    """A setting has an invalid value or an unknown name."""


class DataError(CoresError):
    """A data set, image, mask or question cannot be read or used."""


class MissingDataError(DataError):
    """A data set, a part of it, or another requirement of a training is missing."""


class LossError(CoresError):
    """The loss of a training step is not a number."""


class LaunchError(CoresError):
    """A training or evaluation process cannot be started, or has died."""


class LockError(CoresError):
    """Another process is writing to the same folder or file."""


class CoresWarning(UserWarning):
    """An input was read with an assumption that may be wrong; the text names it."""


class CheckpointError(CoresError):
    """A checkpoint or pretrained model is missing, incomplete or incompatible."""


def reason_of(error: BaseException) -> str:
    """The message of another library's error on one line, shortened; its type if it has no message."""
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    return text[:LONGEST_REASON] if text else type(error).__name__
