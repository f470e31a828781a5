"""Names that options and arguments choose from. Imports little, so that `cores --help` is quick."""

from typing import Any, Literal, cast, get_args

from cores_core.errors import ConfigError

Device = Literal["auto", "cpu", "cuda", "mps"]
"""Where to train: `auto` takes CUDA, then MPS, then the CPU."""
ModelDevice = Literal[Device, "spread"]
"""Where to run a model: `spread` divides the language model among all CUDA devices."""
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
"""Precision of a model's weights: `auto` takes bfloat16 on CUDA, else float32."""
Quantization = Literal["4bit", "8bit"]
"""Precision of the language model's linear layers (bitsandbytes, CUDA)."""
Protocol = Literal["generate", "teacher_forced"]
"""Where an answer's text comes from: decoded by the model, or the answer template (teacher-forced)."""
RENAMED_PROTOCOLS = {"generated": "generate", "given": "teacher_forced"}
"""Names of protocols in older scripts and results, and the names that replaced them."""
Format = Literal["files", "jsonl", "coco", "labelme", "label-studio", "yolo", "palette", "cutout"]
"""What `cores predict` writes: mask, overlay and JSON of each answer (`files`), rows only (`jsonl`), a file that other
tools read, one PNG of all masks (`palette`), or RGBA pictures of what was found (`cutout`); see docs/formats.md."""
Engine = Literal["local", "ray"]
"""What runs the workers of `cores predict`: this machine, or a Ray cluster."""
ReleasedConversation = Literal["llava_v1", "llava_v0", "llava_llama_2"]
"""Chat templates of the research releases; the first is the default of LISA and CoReS."""


def read_protocol(name: str) -> Protocol:
    """The protocol of this name, which may be one of `RENAMED_PROTOCOLS`.

    Raises:
        ConfigError: there is no such protocol.
    """
    today = rename_protocol(name)
    if today not in get_args(Protocol):
        raise ConfigError(f"unknown protocol: {name}", hint=f"choose one of {', '.join(get_args(Protocol))}")
    return cast(Protocol, today)


def rename_protocol(name: Any) -> Any:
    """Today's name of a protocol that may be one of `RENAMED_PROTOCOLS`; values of any other kind unchanged."""
    return RENAMED_PROTOCOLS.get(name, name) if isinstance(name, str) else name
