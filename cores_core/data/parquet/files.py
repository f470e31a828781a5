"""The parquet files of a data set by split: in a folder, or in a repository of the hub, downloaded through its cache.

The split is part of the path, as in repositories of the hub: `data/test-00000-of-00002.parquet`, `test/0000.parquet`,
`test.parquet`. Other files belong to the split `train`, as on the hub. An interrupted download is resumed.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import IncompleteSnapshotError, LocalEntryNotFoundError, OfflineModeIsEnabled

from cores_core.errors import DataError
from cores_core.hub import DATA_SET, HUB_ERRORS, hub_error

_SUFFIX = ".parquet"
_SHARD = re.compile(r"[-_.]?\d+(-of-\d+)?(-[0-9a-f]{8,})?$")
"""End of the name of a file that holds a piece of a split."""
_TOTAL = re.compile(r"-of-(\d+)")
_GENERIC = ("", "data", "part", "parquet", "default")
"""Names of files and folders that are not names of splits."""


@dataclass(frozen=True)
class ParquetFiles:
    """The files of a split.

    Attributes:
        folder: to which paths in the data set are relative.
        paths: of the parquet files, relative to `folder`, in order.
        origin: repository and revision, or the folder, for reports.
        repository: hub id, None for a local folder.
    """

    folder: Path
    paths: tuple[str, ...]
    origin: str
    repository: str | None = None

    def read(self, path: str) -> bytes:
        """Content of another file of the data set.

        Raises:
            DataError: it is outside of the data set, missing or cannot be downloaded.
        """
        place = PurePosixPath(path)
        if place.is_absolute() or ".." in place.parts or not place.parts:
            raise DataError("a path outside of the data set")
        try:
            if self.repository is not None and not (self.folder / place).is_file():
                revision = self.folder.name
                hf_hub_download(self.repository, str(place), repo_type="dataset", revision=revision)
            return (self.folder / place).read_bytes()
        except HUB_ERRORS as error:
            raise DataError("a file that its row names is missing") from error


def find_in_folder(folder: Path, split: str | None) -> tuple[str, ParquetFiles]:
    """A split of a folder, and its files.

    Args:
        split: its name; None if there is only one.

    Raises:
        DataError: the folder has no parquet files, or not this split.
    """
    if not folder.is_dir():
        raise DataError(f"no such folder: {folder}", hint="give a folder with parquet files")
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob(f"*{_SUFFIX}"))
    chosen, paths = _choose(names, split, str(folder))
    return chosen, ParquetFiles(folder, paths, str(folder))


def fetch_from_hub(repository: str, split: str | None) -> tuple[str, ParquetFiles]:
    """A split of a repository of the hub, and its files, downloaded if they are not cached.

    Without a network the files in the cache are used.

    Raises:
        DataError: no such data set, no access, no parquet files, not this split, or the connection breaks.
    """
    try:
        names = _list_files(repository)
        chosen, paths = _choose(names, split, repository)
        folder = Path(snapshot_download(repository, repo_type="dataset", allow_patterns=list(paths)))
    except HUB_ERRORS as error:
        raise hub_error(repository, error, DATA_SET) from error
    return chosen, ParquetFiles(folder, paths, f"{repository}@{folder.name}", repository)


def splits_of(names: Sequence[str]) -> Mapping[str, list[str]]:
    """Parquet files by split, by the rule in the module's docstring."""
    found: dict[str, list[str]] = {}
    for name in sorted(name for name in names if name.endswith(_SUFFIX)):
        place = PurePosixPath(name)
        stem = _SHARD.sub("", place.stem)
        candidates = [stem, *(part for part in reversed(place.parent.parts))]
        split = next((part for part in candidates if part.lower() not in _GENERIC), "train")
        found.setdefault(split, []).append(name)
    return found


def _choose(names: Sequence[str], split: str | None, where: str) -> tuple[str, tuple[str, ...]]:
    found = splits_of(names)
    if not found:
        raise DataError(
            f"no parquet files in: {where}", hint="the hub converts data sets: see its `refs/convert/parquet`"
        )
    if split is None and len(found) > 1:
        raise DataError(f"{where} has the splits {', '.join(found)}", hint=f"choose one: --split {next(iter(found))}")
    chosen = split or next(iter(found))
    if chosen not in found:
        raise DataError(f"{where} has no split {chosen}", hint=f"it has {', '.join(found)}")
    totals = [int(total[1]) for name in found[chosen] if (total := _TOTAL.search(PurePosixPath(name).stem))]
    if totals and max(totals) > len(found[chosen]):
        message = f"only {len(found[chosen])} of {max(totals)} files of the split {chosen} are in: {where}"
        raise DataError(message, hint="get the others, with a network if they are on the hub")
    return chosen, tuple(found[chosen])


def _list_files(repository: str) -> list[str]:
    """Files of the newest revision; of the cached one if the hub cannot be reached."""
    try:
        return HfApi(endpoint=constants.ENDPOINT).list_repo_files(repository, repo_type="dataset")
    except (OfflineModeIsEnabled, httpx2.TransportError) as error:
        try:
            cached = snapshot_download(repository, repo_type="dataset", local_files_only=True)
        except IncompleteSnapshotError as incomplete:
            cached = incomplete.snapshot_path
        except LocalEntryNotFoundError as missing:
            raise LocalEntryNotFoundError(str(missing)) from (
                None if isinstance(error, OfflineModeIsEnabled) else error
            )
        folder = Path(cached)
        return [path.relative_to(folder).as_posix() for path in folder.rglob(f"*{_SUFFIX}")]
