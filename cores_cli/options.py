"""Options that several commands share, worded once."""

from pathlib import Path
from typing import Annotated, get_args

import typer

from cores_core.choices import (
    Device,
    Dtype,
    ModelDevice,
    Protocol,
    Quantization,
    ReleasedConversation,
    read_protocol,
)
from cores_core.errors import ConfigError

EMBEDDED_MODEL = "tiny"
PHOTO_MODEL = "xinlai/LISA-7B-v1-explanatory"
"""Released weights for photographs that `--model` reads from the hub."""
PARTWORLD_ONLY = f"note: `{EMBEDDED_MODEL}` knows drawn PartWorld scenes only; for photographs"
"""Start of a line that ends with a command."""
MODEL_HELP = "A checkpoint folder, released weights, a hub id, or a name that `cores models` lists."


def _parse_protocol(name: str) -> Protocol:
    try:
        return read_protocol(name)
    except ConfigError:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(map(repr, get_args(Protocol)))}.") from None


ModelOption = Annotated[str, typer.Option("--model", "-m", help=MODEL_HELP)]
ProtocolOption = Annotated[
    Protocol,
    typer.Option(
        "--protocol",
        parser=_parse_protocol,
        metavar="[generate|teacher_forced]",
        help="generate: the model decodes its answer. teacher_forced: the answer template is supplied.",
    ),
]
DataRootOption = Annotated[Path, typer.Option("--data-root", help="Folder of all data sets.")]
DeviceOption = Annotated[Device, typer.Option("--device", help="Device; auto: CUDA, else MPS, else CPU.")]
ModelDeviceOption = Annotated[
    ModelDevice,
    typer.Option("--device", help="Device; auto: CUDA, else MPS, else CPU; spread: divide the model among all GPUs."),
]
DtypeOption = Annotated[
    Dtype,
    typer.Option("--dtype", help="Precision of the weights; auto: bfloat16 on CUDA, else float32. Mask head: float32."),
]
LoadInOption = Annotated[
    Quantization | None, typer.Option("--load-in", help="Quantize the language model to 4 or 8 bits (CUDA).")
]
ConversationOption = Annotated[
    ReleasedConversation | None,
    typer.Option("--conversation", help="Chat template, for released weights that were not trained with llava_v1."),
]
