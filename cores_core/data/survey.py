"""What is under a data root: which splits of which data sets are there, which are prepared, how to get the rest."""

from dataclasses import dataclass
from pathlib import Path

from cores_core.data.archives import ARCHIVES
from cores_core.data.parquet.known import HUB
from cores_core.data.registry import CUSTOM, DATASETS, DatasetSpec, find_dataset
from cores_core.data.sources.custom import find_splits
from cores_core.data.store import store_path

RENDERED = "partworld"
"""The data set that is rendered, not downloaded."""


@dataclass(frozen=True)
class DatasetState:
    """One data set under a data root.

    Attributes:
        found: splits whose annotations and images are there. prepared: splits that training and evaluation can read.
    """

    name: str
    spec: DatasetSpec
    found: tuple[str, ...]
    prepared: tuple[str, ...]

    def layout(self, data_root: Path) -> list[str]:
        """All paths of the data set as one would write them in a shell."""
        return [f"{data_root}/{path}" for path in self.spec.layout]

    @property
    def is_whole(self) -> bool:
        """Whether all splits are there."""
        return len(self.found) == len(self.spec.splits)


def survey(data_root: Path) -> list[DatasetState]:
    """All known data sets, the user's own under `custom/`, and those of the hub that are here, in that order."""
    own = [f"{CUSTOM}{path.name}" for path in _find_sets(data_root / CUSTOM, "[!.]*")]
    hub = [f"{HUB}{path.parent.name}/{path.name}" for path in _find_sets(data_root / HUB, "[!.]*/[!.]*")]
    return [find_state(name, data_root) for name in (*DATASETS, *own, *hub)]


def _find_sets(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.is_dir() and find_splits(path))


def find_state(name: str, data_root: Path) -> DatasetState:
    """The state of one data set.

    Raises:
        DataError: no data set has this name.
    """
    spec = find_dataset(name, data_root)
    found = tuple(split for split in spec.splits if not spec.missing(data_root, split))
    prepared = tuple(split for split in spec.splits if store_path(data_root, name, split).is_file())
    return DatasetState(name, spec, found, prepared)


def how_to_get(state: DatasetState, data_root: Path) -> tuple[str, ...]:
    """The steps to a prepared data set: what to download by hand and where to put it, if anything; then a command."""
    command = f"cores prepare-data {state.name} --data-root {data_root}"
    if state.is_whole or state.name == RENDERED:
        return (command,)
    by_hand = f"{state.spec.homepage} ({state.spec.licence}) -> {' '.join(state.layout(data_root))}"
    if state.name not in ARCHIVES:
        return (by_hand, command)
    return (f"{command} --download",) if _is_downloaded_whole(state) else (by_hand, f"{command} --download")


def _is_downloaded_whole(state: DatasetState) -> bool:
    """Whether archives without a login hold all of a data set; of PASCAL-Part they hold the images alone."""
    goals = [
        f"{archive.unpack_to}/{goal}"
        for archive in ARCHIVES[state.name]
        for goal in ([goal for _, goal in archive.members] or [archive.name])
    ]
    paths = [path for split in state.spec.splits for path in state.spec.paths(split)]
    return all(any(f"{path}/".startswith(goal) for goal in goals) for path in paths)
