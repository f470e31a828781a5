"""Files of data sets from the web: fetched whole, checked, and unpacked into LISA's tree. What was cut off goes on.

`<data root>/downloads/<name>.part` grows; `<name>.part.json` tells which version of the file it is of. Then it becomes
`<name>` (a file put there by hand is as good), is unpacked, and `<name>.done` lets later calls skip it. An archive may
be deleted once it is unpacked. Source of the rules for going on: RFC 9110 (Range, If-Range, 416).
"""

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib import request
from urllib.error import HTTPError

from cores_core.data.unpack import check_room, is_archive, is_archive_name, room, stays_inside, unpack
from cores_core.errors import DataError
from cores_core.files import replacing, save_text, writing_hint
from cores_core.locks import locked

CHUNK_BYTES = 1 << 20
LONGEST_PAUSE = 60.0
_WORTH_ANOTHER_TRY = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Archive:
    """One file of the web, and where what it holds belongs.

    Attributes:
        name: its name in the cache; a name that ends in .zip, .tar, .tar.gz or .tgz is of an archive.
        urls: where it is, http or https; the first that works is taken.
        unpack_to: folder below the data root. What is no archive is moved there.
        size: bytes. sha256: in hexadecimal digits. None where they are not published: then the length that the server
            tells is checked, and that an archive is one.
        members: what to unpack, as (in the archive, below `unpack_to`): folders, which end in "/", or files. Each must
            be there. Empty: everything.
    """

    name: str
    urls: tuple[str, ...]
    unpack_to: str
    size: int | None
    sha256: str | None
    members: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for url in self.urls:
            if not url.startswith(("http://", "https://")):
                raise DataError(f"neither http nor https: {url}", hint="only these are fetched")
        for path in (self.name, self.unpack_to, *(goal for _, goal in self.members)):
            if not stays_inside(path):
                raise DataError(f"leads out of the data root: {path}", hint="name a path below it")

    @property
    def is_archive(self) -> bool:
        """Whether it is to be unpacked."""
        return is_archive_name(self.name)

    @property
    def digest(self) -> str:
        """Tells apart what was unpacked, and where to; another mirror makes no other file."""
        description = (self.name, self.unpack_to, self.size, self.sha256, self.members)
        return hashlib.sha256(repr(description).encode()).hexdigest()


@dataclass(frozen=True)
class Patience:
    """How long a mirror is tried.

    Attributes:
        tries: in a row that brought nothing new.
        pause: seconds after the first of them; they double, up to `LONGEST_PAUSE`.
        timeout: seconds without a byte after which a connection is dead.
    """

    tries: int = 4
    pause: float = 1.0
    timeout: float = 60.0


PATIENCE = Patience()


def fetch_archive(
    archive: Archive, data_root: Path, progress: Callable[[int], object], patience: Patience = PATIENCE
) -> None:
    """Download, check and unpack one file; do nothing if that is done, go on if it was cut off.

    Args:
        progress: takes how many more bytes are there; fewer than none if a file starts anew.

    Raises:
        DataError: no mirror has the right file, there is no room for it, or it is damaged or refused.
        LockError: another process fetches it.
    """
    cache = data_root / "downloads"
    file, marker = cache / archive.name, cache / f"{archive.name}.done"
    if _is_done(archive, data_root, marker):
        progress(archive.size or 0)
        return
    with locked(file, beside=True):
        try:
            cache.mkdir(parents=True, exist_ok=True)
            if file.is_file() and not _find_fault(archive, file):
                progress(file.stat().st_size)
            else:
                _download(archive, file, progress, patience)
            _put_in_place(archive, file, data_root / archive.unpack_to)
            save_text(archive.digest, marker)
        except OSError as error:  # none of the network's comes this far
            message = f"cannot write {archive.name} below {data_root} ({error})"
            raise DataError(message, hint=writing_hint(error)) from error


def _is_done(archive: Archive, data_root: Path, marker: Path) -> bool:
    if not marker.is_file() or marker.read_text(encoding="utf-8") != archive.digest:
        return False
    goals = [goal for _, goal in archive.members] or ["" if archive.is_archive else archive.name]
    return all((data_root / archive.unpack_to / goal).exists() for goal in goals)


def _put_in_place(archive: Archive, file: Path, folder: Path) -> None:
    if archive.is_archive:
        unpack(file, folder, archive.members)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with room(file.stat().st_size, folder), replacing(folder / archive.name) as temporary:
        shutil.copyfile(file, temporary)  # the folder may be on another disk
    file.unlink()


def _find_fault(archive: Archive, file: Path) -> str | None:
    size = file.stat().st_size
    if archive.size not in (None, size):
        return f"expected {archive.size:,} bytes, got {size:,}"
    if archive.sha256 is not None:
        with file.open("rb") as opened:
            got = hashlib.file_digest(opened, "sha256").hexdigest()
        return None if got == archive.sha256 else f"expected sha256 {archive.sha256}, got {got}"
    return f"expected an archive, got {size:,} other bytes" if archive.is_archive and not is_archive(file) else None


class _TryError(Exception):
    """Why a try failed, and whether another at the same mirror makes sense."""

    def __init__(self, reason: str, again: bool = True) -> None:
        super().__init__(reason)
        self.again = again


