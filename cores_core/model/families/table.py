"""The supported families of multimodal LLMs and their differences, by `model_type` of transformers.

tests/model/families/ compares every entry with the model's own forward pass, values and gradients.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Family:
    """Properties of a family of multimodal LLMs.

    Attributes:
        image_keys: the processor's image tensors that are arguments of the model's forward.
        language, vision, projector: names of its parts inside `net.model`; None if the projector is in the tower.
        pads_tiles: whether the images of a batch are padded to the same number of tiles, or concatenated.
        mrope: whether positions have three axes (time, height, width).
        sees_images_both_ways: whether image tokens attend to each other bidirectionally.
        merges_images: whether image features replace the embeddings of the image tokens and enter nowhere else, so that
            `Mllm` can do so.
        packs: whether the questions of an image can share its prefix in one row; False for models with recurrent
            layers (linear attention).
        cap: limits a processor to a number of tokens per image, as far as possible. Returns the maximum length of the
            longer side in pixels, to which images must be resized before the processor; None for no limit.
        preset: name of the preset for training.
    """

    image_keys: tuple[str, ...] = ("pixel_values",)
    language: str = "language_model"
    vision: str = "vision_tower"
    projector: str | None = "multi_modal_projector"
    pads_tiles: bool = False
    mrope: bool = False
    sees_images_both_ways: bool = False
    merges_images: bool = False
    packs: bool = True
    cap: Callable[[Any, int], int | None] = lambda processor, tokens: None
    preset: str = "cores-qwen3vl-4b"


LLAVA = Family(merges_images=True, preset="cores-7b-llava1.5")
"""LLaVA 1 and 1.5, with prompts and image preprocessing of the releases (llava_prompts.py)."""


def _cap_pixels(processor: Any, tokens: int) -> None:
    """Qwen: a token is a square of merged patches, so a limit on pixels limits the tokens."""
    images = processor.image_processor
    most = tokens * (images.patch_size * images.merge_size) ** 2
    size = images.size
    images.size = {name: min(size[name], most) for name in ("shortest_edge", "longest_edge")}


def _cap_tiles(processor: Any, tokens: int) -> None:
    """InternVL: a grid of n tiles, plus a tile of the whole image if n > 1. The minimum is one tile."""
    images = processor.image_processor
    grid = max(1, tokens // processor.image_seq_length - 1)
    images.max_patches = min(images.max_patches, grid)
    images.min_patches = min(images.min_patches, images.max_patches)


def _cap_grid(processor: Any, tokens: int) -> None:
    """SmolVLM and Idefics3: at most k x k tiles, plus a tile of the whole image if k > 1. The minimum is one tile.

    Row and column markers, about seven tokens per tile, are not counted.
    """
    images = processor.image_processor
    tiles = tokens // processor.image_seq_len
    side = max(1, math.isqrt(max(0, tiles - 1)))
    tile, longest = images.max_image_size["longest_edge"], images.size["longest_edge"]
    images.size = {"longest_edge": min(longest, side * tile)}


def _shrink_to_tiles(processor: Any, tokens: int) -> int:
    """LLaVA-OneVision: a tile of the whole image, k x k tiles, and one newline token per row of patches.

    Limits the image size: the processor chooses the smallest grid that an image fits into. Its list of grids must stay
    that of the model's config. The minimum is k = 1: 1485 tokens with tiles of 729.
    """
    tile = processor.num_image_tokens
    side = 1
    while tile * (1 + (side + 1) ** 2) + (side + 1) * math.isqrt(tile) <= tokens:
        side += 1
    return side * int(processor.image_processor.size["height"])


_QWEN = Family(("pixel_values", "image_grid_thw"), vision="visual", projector=None, mrope=True, cap=_cap_pixels)
_IDEFICS = Family(
    ("pixel_values", "pixel_attention_mask"),
    language="text_model",
    vision="vision_model",
    projector="connector",
    pads_tiles=True,
    cap=_cap_grid,
    preset="cores-smolvlm2-500m",
)

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "qwen2_vl": replace(_QWEN, preset="cores-qwen2.5vl-7b"),
        "qwen2_5_vl": replace(_QWEN, preset="cores-qwen2.5vl-7b"),
        "qwen3_vl": _QWEN,
        "qwen3_5": replace(_QWEN, packs=False),  # linear attention
        "internvl": Family(cap=_cap_tiles, preset="cores-internvl3.5-4b"),
        "smolvlm": _IDEFICS,
        "idefics3": _IDEFICS,
        "llava_onevision": Family(
            ("pixel_values", "image_sizes", "batch_num_images"), pads_tiles=True, cap=_shrink_to_tiles
        ),
        "gemma3": Family(sees_images_both_ways=True),  # as many tokens for every image
    }
)
"""Families by the `model_type` of a hub folder's config.json."""
