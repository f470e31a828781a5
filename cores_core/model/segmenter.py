"""What a segment-anything model is to the chain: encode an image, decode a mask from a prompt embedding and a prior.

`sams/` has one implementation for segment-anything (SAM 1) and one for those of transformers (SAM 2, SAM 3).
"""

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
"""An image encoder's feature maps, each (B, ., h, w): the finest first, the last (B, C, h, w) is the coarsest."""
DECODER_SCALE = 4
"""Pixels a side that a mask decoder makes of one cell of the coarsest map."""
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Frame:
    """The square in which a SAM sees an image.

    Attributes:
        side: in pixels. grid: cells a side of its coarsest feature map.
        keeps_ratio: whether an image's longest side becomes `side` and the rest is padded (SAM 1), or both sides do.
        mean, std: of the three channels, in 0-255.
    """

    side: int
    grid: int
    keeps_ratio: bool = True
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    @property
    def mask_side(self) -> int:
        """Side of the logits that the decoder gives."""
        return DECODER_SCALE * self.grid

    def fit(self, original_hw: tuple[int, int]) -> tuple[int, int]:
        """Height and width of an image in this frame, without padding."""
        return fit_hw(original_hw, self.side) if self.keeps_ratio else (self.side, self.side)

    def pixels(self, image: Image.Image) -> tuple[Tensor, ImageSize]:
        """Resize an image (antialiased bilinear), normalise it, and pad it right and bottom: (3, side, side)."""
        width, height = image.size
        resized_hw = self.fit((height, width))
        resized = np.asarray(image.resize(resized_hw[::-1], Image.Resampling.BILINEAR))
        padded = torch.zeros(3, self.side, self.side)
        pixels = torch.from_numpy(normalise(resized.astype(np.float32), self.mean, self.std))
        padded[:, : resized_hw[0], : resized_hw[1]] = pixels
        return padded, ImageSize(original_hw=(height, width), resized_hw=resized_hw)


class Segmenter(nn.Module, ABC):
    """A SAM without its points and boxes. C is its prompt width, S its frame's side, s that of its masks."""

    image_encoder: nn.Module
    prompt_encoder: nn.Module
    mask_decoder: nn.Module
    frame: Frame
    config: PreTrainedConfig | None = None  # sizes in transformers' terms; None for SAM 1

    @property
    def kind(self) -> str:
        """`sam1`, or the model type that transformers gives it."""
        return "sam1" if self.config is None else str(self.config.model_type)

    @property
    @abstractmethod
    def width(self) -> int:
        """C, the width of a prompt embedding."""

    @abstractmethod
    def encode(self, pixels: Tensor) -> Features:
        """Encode (B, 3, S, S) pixels as `Frame.pixels` gives them; the features are in float32."""

    @abstractmethod
    def decode(self, features: Features, prompts: Tensor, prior: Tensor | None) -> Tensor:
        """Decode one mask for each of N prompts.

        Args:
            features: each prompt's own image, every map with N rows.
            prompts: (N, C).
            prior: (N, 1, s, s) logits of the step before, or None.

        Returns:
            (N, 1, s, s) unthresholded logits.
        """

    def upsample(self, logits: Tensor, size: ImageSize) -> Tensor:
        """Bring (N, 1, s, s) logits to the image's own pixels, (N, H, W), without the padding."""
        return upsample_masks(logits, size, self.frame.side)


def upsample_masks(logits: Tensor, size: ImageSize, square: int) -> Tensor:
    """The same, of a SAM whose frame has `square` pixels a side."""
    full = functional.interpolate(logits, (square, square), mode="bilinear", align_corners=False)
    full = full[..., : size.resized_hw[0], : size.resized_hw[1]]
    if size.resized_hw == size.original_hw:
        return full[:, 0]
    return functional.interpolate(full, size.original_hw, mode="bilinear", align_corners=False)[:, 0]