@dataclass
class _Part:
    """A file that grows, what a server calls this version of it, and how much of it progress was told."""

    path: Path
    progress: Callable[[int], object]
    told: int = 0

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def about(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    def version_from(self, url: str) -> str | None:
        """The version, if it came from there; empty if that server names none."""
        try:
            source, version = json.loads(self.about.read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError):
            return None
        return version if source == url and isinstance(version, str) else None

    def tell(self, size: int) -> None:
        self.progress(size - self.told)
        self.told = size

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self.about.unlink(missing_ok=True)
        self.tell(0)


def _download(archive: Archive, file: Path, progress: Callable[[int], object], patience: Patience) -> None:
    """From the mirror that the part is of, then from the others in their order."""
    part = _Part(file.with_name(f"{file.name}.part"), progress)
    check_room((archive.size or 0) - part.size, file.parent)
    failures: list[str] = []
    for url in sorted(archive.urls, key=lambda url: part.version_from(url) is None):
        try:
            _download_from(url, archive, part, patience)
            if fault := _find_fault(archive, part.path):
                part.drop()
                raise _TryError(fault)
        except _TryError as failure:
            failures.append(f"{url}: {failure}")
            continue
        part.path.replace(file)
        part.about.unlink(missing_ok=True)
        return
    hint = f"call again to go on, or put it there by hand: {file}"
    raise DataError(f"cannot download {archive.name}: {'; '.join(failures)}", hint=hint)


def _download_from(url: str, archive: Archive, part: _Part, patience: Patience) -> None:
    failed, most = 0, part.size if part.version_from(url) else 0
    while True:
        try:
            return _try_once(url, archive, part, patience.timeout)
        except _TryError as failure:
            failed = 0 if part.size > most else failed + 1
            most = max(most, part.size)
            if not failure.again or failed >= patience.tries:
                raise
        time.sleep(min(LONGEST_PAUSE, patience.pause * 2 ** max(0, failed - 1)))


def _try_once(url: str, archive: Archive, part: _Part, timeout: float) -> None:
    version = part.version_from(url)
    start = part.size if version else 0
    headers = {"User-Agent": "cores", "Accept-Encoding": "identity"}
    if version and start:
        headers |= {"Range": f"bytes={start}-", "If-Range": version}
    try:
        response: HTTPResponse = _OPENER.open(request.Request(url, headers=headers), timeout=timeout)
    except HTTPError as error:
        error.close()
        if error.code != 416:
            again = error.code in _WORTH_ANOTHER_TRY
            raise _TryError(f"HTTP {error.code} {error.reason}", again) from error
        if start and error.headers.get("Content-Range") == f"bytes */{start}":
            return part.tell(start)  # it was whole
        part.drop()
        raise _TryError("HTTP 416: what was begun is no part of it") from error
    except (OSError, HTTPException) as error:
        raise _TryError(_reason(error)) from error
    with response:
        _receive(response, url, archive, part, start)


def _receive(response: HTTPResponse, url: str, archive: Archive, part: _Part, asked: int) -> None:
    start, length = _read_span(response, asked)
    if archive.size is not None and length not in (None, archive.size):
        raise _TryError(f"expected {archive.size:,} bytes, got {length:,}", again=False)
    with room((length or archive.size or 0) - start, part.path.parent):
        _save_body(response, url, part, start)
    if length not in (None, part.size):
        raise _TryError(f"cut off after {part.size:,} of {length:,} bytes")


def _read_span(response: HTTPResponse, asked: int) -> tuple[int, int | None]:
    """Where in the file the body begins, and the length of the whole file if it is told."""
    if response.status == 200:
        return 0, response.length
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if response.status != 206 or span is None or int(span[1]) != asked:
        raise _TryError(f"HTTP {response.status}: not what was asked for")
    return asked, None if span[2] == "*" else int(span[2])


def _save_body(response: HTTPResponse, url: str, part: _Part, start: int) -> None:
    with part.path.open("ab" if start else "wb") as file:
        if not start:
            etag = response.headers.get("ETag", "W/")  # a weak one does not promise the same bytes
            version = response.headers.get("Last-Modified", "") if etag.startswith("W/") else etag
            save_text(json.dumps([url, version]), part.about)
        part.tell(start)
        for chunk in _chunks(response):
            file.write(chunk)
            part.tell(part.told + len(chunk))


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    """What comes, as it comes: when it breaks off, all that came has been given."""
    try:
        while chunk := response.read1(CHUNK_BYTES):
            yield chunk
    except (OSError, HTTPException) as error:
        raise _TryError(_reason(error)) from error


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error) or type(error).__name__


def _build_opener() -> request.OpenerDirector:
    """As urllib's own, without ftp:, file: and data:, to which a server might lead."""
    opener = request.OpenerDirector()
    web = (request.ProxyHandler, request.HTTPHandler, request.HTTPSHandler, request.HTTPRedirectHandler)
    faults = (request.HTTPDefaultErrorHandler, request.HTTPErrorProcessor, request.UnknownHandler)
    for kind in (*web, *faults):
        opener.add_handler(kind())
    return opener


_OPENER = _build_opener()
