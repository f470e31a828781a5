"""Unpack downloaded archives, which are not trusted; files that are there already are skipped.

Only files are written, each under a temporary name first. A link, a device, an encrypted file, a name that leads out of
the folder, or an implausible size refuses the whole archive before anything is written.

tarfile and zipfile read the archives; their own extraction is not used, because it keeps fewer promises, measured with
the harmful archives of tests/data/test_download.py on Python 3.11. `shutil.unpack_archive` with tarfile's filter "data"
refuses a member only when it comes to it, with the earlier ones written; strips leading slashes; skips or renames ".."
in zips without an error; has no bound on the size; does not check gzip's checksum at the end of a tar; and refuses
folders that the user has linked to another disk. None resumes, or puts single folders elsewhere.
"""

import errno
import gzip
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from cores_core.errors import DataError, reason_of
from cores_core.files import DISK_FULL, replacing

MAX_RATIO = 100
"""Largest ratio of unpacked to packed size; archives of images and annotations stay far below."""
_COPY_BYTES = 1 << 20
_DISK_FULL = (*DISK_FULL, errno.EFBIG)
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, NotImplementedError)
_REFUSED_HINT = "nothing of it was unpacked; get it from elsewhere"
_ROOM_HINT = "make room, or choose another --data-root; then run the command again to resume"


def is_archive_name(name: str) -> bool:
    """Whether a file is an archive, by its name."""
    return name.endswith((".zip", ".tar", ".tar.gz", ".tgz"))


def is_archive(file: Path) -> bool:
    """Whether a file has the signature of the archive that its name promises."""
    return zipfile.is_zipfile(file) if file.name.removesuffix(".part").endswith(".zip") else tarfile.is_tarfile(file)


def stays_inside(name: str) -> bool:
    """Whether a relative path stays below its folder, on any system."""
    path = PureWindowsPath(name)
    return not (path.drive or path.root or ".." in path.parts or "\0" in name)


def check_room(needed: int, folder: Path) -> None:
    """Raise a DataError unless `needed` bytes are free below a folder."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(f"{needed:,} bytes are needed, {free:,} are free: {folder}", hint=_ROOM_HINT)


@contextmanager
def room(needed: int, folder: Path) -> Iterator[None]:
    """Guard the writing of `needed` bytes below a folder.

    Raises:
        DataError: fewer bytes are free, or the disk becomes full.
    """
    check_room(needed, folder)
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        free = shutil.disk_usage(folder).free
        message = f"no room left ({error.strerror}): {needed:,} bytes were needed, {free:,} are free: {folder}"
        raise DataError(message, hint=_ROOM_HINT) from error


def unpack(file: Path, folder: Path, members: Sequence[tuple[str, str]] = ()) -> None:
    """Unpack a zip, tar or tar.gz; existing files of the right size are kept.

    Args:
        members: what to unpack, as (in the archive, below `folder`): folders, which end in "/", or files; each must be
            there. Empty: everything.

    Raises:
        DataError: the archive is damaged (then it is removed), or is refused, or lacks a member; or there is no
            room.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _open_members(file) as found:
            _check(found, file)
            planned = _plan(found, file, members or (("", ""),))
            _write([(member, folder / path) for member, path in planned], folder)
    except _DAMAGE as error:
        file.unlink()
        raise DataError(
            f"damaged archive: {file} ({reason_of(error)})", hint="run the command again to download it"
        ) from error


@dataclass(frozen=True)
class _Member:
    """A member of an archive; `odd` names its kind if it is neither a plain file nor a folder."""

    name: str
    size: int
    is_folder: bool
    odd: str | None
    open: Callable[[], IO[bytes]]


@contextmanager
def _open_members(file: Path) -> Iterator[list[_Member]]:
    if file.name.endswith(".zip"):
        with zipfile.ZipFile(file) as zipped:
            yield [_zip_member(zipped, info) for info in zipped.infolist()]
    else:
        with tarfile.open(file) as tar:
            found = [_tar_member(tar, info) for info in tar]
            while tar.fileobj is not None and tar.fileobj.read(_COPY_BYTES):
                pass  # reads to the end, where gzip's checksum is
            yield found


def _zip_member(zipped: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    kind, odd = stat.S_IFMT(info.external_attr >> 16), None
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        odd = "a link" if kind == stat.S_IFLNK else "a device"
    elif info.flag_bits & 1:
        odd = "an encrypted file"
    return _Member(info.filename, info.file_size, info.filename.endswith("/"), odd, partial(zipped.open, info))


def _tar_member(tar: tarfile.TarFile, info: tarfile.TarInfo) -> _Member:
    odd = None
    if not (info.isreg() or info.isdir()):
        odd = "a link" if info.issym() or info.islnk() else "a device"
    return _Member(info.name, info.size, info.isdir(), odd, partial(_open_in_tar, tar, info))


def _open_in_tar(tar: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    opened = tar.extractfile(info)
    assert opened is not None  # None for links and devices, which `_check` refuses
    return opened


def _check(found: list[_Member], file: Path) -> None:
    for member in found:
        why = member.odd and f"is {member.odd}"
        if not stays_inside(member.name):
            why = "leads out of its folder"
        if why:
            raise DataError(f"refused: {file} holds {member.name!r}, which {why}", hint=_REFUSED_HINT)


def _plan(found: list[_Member], file: Path, wanted: Sequence[tuple[str, str]]) -> list[tuple[_Member, str]]:
    """The files to write, as (member, path below the folder)."""
    planned: list[tuple[_Member, str]] = []
    missing = dict(wanted)
    for member in found:
        name = PurePosixPath(member.name).as_posix()
        for source, goal in wanted:
            is_within = name.startswith(source) if source.endswith("/") or not source else name == source
            if is_within and not member.is_folder:
                planned.append((member, goal + name.removeprefix(source)))
                missing.pop(source, None)
                break
    if missing:
        names = ", ".join(name or "any file" for name in missing)
        raise DataError(f"{file} does not hold {names}", hint="unpack it by hand to where it belongs")
    total = sum(member.size for member, _ in planned)
    if total > MAX_RATIO * file.stat().st_size:
        raise DataError(f"refused: {file} would unpack to {total:,} bytes", hint=_REFUSED_HINT)
    return planned


def _write(planned: list[tuple[_Member, Path]], folder: Path) -> None:
    left = [(member, path) for member, path in planned if not path.is_file() or path.stat().st_size != member.size]
    with room(sum(member.size for member, _ in left), folder):
        for member, path in left:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary, temporary.open("wb") as target, member.open() as source:
                shutil.copyfileobj(source, target, _COPY_BYTES)
