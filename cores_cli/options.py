"""Options that several commands share, worded once, and the loading of the model that they describe."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cores_core.predict import Predictor


class DeviceName(StrEnum):
    """Where to run."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class PlaceName(StrEnum):
    """Where to ask a model."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"
    spread = "spread"


class ProtocolName(StrEnum):
    """How the answer comes about."""

    generated = "generated"
    given = "given"


class DtypeName(StrEnum):
    """Precision of weights."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class QuantizationName(StrEnum):
    """How small the language model is held."""

    four = "4bit"
    eight = "8bit"


class ConversationName(StrEnum):
    """How turns are set apart."""

    llava_v1 = "llava_v1"
    llava_v0 = "llava_v0"
    llava_llama_2 = "llava_llama_2"


DeviceOption = Annotated[DeviceName, typer.Option("--device", help="Where to run; auto takes CUDA, MPS or the CPU.")]
ProtocolOption = Annotated[
    ProtocolName,
    typer.Option("--protocol", help="generated: the model writes its answer. given: the answer is put into its mouth."),
]
MODEL_HELP = "A checkpoint, released weights, a hub id, or `tiny`, the model that ships with cores."
ModelOption = Annotated[str, typer.Option("--model", "-m", help=MODEL_HELP)]
DataRootOption = Annotated[Path, typer.Option("--data-root", help="The folder that holds all data sets.")]
PlaceOption = Annotated[
    PlaceName,
    typer.Option("--device", help="Where to run; auto takes CUDA, MPS or the CPU; spread divides among all GPUs."),
]
DtypeOption = Annotated[
    DtypeName, typer.Option("--dtype", help="Precision; auto takes bfloat16 on CUDA, else float32. Masks: float32.")
]
LoadInOption = Annotated[
    QuantizationName | None, typer.Option("--load-in", help="Hold the language model in 4 or 8 bits (CUDA).")
]
ConversationOption = Annotated[
    ConversationName | None,
    typer.Option("--conversation", help="How turns are set apart, for a release that was not trained on llava_v1."),
]


def load_predictor(
    model: str,
    device: PlaceName,
    dtype: DtypeName,
    load_in: QuantizationName | None,
    conversation: ConversationName | None,
) -> "Predictor":
    """The model that a command was given, loaded as its options ask."""
    from cores_core.predict import Predictor

    return Predictor.from_checkpoint(
        model,
        device=device.value,
        dtype=dtype.value,
        load_in=load_in.value if load_in else None,
        conversation=conversation.value if conversation else None,
    )
