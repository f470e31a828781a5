"""Read a split in pieces, in several processes. A finished piece is kept, so an interrupted call resumes after it.

    <data root>/prepared/<name>/.<split>.pieces/<key>-<index>-of-<count>.arrow    the records of a piece, as a store
    <data root>/prepared/<name>/.<split>.pieces/<key>-<index>-of-<count>.json     its counts and digest; written last

When all are done they are joined, in order, into the split's store; its bytes do not depend on the number of pieces.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
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
from cores_core.files import read_json, replacing, save_text
from cores_core.signals import stop_signals_held

PROGRESS_INTERVAL = 0.1
"""Seconds between two progress calls while workers read."""


@dataclass(frozen=True)
class Tally:
    """Counts of a split or piece.

    Attributes:
        images, regions: numbers read. left_out: (item, reason) of what was left out.
        notes: (item, assumption) of what was read by an assumption.
    """

    images: int
    regions: int
    left_out: tuple[tuple[str, str], ...]
    notes: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Job:
    """A split to read in pieces.

    Attributes:
        name, split, data_root: as in `DATASETS`.
        key: changes with the annotations and the readers; pieces with another key are outdated.
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
    """Read the missing pieces and write the split's store.

    Args:
        workers: number of processes; with 1, or a single piece to read, this process reads.
        progress: called with the number of further images done, several times a second; first with that of kept pieces.

    Raises:
        DataError: the split cannot be read as a whole, or a process has died.
        OSError: the disk is full or cannot be written.
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
    """Remove all files but finished pieces of this job. The data set is locked, so no other process writes here."""
    whole = [path for path in map(job.path, range(job.count)) if path.with_suffix(".json").is_file()]
    kept = {*whole, *(path.with_suffix(".json") for path in whole)}
    for path in job.folder.iterdir():
        if path not in kept:
            path.unlink(missing_ok=True)


def _load_piece(job: Job, index: int) -> Tally | None:
    """The counts of a finished piece; None if it is missing or damaged."""
    path = job.path(index)
    try:
        found = read_json(path.with_suffix(".json"))
        if found["sha256"] != _digest(path):
            return None
        job.open(index)
    except (OSError, ValueError, DataError):
        return None
    left_out, notes = (tuple((item, text) for item, text in found[key]) for key in ("left_out", "notes"))
    return Tally(found["images"], found["regions"], left_out, notes)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_piece(job: Job, index: int, report: Callable[[], None]) -> Tally:
    spec, rejected, regions = find_dataset(job.name, job.data_root), Rejections(), 0

    def counted() -> Iterator[Record]:
        nonlocal regions
        for record in spec.read(job.data_root, spec.disk_name(job.split), rejected, Share(index, job.count)):
            regions += len(record.regions)
            report()
            yield record

    path = job.path(index)
    images = save_store(counted(), path)
    tally = Tally(images, regions, tuple(rejected.items), tuple(rejected.notes))
    save_text(json.dumps(asdict(tally) | {"sha256": _digest(path)}), path.with_suffix(".json"))
    return tally


def _read_at_once(job: Job, waiting: list[int], workers: int, progress: Callable[[int], None]) -> dict[int, Tally]:
    """Read pieces in worker processes; none is left running after an error or interrupt."""
    context = get_context("spawn")
    done = context.RawArray("q", job.count)  # images of each piece; each entry has one writer, so it needs no lock
    alive, parent_end = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(min(workers, len(waiting)), context, _start_worker, (done, alive))
    tallies: dict[int, Tally] = {}
    reported = 0
    try:
        with stop_signals_held():
            tasks = {pool.submit(_work, job, index): index for index in waiting}
        running = set(tasks)
        while running:
            finished, running = wait(running, PROGRESS_INTERVAL, FIRST_COMPLETED)
            tallies |= {tasks[task]: task.result() for task in finished}
            reported, before = sum(done), reported
            progress(reported - before)
        pool.shutdown()
    except BrokenProcessPool as error:
        raise DataError(
            f"a worker process died while reading {job.name} {job.split}",
            hint="run the command again to resume; if memory was short, with fewer --workers",
        ) from error
    finally:
        parent_end.close()
        pool.shutdown(cancel_futures=True)
        alive.close()
    return tallies


_done: Any = None
"""In a worker: number of images read of each piece, in memory shared with the parent."""


def _start_worker(done: Any, alive: Connection) -> None:
    global _done
    _done = done
    Thread(target=_exit_with_parent, args=(alive,), daemon=True).start()


def _exit_with_parent(alive: Connection) -> None:
    """End this process at once when the parent closes its end of the pipe, or dies."""
    alive.poll(None)
    os._exit(1)


def _work(job: Job, index: int) -> Tally:
    def report() -> None:
        _done[index] += 1

    return _read_piece(job, index, report)


def _join(job: Job) -> None:
    """Write the pieces as one store, in full batches but for the last, by which `Store` finds row `i`."""
    table = pa.concat_tables(pa.ipc.open_file(pa.memory_map(str(job.path(i)))).read_all() for i in range(job.count))
    with (
        replacing(store_path(job.data_root, job.name, job.split)) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as writer,
    ):
        for start in range(0, len(table), ROWS_PER_BATCH):
            writer.write_table(table.slice(start, ROWS_PER_BATCH).combine_chunks())
