"""Actors of a Ray cluster that share a job, through Ray Data: the executor for jobs too large for one machine.

Each actor loads the model once and works on blocks of items. Rows return to this process as soon as an item is
finished, and only this process writes the journal. They equal those of local processes (pool.py), so that either
executor continues a job of the other. Source: https://docs.ray.io/en/latest/data/batch_inference.html
"""

import json
import logging
import os
import pickle
import re
import socket
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from cores_core.errors import ConfigError, CoresError, CoresWarning, reason_of
from cores_core.journal import Journal, Row
from cores_core.pool import Progress, Start, T
from cores_core.runtime import set_up_cpu
from cores_core.signals import handlers_kept

MOST_IN_BLOCK, BLOCKS_PER_WORKER = 32, 8
"""Items that an actor is given at once: few enough that all actors finish at about the same time."""
RESTARTS = 3
"""How often an actor that died, with its machine or alone, is started again."""
_STORE_BYTES = 256 << 20
"""Object store of a cluster that is started here. It holds items and rows, no images."""
_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_worker_niceness": "0"}
"""No reports to Ray's makers, no logs of its C++ parts on stderr, workers of the same priority as local processes."""
_LOCAL = "local"
_PATIENCE = 10.0
"""Seconds in which a cluster must accept a connection."""
_COLOURS = re.compile(r"\x1b\[\d*m")
_ROWS, _ERROR, _ITEM = "rows", "error", "item"


@dataclass(frozen=True)
class RayCluster:
    """An executor (pool.py) whose workers are actors of a Ray cluster.

    Attributes:
        address: of a running cluster, `HOST:PORT` or `auto`; None for that of RAY_ADDRESS, or else for a cluster on
            this machine that runs as long as the job. A cluster that this process is connected to is used as it is.
    """

    address: str | None = None

    def __call__(
        self, start: Start[T], items: Sequence[T], devices: Sequence[str], journal: Journal, progress: Progress
    ) -> None:
        """Work on items with one actor per device, each with a CPU and, of CUDA devices, a GPU.

        Raises:
            ConfigError: Ray is not installed, the cluster cannot be reached, or has no machine for an actor.
            CoresError: an error of a worker, or too many workers died.
        """
        if not items:
            return
        with self._connected(devices):
            _check_resources(devices)
            for error, rows in _stream(start, items, devices):
                if error is not None:
                    raise error
                journal.add(rows)
                progress(len(rows))

    @contextmanager
    def _connected(self, devices: Sequence[str]) -> Iterator[None]:
        ray = _import_ray()
        if ray.is_initialized():
            yield
            return
        try:
            _connect(self.address or os.environ.get("RAY_ADDRESS") or _LOCAL, devices)
            yield
        finally:
            with handlers_kept(delay=True):
                ray.shutdown()


class _Actor(Generic[T]):
    """Holds a worker; turns a block of items into its rows, or into the error that ends the job."""

    def __init__(self, start: Start[T], device: str, folder: Path) -> None:
        with suppress(OSError):
            os.chdir(folder)  # relative paths mean the same as in the main process if machines share its folder
        set_up_cpu()
        self._error: CoresError | None = None
        try:
            self._worker = start(device)
        except CoresError as error:
            self._error = error

    def __call__(self, block: Mapping[str, Any]) -> Iterator[Mapping[str, list[str | bytes]]]:
        items: list[T] = [pickle.loads(item) for item in block[_ITEM]]
        try:
            if self._error is not None:
                raise self._error
            for rows in self._worker(items):
                yield {_ROWS: [json.dumps(rows)], _ERROR: [b""]}
        except CoresError as error:
            yield {_ROWS: ["[]"], _ERROR: [pickle.dumps(error)]}


def _import_ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ConfigError(f"Ray is not installed ({reason_of(error)})", hint="pip install 'cores[ray]'") from error
    return ray


