"""The families of multimodal LLMs that a chain can stand on: what differs between them, by transformers' model types.

tests/model/families/ compares every entry with the model's own forward, values and gradients.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Family:
    """What one family of models asks for.

    Attributes:
        image_keys: the tensors of the hub's processor that its forward takes beside tokens.
        language, vision, projector: names of its parts inside `net.model`; None if the projector is in the tower.
        pads_tiles: whether images of a batch are padded to as many tiles, or joined one behind the other.
        mrope: whether positions have three axes (time, height, width).
        sees_images_both_ways: whether the tokens of an image see those behind them.
        packs: whether the questions of an image can share its prefix in one row. Layers that carry a state from token
            to token cannot.
        cap: makes an image processor give at most so many tokens an image, as far as it can.
    """

    image_keys: tuple[str, ...] = ("pixel_values",)
    language: str = "language_model"
    vision: str = "vision_tower"
    projector: str | None = "multi_modal_projector"
    pads_tiles: bool = False
    mrope: bool = False
    sees_images_both_ways: bool = False
    packs: bool = True
    cap: Callable[[Any, int], None] = lambda image_processor, tokens: None


LLAVA = Family()
"""LLaVA 1 and 1.5, whose prompts and images are those of the releases (llava.py)."""


def _cap_pixels(image_processor: Any, tokens: int) -> None:
    """Qwen: a token is a square of merged patches, so the number of pixels bounds their number."""
    pixels = (image_processor.patch_size * image_processor.merge_size) ** 2
    size = image_processor.size
    image_processor.size = {
        "shortest_edge": min(size["shortest_edge"], tokens * pixels),
        "longest_edge": min(size["longest_edge"], tokens * pixels),
    }


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "qwen2_5_vl": Family(
            ("pixel_values", "image_grid_thw"), vision="visual", projector=None, mrope=True, cap=_cap_pixels
        ),
        "qwen3_vl": Family(
            ("pixel_values", "image_grid_thw"), vision="visual", projector=None, mrope=True, cap=_cap_pixels
        ),
        "qwen3_5": Family(
            ("pixel_values", "image_grid_thw"),
            vision="visual",
            projector=None,
            mrope=True,
            packs=False,  # linear attention
            cap=_cap_pixels,
        ),
        "internvl": Family(),
        "smolvlm": Family(
            ("pixel_values", "pixel_attention_mask"),
            language="text_model",
            vision="vision_model",
            projector="connector",
            pads_tiles=True,
        ),
        "idefics3": Family(
            ("pixel_values", "pixel_attention_mask"),
            language="text_model",
            vision="vision_model",
            projector="connector",
            pads_tiles=True,
        ),
        "llava_onevision": Family(("pixel_values", "image_sizes", "batch_num_images"), pads_tiles=True),
        "gemma3": Family(sees_images_both_ways=True),
    }
)
"""By the `model_type` of a hub folder's config.json."""
