"""Downloads from a real server with faults, and harmful archives."""

import hashlib
import io
import json
import random
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cores_core.data.archives import ARCHIVES
from cores_core.data.download import Archive, RetryPolicy, fetch_archive
from cores_core.data.registry import DATASETS
from cores_core.errors import DataError

QUICK = RetryPolicy(attempts=3, pause=0.001, timeout=0.3)
BYTES = random.Random(0).randbytes(200_000)
LIMIT = 65_536
WITH_LITTLE_ROOM = """
import resource, sys
from pathlib import Path
from cores_core.data.download import Archive, fetch_archive
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    fetch_archive({archive!r}, Path({root!r}), lambda more: None)
except Exception as error:
    print(type(error).__name__, error)
"""

Fault = Callable[["Handler"], object]


@dataclass
class Web:
    """A server's files, what is wrong with its next answers for a path, and what it was asked for."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    sent: int = 0
    gone: threading.Event = field(default_factory=threading.Event)

    def ranges(self, path: str) -> list[str | None]:
        return [wanted for asked, wanted in self.asked if asked == path]


class Server(ThreadingHTTPServer):
    web: Web


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        web, path = self.server.web, self.path.removeprefix("/")
        web.asked.append((path, self.headers.get("Range")))
        faults = web.faults.get(path, [])
        (faults.pop(0) if faults else answer)(self)

    def log_message(self, format: str, *args: object) -> None:
        pass


def answer(
    handler: Handler, stop: int | None = None, ranges: bool = True, told: int | None = None, stalls: bool = False
) -> None:
    """As a good server would: but only up to `stop`, deaf to Range, with a false length, or silent after `stop`."""
    web, path = handler.server.web, handler.path.removeprefix("/")
    if path not in web.files:
        return handler.send_error(404)
    body, start = web.files[path], 0
    etag = f'"{hashlib.md5(body).hexdigest()}"'
    wanted = handler.headers.get("Range")
    if wanted and ranges and handler.headers.get("If-Range", etag) == etag:
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
    if start >= len(body) > 0:
        handler.send_response(416)
        handler.send_header("Content-Range", f"bytes */{len(body)}")
        return handler.end_headers()
    handler.send_response(206 if start else 200)
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
    handler.send_header("ETag", etag)
    handler.send_header("Content-Length", str(told or len(body) - start))
    handler.end_headers()
    web.sent += len(body[start:stop])  # before it goes out: whoever received it may look at once
    handler.wfile.write(body[start:stop])
    if stalls:
        handler.wfile.flush()
        web.gone.wait(5)


def status(code: int) -> Fault:
    return lambda handler: handler.send_error(code)


def elsewhere(handler: Handler) -> None:
    """The beginning, to whoever asked for the rest."""
    handler.send_response(206)
    handler.send_header("Content-Range", "bytes 0-129999/200000")
    handler.send_header("Content-Length", "130000")
    handler.end_headers()
    handler.wfile.write(BYTES[:130_000])


def short_range(handler: Handler) -> None:
    """A part of the range that was asked for, as RFC 9110 permits."""
    handler.send_response(206)
    handler.send_header("Content-Range", "bytes 70000-99999/200000")
    handler.send_header("Content-Length", "30000")
    handler.end_headers()
    handler.wfile.write(BYTES[70_000:100_000])


def without_length(handler: Handler) -> None:
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(BYTES)
    handler.close_connection = True


def redirect(where: str) -> Fault:
    def go(handler: Handler) -> None:
        handler.send_response(302)
        handler.send_header("Location", where)
        handler.end_headers()

    return go


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server(("127.0.0.1", 0), Handler)
    server.web = Web(f"http://127.0.0.1:{server.server_port}/")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server.web
    server.web.gone.set()
    server.shutdown()
    thread.join()
    server.server_close()


def plain(web: Web, *paths: str, sha256: str | None = None, size: int | None = None) -> Archive:
    """A file that is no archive, from these paths of the server."""
    urls = tuple(web.url + path for path in paths or ("a.bin",))
    return Archive("a.bin", urls, "there", size, sha256)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def fetch(archive: Archive, root: Path, retry: RetryPolicy = QUICK) -> int:
    """Fetch it, and give what progress summed up to."""
    told: list[int] = []
    fetch_archive(archive, root, told.append, retry)
    return sum(told)


def failure(archive: Archive, root: Path, retry: RetryPolicy = QUICK) -> str:
    with pytest.raises(DataError) as caught:
        fetch(archive, root, retry)
    assert caught.value.hint
    return caught.value.message


def fetch_with_little_room(archive: Archive, root: Path) -> str:
    """In a process of its own that can write no file longer than `LIMIT`: what it says."""
    code = WITH_LITTLE_ROOM.format(limit=LIMIT, archive=archive, root=str(root))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_a_file_is_fetched_once(web: Web, tmp_path: Path) -> None:
    web.files["a.bin"] = BYTES
    archive = plain(web, sha256=digest(BYTES), size=len(BYTES))
    assert fetch(archive, tmp_path) == len(BYTES)
    assert (tmp_path / "there/a.bin").read_bytes() == BYTES
    assert [path.name for path in (tmp_path / "downloads").iterdir()] == ["a.bin.done"]
    assert fetch(archive, tmp_path) == len(BYTES)
    assert len(web.asked) == 1


def test_a_file_that_was_removed_or_is_described_anew_is_fetched_again(web: Web, tmp_path: Path) -> None:
    web.files["a.bin"] = BYTES
    fetch(plain(web), tmp_path)
    (tmp_path / "there/a.bin").unlink()
    fetch(plain(web), tmp_path)
    fetch(plain(web, sha256=digest(BYTES)), tmp_path)
    assert len(web.asked) == 3


def test_a_connection_that_is_cut_goes_on_where_it_was(web: Web, tmp_path: Path) -> None:
    web.files["a.bin"] = BYTES
    web.faults["a.bin"] = [partial(answer, stop=stop) for stop in (50_000, 90_000, 91_000, 120_000, 150_000)]
    assert fetch(plain(web), tmp_path) == len(BYTES)
    ranges = ["bytes=50000-", "bytes=90000-", "bytes=91000-", "bytes=120000-", "bytes=150000-"]
    assert web.ranges("a.bin") == [None, *ranges]  # more tries than QUICK has: each brought something
    assert web.sent == len(BYTES)
    assert (tmp_path / "there/a.bin").read_bytes() == BYTES


def test_a_later_call_goes_on_and_begins_with_the_same_mirror(web: Web, tmp_path: Path) -> None:
    web.files |= {"one": BYTES, "two": BYTES}
    web.faults = {"one": [status(404)], "two": [partial(answer, stop=70_000), *[status(503)] * 3]}
    assert "503" in failure(plain(web, "one", "two"), tmp_path)
    web.asked.clear()
    assert fetch(plain(web, "one", "two"), tmp_path) == len(BYTES)
    assert web.asked == [("two", "bytes=70000-")]
    assert (tmp_path / "there/a.bin").read_bytes() == BYTES


def test_a_server_that_ignores_ranges_starts_anew(web: Web, tmp_path: Path) -> None:
    web.files["a.bin"] = BYTES
    web.faults["a.bin"] = [partial(answer, stop=70_000), partial(answer, ranges=False)]
    assert fetch(plain(web), tmp_path) == len(BYTES)
    assert web.ranges("a.bin") == [None, "bytes=70000-"]
    assert (tmp_path / "there/a.bin").read_bytes() == BYTES


def test_a_server_that_always_breaks_off_at_the_same_place_is_left(web: Web, tmp_path: Path) -> None:
    web.files["a.bin"] = BYTES
    web.faults["a.bin"] = [partial(answer, stop=70_000, ranges=False)] * 20
    assert "received 70000 bytes, expected 200000" in failure(plain(web), tmp_path)
    assert len(web.asked) == 1 + QUICK.attempts


def test_bytes_that_were_not_asked_for_are_not_taken(web: Web, tmp_path: Path) -> None:
    web.files["a.bin"] = BYTES
    web.faults["a.bin"] = [partial(answer, stop=70_000), elsewhere]
    fetch(plain(web), tmp_path)
    assert web.ranges("a.bin") == [None, "bytes=70000-", "bytes=70000-"]
    assert (tmp_path / "there/a.bin").read_bytes() == BYTES


def test_a_server_may_send_less_than_the_range(web: Web, tmp_path: Path) -> None:
    web.files["a.bin"] = BYTES
    web.faults["a.bin"] = [partial(answer, stop=70_000), short_range]
    assert fetch(plain(web), tmp_path) == len(BYTES)
    assert web.ranges("a.bin") == [None, "bytes=70000-", "bytes=100000-"]
    assert (tmp_path / "there/a.bin").read_bytes() == BYTES


def test_a_server_may_state_no_length(web: Web, tmp_path: Path) -> None:
    web.faults["a.bin"] = [without_length]
    assert fetch(plain(web), tmp_path) == len(BYTES)
    assert (tmp_path / "there/a.bin").read_bytes() == BYTES


@pytest.mark.parametrize("proxy", ["gopher://127.0.0.1:1", "http://127.0.0.1:x"])
def test_a_proxy_that_cannot_be_used_is_one_error(monkeypatch: Any, web: Web, tmp_path: Path, proxy: str) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    assert "cannot use the proxy of the environment" in failure(plain(web), tmp_path)
    assert web.asked == []


def test_a_file_that_changed_in_between_starts_anew(web: Web, tmp_path: Path) -> None:
    web.files["a.bin"] = BYTES
    web.faults["a.bin"] = [partial(answer, stop=70_000), *[status(500)] * 3]
    failure(plain(web), tmp_path)
    web.files["a.bin"] = BYTES[::-1]
    assert fetch(plain(web), tmp_path) == len(BYTES)
    assert (tmp_path / "there/a.bin").read_bytes() == BYTES[::-1]


def test_a_server_may_recover_but_what_it_has_not_is_asked_for_once(web: Web, tmp_path: Path) -> None:
    web.files["two"] = BYTES
    web.faults["two"] = [status(500), status(429)]
    fetch(plain(web, "one", "two"), tmp_path)
    assert [path for path, _ in web.asked] == ["one", "two", "two", "two"]


def test_a_host_that_is_not_there_leads_to_the_next(web: Web, tmp_path: Path) -> None:
    web.files["two"] = BYTES
    dead = replace(plain(web), urls=("http://127.0.0.1:1/a.bin", f"{web.url}two"))
    assert fetch(dead, tmp_path) == len(BYTES)


def test_wrong_bytes_are_thrown_away_and_the_next_mirror_is_asked(web: Web, tmp_path: Path) -> None:
    web.files |= {"one": BYTES[::-1], "two": BYTES}
    assert fetch(plain(web, "one", "two", sha256=digest(BYTES)), tmp_path) == len(BYTES)
    assert (tmp_path / "there/a.bin").read_bytes() == BYTES


def test_an_error_names_each_mirror_with_what_was_expected_and_what_came(web: Web, tmp_path: Path) -> None:
    web.files["one"] = BYTES
    message = failure(plain(web, "one", "two", sha256="0" * 64), tmp_path)
    assert f"{web.url}one: expected sha256 {'0' * 64}, got {digest(BYTES)}; {web.url}two: HTTP 404" in message
    assert not (tmp_path / "downloads").exists()


def test_a_wrong_length_is_found_before_a_byte_is_fetched(web: Web, tmp_path: Path) -> None:
    web.files["a.bin"] = BYTES
    told: list[int] = []
    with pytest.raises(DataError, match="expected 5 bytes, got 200,000"):
        fetch_archive(plain(web, size=5), tmp_path, told.append, QUICK)
    assert told == []
    assert len(web.asked) == 1


def test_a_connection_that_falls_silent_is_given_up(web: Web, tmp_path: Path) -> None:
    web.files["a.bin"] = BYTES
    web.faults["a.bin"] = [partial(answer, stop=30_000, stalls=True)]
    assert fetch(plain(web), tmp_path) == len(BYTES)
    assert web.ranges("a.bin") == [None, "bytes=30000-"]


def test_redirects_are_followed_and_keep_the_range(web: Web, tmp_path: Path) -> None:
    web.files["b"] = BYTES
    web.faults = {"a.bin": [redirect("/b"), redirect("/b")], "b": [partial(answer, stop=40_000)]}
    assert fetch(plain(web), tmp_path) == len(BYTES)
    assert web.ranges("b") == [None, "bytes=40000-"]


@pytest.mark.parametrize("where", ["ftp://127.0.0.1/a", "file:///etc/passwd", "data:,a", "http://a..b"])
def test_a_redirect_that_leads_nowhere_is_refused(web: Web, tmp_path: Path, where: str) -> None:
    web.faults["a.bin"] = [redirect(where)] * 3
    failure(plain(web), tmp_path)
    assert not (tmp_path / "there").exists()


def test_only_http_is_fetched_and_nothing_leaves_the_data_root() -> None:
    for url, name, folder in (("ftp://x/a", "a", "b"), ("http://x/a", "../a", "b"), ("http://x/a", "a", "/b")):
        with pytest.raises(DataError):
            Archive(name, (url,), folder, None, None)


def test_a_part_that_is_whole_already_is_taken_and_one_that_is_too_long_is_not(web: Web, tmp_path: Path) -> None:
    web.files["a.bin"] = BYTES
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    for part, ranges in ((BYTES, ["bytes=200000-"]), (BYTES + b"more", ["bytes=200004-", None])):
        (downloads / "a.bin.part").write_bytes(part)
        etag = f'"{hashlib.md5(BYTES).hexdigest()}"'
        (downloads / "a.bin.part.json").write_text(json.dumps([f"{web.url}a.bin", etag]))
        (downloads / "a.bin.done").unlink(missing_ok=True)
        web.asked.clear()
        assert fetch(plain(web), tmp_path) == len(BYTES)
        assert web.ranges("a.bin") == ranges
        assert (tmp_path / "there/a.bin").read_bytes() == BYTES


def test_an_interrupted_call_keeps_what_came(web: Web, tmp_path: Path) -> None:
    web.files["a.bin"] = BYTES
    web.faults["a.bin"] = [partial(answer, stop=50_000, stalls=True)]
    came = 0

    def interrupt(more: int) -> None:
        nonlocal came
        came += more
        if came == 50_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_archive(plain(web), tmp_path, interrupt, QUICK)
    fetch(plain(web), tmp_path)
    assert web.ranges("a.bin") == [None, "bytes=50000-"]


def test_a_file_put_there_by_hand_is_as_good(web: Web, tmp_path: Path) -> None:
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads/a.bin").write_bytes(BYTES)
    assert fetch(plain(web, sha256=digest(BYTES)), tmp_path) == len(BYTES)
    assert web.asked == []


def test_nothing_is_asked_for_without_room(web: Web, tmp_path: Path) -> None:
    assert f"{1 << 60:,} bytes are needed" in failure(plain(web, size=1 << 60), tmp_path)
    assert web.asked == []


def test_nothing_is_written_without_room_for_what_the_server_tells(web: Web, tmp_path: Path) -> None:
    web.files["a.bin"] = BYTES
    web.faults["a.bin"] = [partial(answer, told=1 << 60)]
    assert f"{1 << 60:,} bytes are needed" in failure(plain(web), tmp_path)
    assert len(web.asked) == 1


def test_a_full_disk_is_named_and_what_came_is_kept(web: Web, tmp_path: Path) -> None:
    web.files["a.bin"] = BYTES
    said = fetch_with_little_room(plain(web), tmp_path)
    assert said.startswith("DataError no room left")
    assert "200,000 bytes were needed" in said
    kept = (tmp_path / "downloads/a.bin.part").stat().st_size
    assert 0 < kept <= LIMIT
    fetch(plain(web), tmp_path)
    assert web.ranges("a.bin") == [None, f"bytes={kept}-"]
    assert (tmp_path / "there/a.bin").read_bytes() == BYTES


def test_a_folder_that_cannot_be_made_is_named(web: Web, tmp_path: Path) -> None:
    (tmp_path / "downloads").write_text("a file")
    assert f"cannot write a.bin below {tmp_path}" in failure(plain(web), tmp_path)


def zipped(**members: bytes) -> bytes:
    return zipped_as(*((name.replace("__", "/"), data) for name, data in members.items()))


def zipped_as(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members:
            file.writestr(name, data)
    return buffer.getvalue()


def tarred(*members: tuple[tarfile.TarInfo | str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as file:  # type: ignore[call-overload]
        for member, data in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zip_link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, 0o120777 << 16
    return info


def packed(web: Web, name: str, data: bytes, *members: tuple[str, str]) -> Archive:
    web.files[name] = data
    return Archive(name, (web.url + name,), "there", None, None, members)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.zip", zipped_as(("there/b", b"b"), ("x/..\\../b", b"b"))),
        ("a.tar", tarred(("./x/b", b"b"))),
        ("a.tar.gz", tarred(("x/b", b"b"), mode="w:gz")),
        ("a.zip", zipped(x__b=b"b")),
    ],
    ids=["escape", "tar", "tar.gz", "zip"],
)
def test_zip_tar_and_gzip_are_unpacked_unless_they_lead_out(web: Web, tmp_path: Path, name: str, data: bytes) -> None:
    archive = packed(web, name, data)
    if b".." in data:
        assert "leads out of its folder" in failure(archive, tmp_path)
        assert list((tmp_path / "there").iterdir()) == []
    else:
        fetch(archive, tmp_path)
        assert (tmp_path / "there/x/b").read_bytes() == b"b"


HARMFUL = {
    "zip upwards": ("a.zip", zipped_as(("good", b"a"), ("../bad", b"b")), "'../bad', which leads out"),
    "zip absolute": ("a.zip", zipped_as(("good", b"a"), ("/tmp/bad", b"b")), "'/tmp/bad', which leads out"),
    "zip drive": ("a.zip", zipped_as(("good", b"a"), ("C:bad", b"b")), "'C:bad', which leads out"),
    "zip link": ("a.zip", zipped_as(("good", b"a"), (zip_link("bad"), b"/etc")), "'bad', which is a link"),
    "tar upwards": ("a.tar", tarred(("good", b"a"), ("x/../../bad", b"b")), "which leads out"),
    "tar absolute": ("a.tar", tarred(("good", b"a"), ("/tmp/bad", b"b")), "which leads out"),
    "tar link": ("a.tar", tarred(("good", b"a"), (special("bad", tarfile.SYMTYPE, "/etc"), b"")), "is a link"),
    "tar hard link": ("a.tar", tarred(("good", b"a"), (special("bad", tarfile.LNKTYPE, "../c"), b"")), "is a link"),
    "tar device": ("a.tar", tarred(("good", b"a"), (special("bad", tarfile.CHRTYPE), b"")), "is a device"),
    "tar pipe": ("a.tar", tarred(("good", b"a"), (special("bad", tarfile.FIFOTYPE), b"")), "is a device"),
    "zip bomb": ("a.zip", zipped(bad=bytes(5_000_000)), "would unpack to 5,000,000 bytes"),
    "gzip bomb": ("a.tgz", tarred(("bad", bytes(5_000_000)), mode="w:gz"), "would unpack to 5,000,000 bytes"),
}


@pytest.mark.parametrize("kind", HARMFUL)
def test_an_archive_that_means_harm_is_refused_whole(web: Web, tmp_path: Path, kind: str) -> None:
    name, data, why = HARMFUL[kind]
    root = tmp_path / "root"
    assert why in failure(packed(web, name, data), root)
    assert list((root / "there").iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["root"]
    assert not (root / f"downloads/{name}.done").exists()


def test_only_what_was_named_is_unpacked_to_where_it_belongs(web: Web, tmp_path: Path) -> None:
    data = tarred(("./top/images/a", b"a"), ("./top/images2/b", b"b"), ("./top/list", b"c"), ("./rest", b"d"))
    fetch(packed(web, "a.tar", data, ("top/images/", "images/"), ("top/list", "list.txt")), tmp_path)
    found = {path.relative_to(tmp_path / "there").as_posix() for path in (tmp_path / "there").rglob("*")}
    assert found == {"images", "images/a", "list.txt"}


def test_what_an_archive_should_hold_and_does_not_is_named(web: Web, tmp_path: Path) -> None:
    archive = packed(web, "a.zip", zipped(images__a=b"a"), ("images/", ""), ("masks/", "masks/"))
    assert "does not hold masks/" in failure(archive, tmp_path)


def test_an_interrupted_unpacking_goes_on(web: Web, tmp_path: Path) -> None:
    long = bytes(random.Random(1).choices(b"01", k=LIMIT + 1))
    archive = packed(web, "a.zip", zipped(a=b"a", b=long, c=b"c"))
    assert "no room left" in fetch_with_little_room(archive, tmp_path)
    there = tmp_path / "there"
    assert [path.name for path in there.iterdir()] == ["a"]
    (there / "a").write_bytes(b"A")  # of the right size: it is not written again
    (there / "c").write_bytes(b"half")
    fetch(archive, tmp_path)
    assert [(there / name).read_bytes() for name in "abc"] == [b"A", long, b"c"]
    assert len(web.asked) == 1


@pytest.mark.parametrize("name", ["a.zip", "a.tgz"])
def test_a_damaged_archive_is_removed_and_fetched_anew(web: Web, tmp_path: Path, name: str) -> None:
    good = zipped(a=BYTES) if name == "a.zip" else tarred(("a", BYTES), mode="w:gz")
    archive = packed(web, name, good[:100_000] + bytes(10) + good[100_010:])
    assert "damaged archive" in failure(archive, tmp_path)
    assert list((tmp_path / "there").iterdir()) == []
    web.files[name] = good
    fetch(archive, tmp_path)
    assert (tmp_path / "there/a").read_bytes() == BYTES


def test_a_page_instead_of_an_archive_leads_to_the_next_mirror(web: Web, tmp_path: Path) -> None:
    web.files |= {"one": b"<html>Sorry</html>", "two": zipped(a=b"a")}
    fetch(Archive("a.zip", (f"{web.url}one", f"{web.url}two"), "there", None, None), tmp_path)
    assert (tmp_path / "there/a").read_bytes() == b"a"


def test_names_in_other_encodings_are_unpacked(web: Web, tmp_path: Path) -> None:
    in_zip = zipped(xxxx=b"a").replace(b"xxxx", b"\xe9\xff\x82\xa0")
    fetch(packed(web, "a.zip", in_zip), tmp_path)
    in_tar = tarred(("xxxx", b"a"))
    fetch(packed(web, "b.tar", _rename(in_tar, b"xxxx", b"\xe9\xff\x82\xa0")), tmp_path)
    assert [path.read_bytes() for path in (tmp_path / "there").iterdir()] == [b"a", b"a"]


def _rename(tar: bytes, old: bytes, new: bytes) -> bytes:
    """A tar with another name in its header, and the checksum that is then right."""
    header = bytearray(tar[:512].replace(old, new))
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + tar[512:]


def test_a_link_of_the_user_is_followed(web: Web, tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "there/images").symlink_to(tmp_path / "large")
    fetch(packed(web, "a.zip", zipped(images__a=b"a")), tmp_path)
    assert (tmp_path / "large/a").read_bytes() == b"a"


CONTENTS = {
    "train2017.zip": ("train2017/000000000009.jpg",),
    "val2017.zip": ("val2017/000000000139.jpg",),
    "train2014.zip": ("train2014/COCO_train2014_000000000009.jpg",),
    "stuffthingmaps_trainval2017.zip": ("train2017/000000000009.png", "val2017/000000000139.png"),
    "ADEChallengeData2016.zip": tuple(
        f"ADEChallengeData2016/{kind}/{split}/ADE_1.{ending}"
        for kind, ending in (("images", "jpg"), ("annotations", "png"))
        for split in ("training", "validation")
    ),
    "paco_lvis_v1.zip": tuple(f"paco_lvis_v1_{split}.json" for split in ("test", "train", "val")),
    "VOCtrainval_03-May-2010.tar": ("VOCdevkit/VOC2010/JPEGImages/2007_000027.jpg",),
    "refclef.zip": ("refclef/instances.json", "refclef/refs(unc).p", "refclef/refs(berkeley).p"),
    "refcoco.zip": ("refcoco/instances.json", "refcoco/refs(unc).p", "refcoco/refs(google).p"),
    "refcoco+.zip": ("refcoco+/instances.json", "refcoco+/refs(unc).p"),
    "refcocog.zip": ("refcocog/instances.json", "refcocog/refs(umd).p", "refcocog/refs(google).p"),
    "saiapr_tc-12.zip": ("saiapr_tc-12/00/images/25.jpg",),
}
"""Names inside the real archives, as those who use them list them."""
LEFT = {"pascal_part": {"vlpart/pascal_part/train.json", "vlpart/pascal_part/val.json"}}
"""What is still to be fetched by hand."""


def _small(web: Web, archive: Archive) -> Archive:
    """The archive with a byte in each of its files, on our server."""
    members = [(name, b"a") for name in CONTENTS.get(archive.name, ())]
    packs = tarred(*members) if archive.name.endswith(".tar") else zipped_as(*members)
    web.files[archive.name] = packs if archive.is_archive else b"[]"
    return replace(archive, urls=(web.url + archive.name,), size=None, sha256=None)


@pytest.mark.parametrize("name", ARCHIVES)
def test_the_archives_of_a_data_set_bring_what_its_row_of_the_registry_wants(
    web: Web, tmp_path: Path, name: str
) -> None:
    spec = DATASETS[name]
    for archive in ARCHIVES[name]:
        before = {path for split in spec.splits for path in spec.missing(tmp_path, split)}
        fetch(_small(web, archive), tmp_path)
        after = {path for split in spec.splits for path in spec.missing(tmp_path, split)}
        assert after < before, archive.name
    assert {path.relative_to(tmp_path).as_posix() for path in after} == LEFT.get(name, set())


def test_archives_have_names_of_their_own_and_digests_in_the_usual_form() -> None:
    archives = {archive for of_set in ARCHIVES.values() for archive in of_set}
    assert len({archive.name for archive in archives}) == len(archives)
    for archive in archives:
        assert archive.urls
        assert archive.sha256 is None or (len(archive.sha256) == 64 and int(archive.sha256, 16) >= 0)
        assert not Path(archive.unpack_to).is_absolute()
