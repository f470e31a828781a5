"""Sharded, resumable preparation: worker processes read pieces of a split; finished pieces survive an interruption.

    <data root>/prepared/<name>/.<split>.pieces/<key>-<index>-of-<count>.arrow    the records of a piece, as a store
    <data root>/prepared/<name>/.<split>.pieces/<key>-<index>-of-<count>.json     counts and hash; written last

Finished pieces are concatenated in order to the split's store, whose bytes do not depend on the number of pieces.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import chain
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow as pa

from cores_core.data.registry import find_dataset
from cores_core.data.sources.reading import Rejections, Share
from cores_core.data.store import ROWS_PER_BATCH, Record, Store, save_store, store_path
from cores_core.errors import DataError
from cores_core.files import replacing, save_text
from cores_core.signals import stop_signals_held

TELL_EVERY = 0.1
"""Seconds between progress updates."""


@dataclass(frozen=True)
class Tally:
    """Counts of a piece or split that was read.

    Attributes:
        left_out: pairs of skipped item and reason. notes: pairs of item and the assumption with which it was read.
    """

    images: int
    regions: int
    left_out: tuple[tuple[str, str], ...]
    notes: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Job:
    """A split to read in pieces.

    Attributes:
        name, split, data_root: the split.
        key: hash of annotations and version of the readers; pieces with another key are discarded.
        count: number of pieces.
    """

    name: str
    split: str
    data_root: Path
    key: str
    count: int

    @property
    def folder(self) -> Path:
        """Folder of the pieces until they are joined."""
        return self.path(0).parent

    def path(self, index: int) -> Path:
        """Path of a piece's records; its counts are in a JSON file with the same stem."""
        return store_path(self.data_root, self._store_name, self._stem(index))

    def open(self, index: int) -> Store:
        """Open a finished piece.

        Raises:
            DataError: it is missing, damaged, or written by another version.
        """
        return Store(self.data_root, self._store_name, self._stem(index))

    @property
    def _store_name(self) -> str:
        return f"{self.name}/.{self.split}.pieces"

    def _stem(self, index: int) -> str:
        return f"{self.key}-{index}-of-{self.count}"


