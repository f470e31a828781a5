"""Interface of a segment-anything model: encode an image, decode a mask from a prompt embedding and a mask input.

Implementations in `sams/`: segment-anything (SAM 1), and transformers (SAM 2, SAM 3).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig

from cores_core.images import fit_hw, normalise
from cores_core.sample import ImageSize

Features = tuple[Tensor, ...]
"""Feature maps of an image encoder, each (B, ., h, w), from the finest to the coarsest; the last is (B, C, h, w)."""
DECODER_SCALE = 4
"""Upsampling factor of the mask decoder from the coarsest feature map."""
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Frame:
    """Preprocessing of images for a SAM, whose input is a square.

    Attributes:
        side: input size in pixels. grid: side of the coarsest feature map.
        keeps_ratio: True: resize the longest side to `side` and pad (SAM 1). False: resize both sides (SAM 2, SAM 3).
        mean, std: per channel, in 0-255.
    """

    side: int
    grid: int
    keeps_ratio: bool = True
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    @property
    def mask_side(self) -> int:
        """Side of the decoder's mask logits."""
        return DECODER_SCALE * self.grid

    def fit(self, original_hw: tuple[int, int]) -> tuple[int, int]:
        """Height and width of an image after resizing, before padding."""
        return fit_hw(original_hw, self.side) if self.keeps_ratio else (self.side, self.side)

    def pixels(self, image: Image.Image) -> tuple[Tensor, ImageSize]:
        """Resize (antialiased bilinear), normalise and pad right and bottom: (3, side, side)."""
        width, height = image.size
        resized_hw = self.fit((height, width))
        resized = np.asarray(image.resize(resized_hw[::-1], Image.Resampling.BILINEAR))
        padded = torch.zeros(3, self.side, self.side)
        pixels = torch.from_numpy(normalise(resized.astype(np.float32), self.mean, self.std))
        padded[:, : resized_hw[0], : resized_hw[1]] = pixels
        return padded, ImageSize(original_hw=(height, width), resized_hw=resized_hw)


class Segmenter(nn.Module, ABC):
    """A SAM prompted by embeddings. C is the prompt width, S the input size, s the side of its mask logits."""

    image_encoder: nn.Module
    prompt_encoder: nn.Module
    mask_decoder: nn.Module
    frame: Frame
    config: PreTrainedConfig | None = None  # sizes in transformers' terms; None for SAM 1

    @property
    def kind(self) -> str:
        """`sam1`, or `model_type` of the transformers config."""
        return "sam1" if self.config is None else str(self.config.model_type)

    @property
    @abstractmethod
    def width(self) -> int:
        """C, the width of prompt embeddings."""

    @abstractmethod
    def encode(self, pixels: Tensor) -> Features:
        """Encode (B, 3, S, S) pixels preprocessed by `Frame.pixels` into float32 features."""

    @abstractmethod
    def decode(
        self, features: Features, prompts: Tensor, mask_input: Tensor | None, images: Tensor | None = None
    ) -> Tensor:
        """Decode one mask for each of N prompts.

        Args:
            features: image features, every map with B rows.
            prompts: (N, C) prompt embeddings.
            mask_input: (N, 1, s, s) mask logits of the previous stage (SAM's mask input), or None.
            images: (N,) row of each prompt's image; None if B = N and each prompt has the row of its own number.

        Returns:
            (N, 1, s, s) unthresholded logits.
        """

    @abstractmethod
    def decode_scored(
        self, features: Features, prompts: Tensor, mask_input: Tensor | None, images: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """`decode`, with SAM's prediction of each mask's IoU with the object, (N,); about 0-1, not clipped."""

    def upsample(self, logits: Tensor, size: ImageSize) -> Tensor:
        """Upsample (N, 1, s, s) logits to the original image size, (N, H, W), removing the padding."""
        return upsample_masks(logits, size, self.frame.side)


def upsample_masks(logits: Tensor, size: ImageSize, square: int) -> Tensor:
    """Functional form of `Segmenter.upsample` for a SAM with input size `square`."""
    scale = square / logits.shape[-1]
    rows, columns = (math.ceil(side / scale) + 1 for side in size.resized_hw)  # one more, for the interpolation
    shown = logits[..., :rows, :columns]
    full = functional.interpolate(shown, scale_factor=scale, mode="bilinear", align_corners=False)
    full = full[..., : size.resized_hw[0], : size.resized_hw[1]]
    if size.resized_hw == size.original_hw:
        return full[:, 0]
    return functional.interpolate(full, size.original_hw, mode="bilinear", align_corners=False)[:, 0]
