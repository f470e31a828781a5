"""Inputs of a prediction job: image files, folders, globs, JSONL files, standard input, videos.

Each becomes a `Request`, an image with the questions about it, in the order given; folders are read recursively in
alphabetical order, linked folders too. Images are decoded when a request is loaded, not here; a URL of an image is read
by fsspec.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cores_core.errors import DataError, reason_of
from cores_core.files import parse_json
from cores_core.formats.labelled import check_text, list_texts
from cores_core.images import IMAGE_SUFFIXES, has_url_form, is_url, load_image, load_image_url
from cores_core.sample import Query, RgbImage

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
STDIN = "-"
_FRAME = "#"


@dataclass(frozen=True)
class Request:
    """An image with the questions about it.

    Attributes:
        image: its path or URL as rows and files name it; of a video's frame `clip.mp4#120`, frames counted from 0.
        name: path of its output files below the output folder, without suffix; unique in a job.
        path: of the file. frame: of a video, None for an image.
    """

    image: str
    name: str
    path: Path
    queries: tuple[Query, ...]
    frame: int | None = None

    def output_name(self, number: int) -> str:
        """Path, as `name`, of the files of one answer; questions are counted from 1."""
        return self.name if len(self.queries) == 1 else f"{self.name}.{number}"

    def load(self) -> RgbImage:
        """Decode the image, upright (H, W, 3) uint8 RGB.

        Raises:
            DataError: it cannot be read.
        """
        if self.frame is not None:
            return read_frame(self.path, self.frame)
        return load_image_url(self.image) if is_url(self.image) else load_image(self.image)


def list_requests(
    sources: Sequence[str], queries: Sequence[Query], stdin: Iterable[str] = (), every: int = 1
) -> Iterator[Request]:
    """The requests of all sources: one for each image, with the questions of all its lines.

    Args:
        sources: paths of images, folders, JSONL files and videos, globs, or `-` for JSONL lines of `stdin`. With `-`,
            each line is a request of its own, yielded before the next one is read.
        queries: asked about every image; lines of JSONL that bring questions are asked these instead.
        every: of a video, use each n-th frame.

    Raises:
        DataError: a source does not exist, has no images, or a line is damaged; or an image has no question.
    """
    names: set[str] = set()
    found = _find_requests(sources, queries, stdin, every)
    for request in found if STDIN in sources else _merge(found):
        yield replace(request, name=_unique(Path(request.name), len(request.queries), names))


def is_single_image(source: str) -> bool:
    """Whether a source is one image file, and not a folder, a list, a video or a glob."""
    path = Path(source)
    if is_url(source):
        return True
    lists = source == STDIN or path.suffix.lower() in (".jsonl", *VIDEO_SUFFIXES)
    return (path.is_file() and not lists) or not (lists or path.is_dir() or _is_glob(source))


def read_frame(path: Path, number: int) -> RgbImage:
    """Decode one frame of a video, counted from 0.

    Raises:
        DataError: it cannot be read.
    """
    video = cv2.VideoCapture(str(path))
    try:
        video.set(cv2.CAP_PROP_POS_FRAMES, number)
        found, frame = video.read()
    finally:
        video.release()
    if not found:
        raise DataError(f"cannot read frame {number} of the video: {path}")
    return np.ascontiguousarray(frame[..., ::-1], dtype=np.uint8)


def _find_requests(
    sources: Sequence[str], queries: Sequence[Query], stdin: Iterable[str], every: int
) -> Iterator[Request]:
    """The requests of all sources; their names are not unique, and still have suffixes."""
    for source in sources:
        for image, place, frame, own in _expand(source, stdin, every):
            asked = own or tuple(queries)
            if not asked:
                raise DataError(f"no question about: {image}", hint='give one with --question "..."')
            yield Request(image, place.as_posix(), Path(image if frame is None else source), asked, frame)


def _merge(requests: Iterable[Request]) -> Iterable[Request]:
    """One request for each image, with all questions about it, each once."""
    merged: dict[str, Request] = {}
    for request in requests:
        known = merged.setdefault(request.image, request)
        merged[request.image] = replace(known, queries=tuple(dict.fromkeys((*known.queries, *request.queries))))
    return merged.values()


_Found = tuple[str, Path, int | None, tuple[Query, ...]]
"""Image as named, place of its outputs, frame, questions of its own."""


def _expand(source: str, stdin: Iterable[str], every: int) -> Iterator[_Found]:
    path = Path(source)
    if source == STDIN:
        yield from _read_lines(stdin, Path(), "standard input")
    elif path.is_dir():
        yield from _walk(path)
    elif path.suffix.lower() == ".jsonl":
        yield from _read_jsonl(path)
    elif path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
        yield from _list_frames(path, every)
    elif path.is_file() or is_url(source) or not _is_glob(source):
        yield source, _url_place(source) if is_url(source) else Path(path.name), None, ()
    else:
        yield from _match(path)


def _walk(folder: Path) -> Iterator[_Found]:
    images = sorted(path for path in _list_files(folder) if path.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        raise DataError(f"no images in: {folder}", hint=f"looked for {', '.join(IMAGE_SUFFIXES)}, in subfolders, too")
    for path in images:
        yield str(path), path.relative_to(folder), None, ()


def _list_files(folder: Path) -> Iterator[Path]:
    """Files below a folder that are not hidden, and links to nothing, which fail when they are loaded.

    Linked folders are followed after all others. Every folder is read once, whatever links lead to it.
    """
    waiting, seen = deque([folder]), set()
    while waiting:
        for place, folders, files in os.walk(waiting.popleft()):
            here, real = Path(place), os.path.realpath(place)
            is_new = real not in seen
            seen.add(real)
            folders[:] = sorted(name for name in folders if is_new and not name.startswith("."))
            waiting += (here / name for name in folders if (here / name).is_symlink())
            paths = (here / name for name in files if is_new and not name.startswith("."))
            yield from (path for path in paths if path.is_file() or not path.exists())


def _match(pattern: Path) -> Iterator[_Found]:
    """The files that match a glob, and links to nothing, which fail when they are loaded.

    Their outputs are named relative to its leading folders without wildcards.
    """
    first = next(number for number, part in enumerate(pattern.parts) if _is_glob(part))
    folder = Path(*pattern.parts[:first])
    found = folder.glob(str(Path(*pattern.parts[first:])))
    matches = sorted(path for path in found if path.is_file() or not path.exists())
    if not matches:
        raise DataError(f"no file matches: {pattern}")
    for path in matches:
        yield str(path), path.relative_to(folder), None, ()


def _is_glob(text: str) -> bool:
    return any(character in text for character in "*?[")


def _list_frames(path: Path, every: int) -> Iterator[_Found]:
    video = cv2.VideoCapture(str(path))
    count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    video.release()
    if count < 1:
        raise DataError(f"not a video that OpenCV can read: {path}")
    for number in range(0, count, every):
        yield f"{path}{_FRAME}{number}", Path(path.stem) / f"{number:06d}.png", number, ()


def _read_jsonl(path: Path) -> Iterator[_Found]:
    try:
        with path.open(encoding="utf-8-sig") as lines:
            yield from _read_lines(lines, path.parent, str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read: {path} ({reason_of(error)})") from error


def _read_lines(lines: Iterable[str], folder: Path, name: str) -> Iterator[_Found]:
    """Lines `{"image": path, "questions": [...]}`; `question` for one, `phrases` and `phrase` for bare phrases."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line, unique=True)
            image, queries = row["image"], _row_queries(row)
            if not isinstance(image, str) or not image:
                raise DataError("`image` must be a path")
        except (DataError, KeyError, TypeError, ValueError) as error:
            hint = 'a line is {"image": "photo.jpg", "questions": ["Which part steers it?"]}'
            reason = error.message if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
            raise DataError(f"line {number} of {name}: {reason}", hint=hint) from error
        if has_url_form(image) and not (folder / image).exists():
            yield image, _url_place(image), None, queries
            continue
        yield str(folder / image), _inside(Path(image)), None, queries


