"""SAM 2, SAM 2.1 and SAM 3's tracker from transformers, prompted by embeddings like SAM 1.

The mask decoder applies one convolution to each of the two finer feature maps. As in the released code, these are
computed once per image; here they belong to the image encoder, so that they are frozen with it and cached features are
small.
Deviation: transformers' methods for embeddings disable gradients, so the modules are called directly. Mask selection
by stability, which transformers applies in evaluation mode only, is disabled.
"""

from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, Sam2Model, Sam3TrackerModel

from cores_core.errors import CheckpointError
from cores_core.model.families.llava import model_type
from cores_core.model.segmenter import Features, Frame, Segmenter
from cores_core.model.weights.tensors import Tensors
from cores_core.model.weights.transformers_io import load_whole, read_config

HUB_SAMS = {
    "sam2": Sam2Model,
    "sam2_video": Sam2Model,
    "sam3_tracker": Sam3TrackerModel,
    "sam3_tracker_video": Sam3TrackerModel,
    "sam3_video": Sam3TrackerModel,
}
"""Model class by `model_type` on the hub; checkpoints for video contain the image model."""
_HALF = (127.5, 127.5, 127.5)


class HubImageEncoder(nn.Module):
    """Image encoder whose feature maps, finest first, are the input of the mask decoder."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.vision_encoder = model.vision_encoder
        self.finest, self.finer = model.mask_decoder.conv_s0, model.mask_decoder.conv_s1
        self.no_memory_embedding = model.no_memory_embedding  # (1, 1, C), for images without earlier video frames

    def forward(self, pixels: Tensor) -> Features:
        """Encode (B, 3, S, S) pixels.

        SAM 3 has a fourth, coarsest map that the decoder does not use. As in transformers, the no-memory embedding is
        added to the last of all maps.
        """
        maps = list(self.vision_encoder(pixels, return_dict=True).fpn_hidden_states)
        maps[-1] = maps[-1] + self.no_memory_embedding[0, 0, :, None, None]
        return self.finest(maps[0]), self.finer(maps[1]), maps[2]


class HubSam(Segmenter):
    """A SAM of transformers, without point and box prompts and memory."""

    image_encoder: HubImageEncoder
    mask_decoder: Any
    config: PreTrainedConfig

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.config = model.config
        self.image_encoder = HubImageEncoder(model)
        self.prompt_encoder = model.prompt_encoder
        self.mask_decoder = model.mask_decoder
        del self.mask_decoder.conv_s0, self.mask_decoder.conv_s1  # they are the image encoder's
        self.mask_decoder.dynamic_multimask_via_stability = False
        self.image_positions = model.shared_image_embedding
        self.frame = hub_frame(model.config)

    @property
    def width(self) -> int:
        """C, the width of prompt embeddings."""
        return hub_prompt_width(self.config)

    def encode(self, pixels: Tensor) -> Features:
        """Encode (B, 3, S, S) pixels into three maps, (B, C/8, 4h, 4w), (B, C/4, 2h, 2w), (B, C, h, w) float32."""
        half = pixels.to(self.image_encoder.no_memory_embedding.dtype)
        return tuple(level.float() for level in self.image_encoder(half))

    def decode(
        self, features: Features, prompts: Tensor, mask_input: Tensor | None, images: Tensor | None = None
    ) -> Tensor:
        """Decode one mask for each of N prompt embeddings (N, C), see `Segmenter.decode`."""
        return self.decode_scored(features, prompts, mask_input, images)[0]

    def decode_scored(
        self, features: Features, prompts: Tensor, mask_input: Tensor | None, images: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """`decode` with predicted IoUs, see `Segmenter.decode_scored`."""
        if images is not None:
            features = tuple(level[images] for level in features)
        return self.decode_tokens(features, prompts[:, None], mask_input)

    def decode_tokens(self, features: Features, tokens: Tensor, mask_input: Tensor | None) -> tuple[Tensor, Tensor]:
        """Decode one mask and its predicted IoU for each of N prompts of K embeddings, (N, K, C).

        The features of each prompt are in a row.
        """
        *finer, coarsest = features
        count = len(tokens)
        with torch.autocast(tokens.device.type, enabled=False):
            _, dense = self.prompt_encoder(
                input_points=None, input_labels=None, input_boxes=None, input_masks=mask_input
            )
            masks, ious, *_ = self.mask_decoder(
                image_embeddings=coarsest,
                image_positional_embeddings=self._positions(coarsest).expand(count, -1, -1, -1),
                sparse_prompt_embeddings=tokens[:, None],
                dense_prompt_embeddings=dense.expand(count, -1, -1, -1),
                multimask_output=False,
                high_resolution_features=finer,
            )
        return masks[:, 0], ious[:, 0, 0]

    def _positions(self, features: Tensor) -> Tensor:
        """Positional embedding of the coarsest feature map, (1, C, h, w)."""
        steps = [(torch.arange(n, device=features.device, dtype=features.dtype) + 0.5) / n for n in features.shape[-2:]]
        rows, columns = torch.meshgrid(*steps, indexing="ij")
        positions: Tensor = self.image_positions(torch.stack([columns, rows], dim=-1))
        return positions.permute(2, 0, 1)[None]


def hub_frame(config: PreTrainedConfig) -> Frame:
    """Image preprocessing of a SAM of transformers: both sides of an image are resized to its input size."""
    side, grid = int(_prompts(config).image_size), int(config.vision_config.backbone_feature_sizes[-1][0])
    if config.model_type == "sam2":
        return Frame(side, grid, keeps_ratio=False)
    return Frame(side, grid, keeps_ratio=False, mean=_HALF, std=_HALF)


def hub_prompt_width(config: PreTrainedConfig) -> int:
    """C, the width of prompt embeddings."""
    return int(_prompts(config).hidden_size)


def hub_block_numbers(config: PreTrainedConfig) -> int:
    """Number of activations of the image encoder's largest block per image: input, queries, keys, values and MLP."""
    backbone, side = config.vision_config.backbone_config, hub_frame(config).side
    width, patch = (backbone.embed_dim_per_stage[0], 4) if config.model_type == "sam2" else (backbone.hidden_size, 14)
    return int(8 * width * (side // patch) ** 2)


def build_hub_sam(config: PreTrainedConfig) -> HubSam:
    """Build a SAM of transformers with random weights."""
    model_class = HUB_SAMS[config.model_type]
    return HubSam(model_class._from_config(config, dtype=torch.float32))


def read_hub_sam(folder: Path, shapes_only: bool = False) -> tuple[PreTrainedConfig, Tensors]:
    """Read config and weights of a SAM of transformers; weights as the state dict of a `HubSam` under `segmenter.`.

    Raises:
        CheckpointError: a file is missing or damaged, or the weights do not fit the config.
    """
    config = read_hub_sam_config(folder)
    if shapes_only:
        return empty_hub_sam(config)
    return _describe(load_whole(HUB_SAMS[config.model_type], folder))


def empty_hub_sam(config: PreTrainedConfig) -> tuple[PreTrainedConfig, Tensors]:
    """Config and weights like those of `read_hub_sam`, with tensors on the meta device."""
    model_class = HUB_SAMS[config.model_type]
    with init_empty_weights(include_buffers=False):
        model = model_class._from_config(config)
    return _describe(model)


def read_hub_sam_config(folder: Path) -> PreTrainedConfig:
    """Read the config of a SAM of transformers.

    Raises:
        CheckpointError: it is missing or invalid.
    """
    kind = model_type(folder)
    if kind not in HUB_SAMS:
        raise CheckpointError(f"not a SAM of one of the model types {', '.join(HUB_SAMS)}: {folder} (`{kind}`)")
    return read_config(HUB_SAMS[kind].config_class, folder)


def _prompts(config: PreTrainedConfig) -> Any:
    return config.prompt_encoder_config


def _describe(model: PreTrainedModel) -> tuple[PreTrainedConfig, Tensors]:
    segmenter = HubSam(model)
    return segmenter.config, {f"segmenter.{name}": tensor for name, tensor in segmenter.state_dict().items()}
