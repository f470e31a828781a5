"""Which model a command was asked for, and how it is to be held: plain values that another process can be given."""

from dataclasses import dataclass

from cores_core.choices import Quantization
from cores_core.model.checkpoint import EMBEDDED, Checkpoint, LoadOptions, load_checkpoint
from cores_core.model.placement import Placement, check_placement, place_model
from cores_core.prompts import Conversation
from cores_core.runtime import resolve_device, resolve_dtype


@dataclass(frozen=True)
class ModelSource:
    """A model and where it goes.

    Attributes:
        name: a checkpoint folder, released weights, a hub id, or `tiny`, the model that ships with the package.
        device: auto, cpu, cuda (cuda:N) or mps; `spread` divides the MLLM among all CUDA devices.
        dtype: float32, bfloat16, float16, or auto (bfloat16 on CUDA, else float32). Mask head: float32.
        load_in: hold the language model in 4bit or 8bit (bitsandbytes, CUDA).
        conversation: how turns are set apart, where a release was trained on another way than llava_v1.
        compiled: compile SAM's image encoder: a minute at the start, then less time an image.
    """

    name: str = EMBEDDED
    device: str = "auto"
    dtype: str = "float32"
    load_in: Quantization | None = None
    conversation: Conversation | None = None
    compiled: bool = False

    def load(self) -> Checkpoint:
        """Load it onto its device, ready to be asked.

        Raises:
            CheckpointError: there is no such checkpoint, or it is damaged.
            ConfigError: no such device or dtype.
        """
        spread = self.device == "spread"
        place = resolve_device("cuda" if spread else self.device)
        placement = Placement(place, self.load_in, spread, self.compiled)
        check_placement(placement)
        options = LoadOptions(dtype=resolve_dtype(self.dtype, place), conversation=self.conversation)
        checkpoint = load_checkpoint(self.name, options)
        place_model(checkpoint.model, placement)
        return checkpoint
