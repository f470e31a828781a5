"""Download the archives of data sets: resumed, verified, and unpacked into LISA's folder layout.

`<data root>/downloads/<name>.part` grows; `<name>.part.json` holds its URL and version (ETag or Last-Modified). When it
is complete it becomes `<name>` (a file put there by hand is used as well), is unpacked, and `<name>.done` lets later
calls skip it. An archive may be deleted once it is unpacked.

Connections, redirects and proxies are left to httpx2, the client of huggingface_hub. This file adds what it does not
do: resuming across calls and processes by RFC 9110 (Range, If-Range, 416), mirrors, and retries that count only
attempts without new bytes.
"""

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx2

from cores_core.data.unpack import check_room, is_archive, is_archive_name, room, stays_inside, unpack
from cores_core.data.web import build_client
from cores_core.errors import DataError
from cores_core.files import read_json, replacing, save_text, writing_hint
from cores_core.locks import locked

MAX_PAUSE = 60.0
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Archive:
    """A file to download, and where its content belongs.

    Attributes:
        name: file name in the cache; it is unpacked if it ends in .zip, .tar, .tar.gz or .tgz.
        urls: mirrors, http or https; the first that works is used.
        unpack_to: folder below the data root. A file that is no archive is moved there.
        size: bytes. sha256: hexadecimal. None where they are not published; then only the length that the server states
            and the form of the archive are checked.
        members: what to unpack, as (path in the archive, path below `unpack_to`): folders, which end in "/", or files.
            Each must be there. Empty: everything.
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
                raise DataError(f"neither http nor https: {url}", hint="give a URL of a web server")
        for path in (self.name, self.unpack_to, *(goal for _, goal in self.members)):
            if not stays_inside(path):
                raise DataError(f"leads out of the data root: {path}", hint="give a path below it")

    @property
    def is_archive(self) -> bool:
        """Whether it is unpacked."""
        return is_archive_name(self.name)

    @property
    def digest(self) -> str:
        """Identifies the unpacked content and its place; independent of the mirrors."""
        description = (self.name, self.unpack_to, self.size, self.sha256, self.members)
        return hashlib.sha256(repr(description).encode()).hexdigest()


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how patiently a mirror is tried.

    Attributes:
        attempts: consecutive attempts without a new byte before the next mirror is tried.
        pause: seconds after the first of them; doubled each time, up to `MAX_PAUSE`.
        timeout: seconds without a byte after which a connection is closed.
    """

    attempts: int = 4
    pause: float = 1.0
    timeout: float = 60.0


RETRY = RetryPolicy()