def _inside(path: Path) -> Path:
    """The path of output files for a path: without its root and steps upwards."""
    return Path(*[part for part in path.parts if part not in ("..", path.anchor)] or ["image"])


def _url_place(url: str) -> Path:
    """The path of output files for a URL: bucket or host, then the path; without a query, which may be long."""
    host, slash, path = url.partition(":")[2].partition("?")[0].lstrip("/").partition("/")
    return _inside(Path(host.rpartition("@")[2] + slash + path))


def _row_queries(row: Any) -> tuple[Query, ...]:
    kinds: tuple[tuple[str, Callable[[str], Query]], ...] = (
        ("question", Query),
        ("questions", Query),
        ("phrase", lambda text: Query(text, is_sentence=False)),
        ("phrases", lambda text: Query(text, is_sentence=False)),
    )
    found: list[Query] = []
    for key, make in kinds:
        texts = list_texts(row, key)
        for text in texts:
            check_text(text)
        found += [make(text) for text in texts]
    return tuple(dict.fromkeys(found))


def _unique(place: Path, questions: int, names: set[str]) -> str:
    """An output name for an image: without its suffix, with it, or with a number, whichever is free.

    The files of the k-th of several questions are called `<name>.<k>`. Names are compared without case, because some
    file systems ignore it.
    """
    stem = place.with_suffix("").as_posix()
    for candidate in chain([stem, place.as_posix()], (f"{stem}-{number}" for number in count(2))):
        taken = {candidate.casefold()}
        if questions > 1:
            taken |= {f"{candidate}.{number}".casefold() for number in range(1, questions + 1)}
        if not taken & names:
            names |= taken
            return candidate
    raise AssertionError("numbers do not end")
