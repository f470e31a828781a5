"""The families of multimodal LLMs that a chain can stand on: what differs between them, by transformers' model types.

tests/model/families/ compares every entry with the model's own forward, values and gradients.
"""

import math
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
        cap: sets a processor to give at most so many tokens an image, as far as it can. Returns the most pixels that
            the longer side of an image may have before the processor sees it; None for any number.
        preset: the settings to train a model of it with.
    """

    image_keys: tuple[str, ...] = ("pixel_values",)
    language: str = "language_model"
    vision: str = "vision_tower"
    projector: str | None = "multi_modal_projector"
    pads_tiles: bool = False
    mrope: bool = False
    sees_images_both_ways: bool = False
    packs: bool = True
    cap: Callable[[Any, int], int | None] = lambda processor, tokens: None
    preset: str = "cores-qwen3vl-4b"


LLAVA = Family(preset="cores-7b-llava1.5")
"""LLaVA 1 and 1.5, whose prompts and images are those of the releases (llava.py)."""


def _cap_pixels(processor: Any, tokens: int) -> None:
    """Qwen: a token is a square of merged patches, so the number of pixels bounds their number."""
    images = processor.image_processor
    most = tokens * (images.patch_size * images.merge_size) ** 2
    size = images.size
    images.size = {name: min(size[name], most) for name in ("shortest_edge", "longest_edge")}


def _cap_tiles(processor: Any, tokens: int) -> None:
    """InternVL: n tiles in a grid, and from two on one more of the whole image. One tile is the least."""
    images = processor.image_processor
    grid = max(1, tokens // processor.image_seq_length - 1)
    images.max_patches = min(images.max_patches, grid)
    images.min_patches = min(images.min_patches, images.max_patches)


def _cap_grid(processor: Any, tokens: int) -> None:
    """SmolVLM and Idefics3: at most k x k tiles, and from k = 2 on one more of the whole image. One tile is the least.

    Row and column marks, about seven tokens a tile, come on top of the image's own.
    """
    images = processor.image_processor
    tiles = tokens // processor.image_seq_len
    side = max(1, math.isqrt(max(0, tiles - 1)))
    tile, longest = images.max_image_size["longest_edge"], images.size["longest_edge"]
    images.size = {"longest_edge": min(longest, side * tile)}


def _shrink_to_tiles(processor: Any, tokens: int) -> int:
    """LLaVA-OneVision: a tile of the whole image, k x k tiles and a token for each of their lines.

    The processor takes the smallest grid that an image fits into, so small images have few tiles; its list of grids
    stays, because the model's config holds it, too. It cannot go below k = 1: 1485 tokens with tiles of 729.
    """
    tile = processor.num_image_tokens
    side = 1
    while tile * (1 + (side + 1) ** 2) + (side + 1) * math.isqrt(tile) <= tokens:
        side += 1
    return side * int(processor.image_processor.size["height"])


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "qwen2_vl": Family(
            ("pixel_values", "image_grid_thw"),
            vision="visual",
            projector=None,
            mrope=True,
            cap=_cap_pixels,
            preset="cores-qwen2.5vl-7b",
        ),
        "qwen2_5_vl": Family(
            ("pixel_values", "image_grid_thw"),
            vision="visual",
            projector=None,
            mrope=True,
            cap=_cap_pixels,
            preset="cores-qwen2.5vl-7b",
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
        "internvl": Family(cap=_cap_tiles, preset="cores-internvl3.5-4b"),
        "smolvlm": Family(
            ("pixel_values", "pixel_attention_mask"),
            language="text_model",
            vision="vision_model",
            projector="connector",
            pads_tiles=True,
            cap=_cap_grid,
            preset="cores-smolvlm2-500m",
        ),
        "idefics3": Family(
            ("pixel_values", "pixel_attention_mask"),
            language="text_model",
            vision="vision_model",
            projector="connector",
            pads_tiles=True,
            cap=_cap_grid,
            preset="cores-smolvlm2-500m",
        ),
        "llava_onevision": Family(
            ("pixel_values", "image_sizes", "batch_num_images"), pads_tiles=True, cap=_shrink_to_tiles
        ),
        "gemma3": Family(sees_images_both_ways=True),  # as many tokens for every image
    }
)
"""By the `model_type` of a hub folder's config.json."""
