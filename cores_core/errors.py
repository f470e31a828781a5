"""Mistakes that a user can mend: a message that names the value, and a hint that says what to do next."""


class CoresError(Exception):
    """Base of all errors that are shown without a traceback."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)  # both, so that it survives the way from another process
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class ConfigError(CoresError):
    """A setting has a value that makes no sense, or a name that does not exist."""


class DataError(CoresError):
    """A data set, image, mask or question cannot be read or used."""


class MissingDataError(DataError):
    """A data set, a part of it, or what a training needs is not there."""


class LossError(CoresError):
    """The loss of a training step is not a number."""


class LaunchError(CoresError):
    """A process that trains or scores cannot be started, or has died."""


class LockError(CoresError):
    """Another process is writing to the same place."""


class CoresWarning(UserWarning):
    """Something was read by an assumption that may be wrong; the text says which."""


class CheckpointError(CoresError):
    """A checkpoint is missing, incomplete or does not fit."""
