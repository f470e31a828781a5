"""Options that several commands share, worded once."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class DeviceName(StrEnum):
    """Where to run."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class ProtocolName(StrEnum):
    """How the answer comes about."""

    generated = "generated"
    given = "given"


DeviceOption = Annotated[DeviceName, typer.Option("--device", help="Where to run; auto takes CUDA, MPS or the CPU.")]
ProtocolOption = Annotated[
    ProtocolName,
    typer.Option("--protocol", help="generated: the model writes its answer. given: the answer is put into its mouth."),
]
MODEL_HELP = "A checkpoint, released weights, a hub id, or `tiny`, the model that ships with cores."
ModelOption = Annotated[str, typer.Option("--model", "-m", help=MODEL_HELP)]
DataRootOption = Annotated[Path, typer.Option("--data-root", help="The folder that holds all data sets.")]
