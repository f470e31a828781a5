"""List the places where Python waits for the device: where it reads values, or needs a size that depends on them.

On CUDA they are torch's own warnings (`torch.cuda.set_sync_debug_mode`). On other devices they are the operations that
would wait on CUDA: reads of a value, and sizes that depend on values (boolean indexing, `nonzero`). Copies from
pageable memory, which wait, too, are seen on CUDA only.
"""

import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

READS = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "unique_dim", "bincount")
"""Operations that read values or return sizes that depend on them."""
INDEXED = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put")
"""Operations that do so if an index is boolean."""
_WARNING = "synchronizing CUDA operation"
_ROOT = Path(__file__).resolve().parents[1]


def list_synchronisations(action: Callable[[], object], device: torch.device) -> Mapping[str, int]:
    """Run an action once. Returns how often each place waited: the innermost line, and the line of ours that led to it.

    Waits of a backward pass are at the line that started it.
    """
    places: Counter[str] = Counter()
    with _cuda_warnings(places) if device.type == "cuda" else _HostReads(places):
        action()
    return dict(places.most_common())


class _HostReads(TorchDispatchMode):
    """Count the operations that would wait on CUDA."""

    def __init__(self, places: Counter[str]) -> None:
        super().__init__()
        self._places = places

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in READS or (name in INDEXED and any(_is_boolean(index) for index in args[1])):
            self._places[_place()] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def _cuda_warnings(places: Counter[str]) -> Iterator[None]:
    """Count torch's warnings about synchronisations."""

    def count(message: Warning | str, *_: Any) -> None:
        if _WARNING in str(message):
            places[_place()] += 1

    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = count
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)


def _is_boolean(index: Tensor | None) -> bool:
    return index is not None and index.dtype in (torch.bool, torch.uint8)


def _place() -> str:
    """`file:line function` of the innermost line, and of the innermost line of this repository if it is another one."""
    frames = [frame for frame in traceback.extract_stack(sys._getframe()) if not _is_tool(frame.filename)]
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(_ROOT / "cores_core")]
    inner = _name(frames[-1])
    return inner if not ours or ours[-1] is frames[-1] else f"{inner}, by {_name(ours[-1])}"


def _is_tool(name: str) -> bool:
    """Whether a file is this one, or of torch's own dispatching."""
    return name == __file__ or "torch/utils" in name or "torch/_" in name or name.endswith("warnings.py")


def _name(frame: traceback.FrameSummary) -> str:
    path = Path(frame.filename)
    for root in (_ROOT, *(parent for parent in path.parents if parent.name == "site-packages")):
        if path.is_relative_to(root):
            path = path.relative_to(root)
            break
    return f"{path}:{frame.lineno} {frame.name}"