def _connect(address: str, devices: Sequence[str]) -> None:
    ray, options, size = _import_ray(), {}, len(devices)
    if address == _LOCAL:
        gpus = size if _on_gpus(devices) else 0
        options = {"num_cpus": size, "num_gpus": gpus, "object_store_memory": _STORE_BYTES, "include_dashboard": False}
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # errors are raised as well
    try:
        _reach(address)
        with handlers_kept(delay=address == _LOCAL):  # started halfway, it would leave processes behind
            ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, **options)
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        hint = "--ray-address HOST:PORT names another; with token authentication it needs RAY_AUTH_MODE=token"
        raise ConfigError(f"cannot use the Ray cluster: {address} ({reason_of(error)})", hint=hint) from error


def _reach(address: str) -> None:
    """Fail within seconds where Ray would retry for a quarter of an hour.

    Raises:
        OSError: nothing answers at an address with a port.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE).close()


def _on_gpus(devices: Sequence[str]) -> bool:
    return devices[0].startswith("cuda")


def _check_resources(devices: Sequence[str]) -> None:
    """Refuse what the cluster has no machine for; fewer machines than workers are used as they are."""
    kind, size = "GPU" if _on_gpus(devices) else "CPU", len(devices)
    found = int(_import_ray().cluster_resources().get(kind, 0))
    if not found:
        raise ConfigError(f"the Ray cluster has no {kind}", hint="add a machine, or choose CPUs or GPUs that it has")
    if found < size:
        text = f"the Ray cluster has {found} {kind}s for {size} workers: the others wait for more machines"
        warnings.warn(text, CoresWarning, stacklevel=2)


def _stream(
    start: Start[T], items: Sequence[T], devices: Sequence[str]
) -> Iterator[tuple[CoresError | None, list[Row]]]:
    """The error, or the rows, of each item as soon as it is finished, in no particular order."""
    exceptions = _import_ray().exceptions
    try:
        for row in _plan(start, items, devices).iter_rows():
            yield pickle.loads(row[_ERROR]) if row[_ERROR] else None, json.loads(row[_ROWS])
    except exceptions.RayTaskError:
        raise  # a fault in the program, not of the cluster
    except exceptions.RayError as error:
        reason = _last_line(error)
        hint = "finished rows are kept: run the command again with --resume"
        if "No module named" in reason:
            hint = "install the same version of cores on all machines of the cluster"
        raise CoresError(f"a Ray worker failed: {reason}", hint=hint) from error


def _last_line(error: Exception) -> str:
    """What a worker's traceback ends with, or the first line of a message without one."""
    lines = _COLOURS.sub("", str(error)).strip().splitlines() or [type(error).__name__]
    return lines[-1 if any(line.startswith("Traceback") or "traceback:" in line for line in lines) else 0].strip()


def _plan(start: Start[T], items: Sequence[T], devices: Sequence[str]) -> Any:
    """The data set of all rows, computed as it is read."""
    data = _import_ray().data
    context = data.DataContext.get_current().copy()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.target_max_block_size = 1  # the rows of an item are sent when they are ready, not with those of its block
    workers, on_gpus = len(devices), _on_gpus(devices)
    per_block = min(max(len(items) // (workers * BLOCKS_PER_WORKER), 1), MOST_IN_BLOCK)
    with data.DataContext.current(context), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*ray_remote_args", DeprecationWarning)
        blocks = data.from_items(
            [{_ITEM: pickle.dumps(item)} for item in items], override_num_blocks=-(-len(items) // per_block)
        )
        return blocks.map_batches(
            _Actor,
            fn_constructor_args=(start, "cuda" if on_gpus else devices[0], Path.cwd()),
            compute=data.ActorPoolStrategy(min_size=1, max_size=workers, initial_size=workers),
            batch_size=None,
            num_cpus=1,
            num_gpus=int(on_gpus),
            max_restarts=RESTARTS,
            max_task_retries=RESTARTS,
        )
