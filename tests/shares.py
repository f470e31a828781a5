"""Read a split whole, and see that its shares, read one by one, are the same as the whole."""

from collections.abc import Callable, Iterator

from cores_core.data.sources.reading import WHOLE, Rejections, Share
from cores_core.data.store import Record
from cores_core.errors import DataError

Read = Callable[[Rejections, Share], Iterator[Record]]


def read_whole(read: Read) -> tuple[list[Record], Rejections]:
    """What a reader gives for the whole; its shares, of two and of three, must give the same, also the same error."""
    outcome = _attempt(read, [WHOLE])
    for count in (2, 3):
        assert _comparable(_attempt(read, [Share(index, count) for index in range(count)])) == _comparable(outcome)
    if isinstance(outcome, DataError):
        raise outcome
    return outcome


def _attempt(read: Read, shares: list[Share]) -> tuple[list[Record], Rejections] | DataError:
    """The shares in order, read independently; an error only if each has it."""
    records, rejected, errors = [], Rejections(), []
    for share in shares:
        of_share = Rejections()
        try:
            records += list(read(of_share, share))
        except DataError as error:
            errors.append(error)
        rejected.items += of_share.items
        rejected.notes += of_share.notes
    assert len({str(error) for error in errors}) <= 1
    assert len(errors) in (0, len(shares))
    return errors[0] if errors else (records, rejected)


def _comparable(outcome: tuple[list[Record], Rejections] | DataError) -> object:
    """Records in order, rejections in any, or the message of the error."""
    if isinstance(outcome, DataError):
        return outcome.message
    records, rejected = outcome
    return records, sorted(rejected.items), sorted(rejected.notes)