def read_in_pieces(job: Job, workers: int, progress: Callable[[int], None]) -> Tally:
    """Read all unfinished pieces and write the split's store.

    Args:
        workers: number of processes; with 1, or a single unfinished piece, this process reads.
        progress: called with the number of newly finished images, first with those of finished pieces.

    Raises:
        DataError: the split as a whole cannot be read, or a worker process died.
        OSError: a file cannot be written, e.g. because the disk is full.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    try:
        _clear(job)
        tallies = {index: tally for index in range(job.count) if (tally := _load_piece(job, index)) is not None}
        progress(sum(tally.images for tally in tallies.values()))
        waiting = [index for index in range(job.count) if index not in tallies]
        if workers == 1 or len(waiting) < 2:
            tallies |= {index: _read_piece(job, index, lambda: progress(1)) for index in waiting}
        else:
            tallies |= _read_at_once(job, waiting, workers, progress)
        _join(job)
    except BaseException:
        with suppress(OSError):
            _clear(job)
            job.folder.rmdir()  # fails if there are finished pieces
        raise
    shutil.rmtree(job.folder)
    ordered = [tallies[index] for index in range(job.count)]
    return Tally(
        images=sum(tally.images for tally in ordered),
        regions=sum(tally.regions for tally in ordered),
        left_out=tuple(chain.from_iterable(tally.left_out for tally in ordered)),
        notes=tuple(chain.from_iterable(tally.notes for tally in ordered)),
    )


def _clear(job: Job) -> None:
    """Remove everything except finished pieces of this job. The data set is locked, so no other process writes here."""
    whole = [path for path in map(job.path, range(job.count)) if path.with_suffix(".json").is_file()]
    kept = {*whole, *(path.with_suffix(".json") for path in whole)}
    for path in job.folder.iterdir():
        if path not in kept:
            path.unlink(missing_ok=True)


def _load_piece(job: Job, index: int) -> Tally | None:
    """Counts of a piece finished by an earlier call; None if there is none or a file is damaged."""
    path = job.path(index)
    try:
        told = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if told["sha256"] != _digest(path):
            return None
        job.open(index)
    except (OSError, ValueError, DataError):
        return None
    left_out, notes = (tuple((item, text) for item, text in told[key]) for key in ("left_out", "notes"))
    return Tally(told["images"], told["regions"], left_out, notes)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_piece(job: Job, index: int, tell: Callable[[], None]) -> Tally:
    spec, rejected, regions = find_dataset(job.name, job.data_root), Rejections(), 0

    def counted() -> Iterator[Record]:
        nonlocal regions
        for record in spec.read(job.data_root, spec.disk_name(job.split), rejected, Share(index, job.count)):
            regions += len(record.regions)
            tell()
            yield record

    path = job.path(index)
    images = save_store(counted(), path)
    tally = Tally(images, regions, tuple(rejected.items), tuple(rejected.notes))
    save_text(json.dumps(asdict(tally) | {"sha256": _digest(path)}), path.with_suffix(".json"))
    return tally


def _read_at_once(job: Job, waiting: list[int], workers: int, progress: Callable[[int], None]) -> dict[int, Tally]:
    """Read pieces in worker processes. On any error, all workers are terminated."""
    context = get_context("spawn")
    done = context.RawArray("q", job.count)  # finished images per piece; one writer each, so no lock is needed
    leash, end_of_leash = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(min(workers, len(waiting)), context, _start_worker, (done, leash))
    tallies: dict[int, Tally] = {}
    told = 0
    try:
        with stop_signals_held():
            tasks = {pool.submit(_work, job, index): index for index in waiting}
        running = set(tasks)
        while running:
            finished, running = wait(running, TELL_EVERY, FIRST_COMPLETED)
            tallies |= {tasks[task]: task.result() for task in finished}
            told, before = sum(done), told
            progress(told - before)
        pool.shutdown()
    except BrokenProcessPool as error:
        raise DataError(
            f"a worker process died while reading {job.name} {job.split}",
            hint="run the command again to resume; if memory was short, with fewer --workers",
        ) from error
    finally:
        end_of_leash.close()
        pool.shutdown(cancel_futures=True)
        leash.close()
    return tallies


_done: Any = None
"""In a worker: number of finished images per piece, in memory shared with the parent."""


def _start_worker(done: Any, leash: Connection) -> None:
    global _done
    _done = done
    Thread(target=_die_with_parent, args=(leash,), daemon=True).start()


def _die_with_parent(leash: Connection) -> None:
    """Exit immediately when the parent closes its end of the pipe, which it also does by dying."""
    leash.poll(None)
    os._exit(1)


def _work(job: Job, index: int) -> Tally:
    def tell() -> None:
        _done[index] += 1

    return _read_piece(job, index, tell)


def _join(job: Job) -> None:
    with pa.OSFile(str(job.path(0))) as first:
        schema = pa.ipc.open_file(first).schema
    with (
        replacing(store_path(job.data_root, job.name, job.split)) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        for batch in _regroup(_batches(job)):
            writer.write_batch(batch)


def _batches(job: Job) -> Iterator[Any]:
    for index in range(job.count):
        with pa.OSFile(str(job.path(index))) as file:
            reader = pa.ipc.open_file(file)
            yield from (reader.get_batch(number) for number in range(reader.num_record_batches))


def _regroup(batches: Iterable[Any]) -> Iterator[Any]:
    """Regroup rows into batches of `ROWS_PER_BATCH`, except the last, as `Store` needs for access in O(1)."""
    held: list[Any] = []
    rows = 0
    for batch in batches:
        start = 0
        while start < batch.num_rows:
            held.append(batch.slice(start, ROWS_PER_BATCH - rows))
            start, rows = start + held[-1].num_rows, rows + held[-1].num_rows
            if rows == ROWS_PER_BATCH:
                yield pa.concat_batches(held)
                held, rows = [], 0
    if held:
        yield pa.concat_batches(held)
