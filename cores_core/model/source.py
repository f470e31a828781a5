"""Model identifier with device, dtype and quantisation; picklable, so that worker processes can load it."""

from dataclasses import dataclass

from cores_core.choices import Quantization
from cores_core.model.checkpoint import EMBEDDED, Checkpoint, LoadOptions, load_checkpoint
from cores_core.model.placement import Placement, check_placement, place_model
from cores_core.prompts import Conversation
from cores_core.runtime import resolve_device, resolve_dtype


@dataclass(frozen=True)
class ModelSource:
    """A model and how to load it.

    Attributes:
        name: a checkpoint folder, released weights, a hub id, or `tiny`, the model that ships with the package.
        device: auto, cpu, cuda (cuda:N) or mps; `spread` distributes the MLLM over all CUDA devices.
        dtype: float32, bfloat16, float16, or auto (bfloat16 on CUDA, else float32). The mask decoder is float32.
        load_in: quantise the language model to 4bit or 8bit (bitsandbytes, CUDA).
        conversation: chat template, for releases that were not trained with llava_v1.
        compiled: compile SAM's image encoder: a minute once, then faster images.
    """

    name: str = EMBEDDED
    device: str = "auto"
    dtype: str = "float32"
    load_in: Quantization | None = None
    conversation: Conversation | None = None
    compiled: bool = False

    @property
    def identity(self) -> dict[str, str | None]:
        """All fields that answers depend on, for recognising the rows of an interrupted job."""
        return {
            "model": self.name,
            "dtype": self.dtype,
            "load_in": self.load_in,
            "conversation": self.conversation,
        }

    def load(self) -> Checkpoint:
        """Load the model, with adapters merged, onto its device.

        Raises:
            CheckpointError: there is no such checkpoint, or it is damaged.
            ConfigError: unknown or unavailable device, dtype or quantisation.
        """
        spread = self.device == "spread"
        place = resolve_device("cuda" if spread else self.device)
        placement = Placement(place, self.load_in, spread, self.compiled)
        check_placement(placement)
        options = LoadOptions(dtype=resolve_dtype(self.dtype, place), conversation=self.conversation)
        checkpoint = load_checkpoint(self.name, options)
        place_model(checkpoint.model, placement)
        return checkpoint