def fetch_archive(
    archive: Archive, data_root: Path, progress: Callable[[int], object], retry: RetryPolicy = RETRY
) -> None:
    """Download, verify and unpack one file. Skips what is done and resumes what was interrupted.

    Args:
        progress: called with the number of new bytes; negative if a file starts again.

    Raises:
        DataError: no mirror has the right file, there is no room for it, or it is damaged or refused.
        LockError: another process is downloading it.
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
                _download(archive, file, progress, retry)
            _put_in_place(archive, file, data_root / archive.unpack_to)
            save_text(archive.digest, marker)
        except OSError as error:  # of the disk: httpx2's errors are no OSErrors
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


class _AttemptError(Exception):
    """Why an attempt failed, and whether to try the same mirror again."""

    def __init__(self, reason: str, again: bool = True) -> None:
        super().__init__(reason)
        self.again = again


@dataclass
class _Part:
    """An incomplete file with its version on the server; `reported` is the sum of all progress calls, in bytes."""

    path: Path
    progress: Callable[[int], object]
    reported: int = 0

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def about(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    def version_from(self, url: str) -> str | None:
        """The version, if the part came from this URL; empty if that server names none."""
        try:
            source, version = read_json(self.about)
        except (OSError, ValueError, TypeError):
            return None
        return version if source == url and isinstance(version, str) else None

    def report(self, size: int) -> None:
        self.progress(size - self.reported)
        self.reported = size

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self.about.unlink(missing_ok=True)
        self.report(0)


def _download(archive: Archive, file: Path, progress: Callable[[int], object], retry: RetryPolicy) -> None:
    """Try the mirror that the part is from, then the others in their order."""
    part = _Part(file.with_name(f"{file.name}.part"), progress)
    check_room((archive.size or 0) - part.size, file.parent)
    failures: list[str] = []
    with build_client(retry.timeout, follow_redirects=True) as client:
        for url in sorted(archive.urls, key=lambda url: part.version_from(url) is None):
            try:
                _download_from(client, url, archive, part, retry)
                if fault := _find_fault(archive, part.path):
                    part.drop()
                    raise _AttemptError(fault)
            except _AttemptError as failure:
                failures.append(f"{url}: {failure}")
                continue
            part.path.replace(file)
            part.about.unlink(missing_ok=True)
            return
    hint = f"run the command again to resume, or put the file there by hand: {file}"
    raise DataError(f"cannot download {archive.name}: {'; '.join(failures)}", hint=hint)


def _download_from(client: httpx2.Client, url: str, archive: Archive, part: _Part, retry: RetryPolicy) -> None:
    failed, most = 0, part.size if part.version_from(url) else 0
    while True:
        try:
            return _attempt(client, url, archive, part)
        except _AttemptError as failure:
            failed = 0 if part.size > most else failed + 1
            most = max(most, part.size)
            if not failure.again or failed >= retry.attempts:
                raise
        time.sleep(min(MAX_PAUSE, retry.pause * 2 ** max(0, failed - 1)))


def _attempt(client: httpx2.Client, url: str, archive: Archive, part: _Part) -> None:
    version = part.version_from(url)
    start = part.size if version else 0
    headers = {"Range": f"bytes={start}-", "If-Range": version} if version and start else {}
    try:
        with client.stream("GET", url, headers=headers) as response:
            if response.status_code == 416:
                if start and response.headers.get("Content-Range") == f"bytes */{start}":
                    return part.report(start)  # it was complete
                part.drop()
                raise _AttemptError("HTTP 416: the part on disk does not belong to this file")
            if response.is_error:
                reason = f"HTTP {response.status_code} {response.reason_phrase}"
                raise _AttemptError(reason, again=response.status_code in _TRANSIENT)
            _receive(response, url, archive, part, start)
    except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError) as error:  # the last for names that DNS cannot hold
        raise _AttemptError(str(error) or type(error).__name__) from error


def _receive(response: httpx2.Response, url: str, archive: Archive, part: _Part, asked: int) -> None:
    start, length = _read_span(response, asked)
    if archive.size is not None and length not in (None, archive.size):
        raise _AttemptError(f"expected {archive.size:,} bytes, got {length:,}", again=False)
    with room((length or archive.size or 0) - start, part.path.parent), part.path.open("ab" if start else "wb") as file:
        if not start:
            etag = response.headers.get("ETag", "W/")  # a weak one does not promise the same bytes
            version = response.headers.get("Last-Modified", "") if etag.startswith("W/") else etag
            save_text(json.dumps([url, version]), part.about)
        part.report(start)
        for chunk in response.iter_raw():
            file.write(chunk)
            part.report(part.reported + len(chunk))
    if length not in (None, part.size):
        raise _AttemptError(f"{part.size:,} of {length:,} bytes received")


def _read_span(response: httpx2.Response, asked: int) -> tuple[int, int | None]:
    """Where in the file the body begins, and the length of the whole file if it is stated."""
    if response.status_code == 200:
        length = response.headers.get("Content-Length")
        return 0, None if length is None else int(length)
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if response.status_code != 206 or span is None or int(span[1]) != asked:
        raise _AttemptError(f"HTTP {response.status_code}: not the range that was asked for")
    return asked, None if span[2] == "*" else int(span[2])
