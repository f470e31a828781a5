"""Stock segment-anything prompted by embeddings: encode an image, decode a mask from a prompt and a mask input.

The prompt is a sparse embedding, (N, 1, C); the dense embedding is SAM's no-mask embedding or that of the mask input.
Weights, their names and the values are SAM's (masks equal those of the research fork to 1e-6), with faster attention in
the image encoder (`attention.py`) and a faster forward of the mask decoder (`decoder.py`).
Deviation: queries of several images are decoded in one call.
"""

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import Tensor, nn
from torch.nn import functional

from cores_core.config import SamConfig
from cores_core.errors import CheckpointError, ConfigError
from cores_core.model.sams.attention import attend_by_rows
from cores_core.model.sams.decoder import decode_masks, embed_cells
from cores_core.model.segmenter import Features, Frame, Segmenter
from cores_core.model.weights.tensors import Tensors, get_tensor

CPU_VALUES = 2**20
"""Values of the image embeddings of the queries that a CPU decodes together: one query at 1024 pixels."""
SHARPNESS = 10.0
"""Scale of the initial query biases relative to the tables of relative positions, see `_look_nearby`."""


class Sam1(Segmenter):
    """segment-anything without point and box prompts. h x w is its embedding grid, s = 4h."""

    image_encoder: ImageEncoderViT
    prompt_encoder: PromptEncoder
    mask_decoder: MaskDecoder

    def __init__(
        self, image_encoder: ImageEncoderViT, prompt_encoder: PromptEncoder, mask_decoder: MaskDecoder
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        self.frame = Frame(image_encoder.img_size, grid=prompt_encoder.image_embedding_size[0])
        self._positions: tuple[Any, Tensor] | None = None

    @property
    def width(self) -> int:
        """C, the width of prompt embeddings."""
        return int(self.prompt_encoder.embed_dim)

    def encode(self, pixels: Tensor) -> Features:
        """Encode (B, 3, S, S) pixels into one map, (B, C, h, w) float32."""
        return (self.image_encoder(pixels.to(self.image_encoder.pos_embed.dtype)).float(),)

    def decode(
        self, features: Features, prompts: Tensor, mask_input: Tensor | None, images: Tensor | None = None
    ) -> Tensor:
        """Decode one mask for each of N prompt embeddings (N, C), see `Segmenter.decode`."""
        return torch.cat([masks for masks, _ in self._decode(features, prompts, mask_input, images)])

    def decode_scored(
        self, features: Features, prompts: Tensor, mask_input: Tensor | None, images: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """`decode` with predicted IoUs, see `Segmenter.decode_scored`."""
        masks, ious = zip(*self._decode(features, prompts, mask_input, images, with_iou=True), strict=True)
        return torch.cat(masks), torch.cat(ious)

    def _decode(
        self,
        features: Features,
        prompts: Tensor,
        mask_input: Tensor | None,
        images: Tensor | None,
        with_iou: bool = False,
    ) -> Iterator[tuple[Tensor, Any]]:
        """Decode the queries, on a CPU a few at a time, so that what is computed stays in its cache."""
        if images is None:
            images = torch.arange(len(prompts), device=prompts.device)
        cells = features[0].flatten(2).transpose(1, 2).contiguous()
        if mask_input is None:  # equal for all queries of an image
            cells = embed_cells(self.prompt_encoder, cells, None)
        at_once = max(1, CPU_VALUES // cells[0].numel()) if prompts.device.type == "cpu" else len(prompts)
        with torch.autocast(prompts.device.type, enabled=False):
            for start in range(0, len(prompts), at_once):
                some = slice(start, start + at_once)
                mine = _select_rows(cells, images[some])
                if mask_input is not None:
                    mine = embed_cells(self.prompt_encoder, mine, mask_input[some])
                yield decode_masks(self.mask_decoder, mine, self._place_cells(), prompts[some], with_iou)

    def _place_cells(self) -> Tensor:
        """The positional encoding of the cells, (h*w, C), computed again only if its frequencies have changed."""
        frequencies = self.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
        state = frequencies.data_ptr(), frequencies._version, frequencies.device, frequencies.dtype
        if self._positions is None or self._positions[0] != state:
            self._positions = state, self.prompt_encoder.get_dense_pe()[0].flatten(1).T.contiguous()
        return self._positions[1]


def _select_rows(cells: Tensor, images: Tensor) -> Tensor:
    """The cells of each query's image, (n, L, C); without a copy of a single one, and without waiting for a GPU."""
    if len(cells) == 1:
        return cells.expand(len(images), -1, -1)
    if len(images) == 1 and images.device.type == "cpu":
        return cells[int(images[0])][None]
    return cells[images]


def build_sam1(config: SamConfig) -> Sam1:
    """Build a SAM of the given sizes with random weights; other sizes have the proportions of the released SAMs."""
    grid = config.image_size // config.patch_size
    width = config.prompt_embed_dim
    image_encoder = ImageEncoderViT(
        img_size=config.image_size,
        patch_size=config.patch_size,
        embed_dim=config.embed_dim,
        depth=config.depth,
        num_heads=config.num_heads,
        out_chans=width,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=config.window_size,
        global_attn_indexes=config.global_attn_indexes,
    )
    _look_nearby(image_encoder)
    attend_by_rows(image_encoder)
    prompt_encoder = PromptEncoder(
        embed_dim=width,
        image_embedding_size=(grid, grid),
        input_image_size=(config.image_size, config.image_size),
        mask_in_chans=16,
    )
    mask_decoder = MaskDecoder(
        transformer_dim=width,
        transformer=TwoWayTransformer(depth=2, embedding_dim=width, mlp_dim=8 * width, num_heads=8),
        iou_head_hidden_dim=width,
    )
    return Sam1(image_encoder, prompt_encoder, mask_decoder)


def sam_sizes(weights: Tensors) -> SamConfig:
    """Infer the sizes of a SAM from tensor shapes: heads from the width of the relative positions, windows from length.

    Args:
        weights: state dict of a `Sam1` under the prefix `segmenter.`; may be incomplete.

    Raises:
        CheckpointError: a tensor needed for this is missing, or the sizes are invalid.
    """
    prefix = "segmenter.image_encoder."
    position = get_tensor(weights, f"{prefix}pos_embed")
    grid, width = position.shape[1], position.shape[3]
    patch = get_tensor(weights, f"{prefix}patch_embed.proj.weight").shape[-1]
    blocks = [name for name in weights if name.startswith(prefix) and name.endswith("rel_pos_h")]
    reaches = [get_tensor(weights, f"{prefix}blocks.{number}.attn.rel_pos_h").shape for number in range(len(blocks))]
    spans = [(length + 1) // 2 for length, _ in reaches]
    try:
        return SamConfig(
            image_size=grid * patch,
            patch_size=patch,
            embed_dim=width,
            depth=len(blocks),
            num_heads=width // reaches[0][1],
            window_size=min((span for span in spans if span < grid), default=0),
            global_attn_indexes=tuple(number for number, span in enumerate(spans) if span == grid),
            prompt_embed_dim=get_tensor(weights, f"{prefix}neck.0.weight").shape[0],
            predicts_iou=True,
        )
    except (IndexError, ConfigError) as error:
        raise CheckpointError(f"invalid sizes of SAM: {error}") from error


def resize_positions(weights: Mapping[str, Tensor], grid: int) -> dict[str, Tensor]:
    """Interpolate the positional embeddings of SAM's image encoder to another grid size.

    Args:
        weights: state dict of a `Sam1`, or of a module that contains one.
        grid: the new number of cells per side.

    Returns:
        The changed tensors: absolute positions (bicubic), and the relative positions of blocks with global attention
        (linear), so that equal fractions of the image keep equal embeddings.
    """
    (name,) = (name for name in weights if name.endswith("image_encoder.pos_embed"))
    absolute = weights[name].permute(0, 3, 1, 2)
    old = absolute.shape[-1]
    resized = {name: functional.interpolate(absolute, (grid, grid), mode="bicubic").permute(0, 2, 3, 1).contiguous()}
    for name, table in weights.items():
        if ".rel_pos_" in name and len(table) == 2 * old - 1:
            rows = functional.interpolate(table.T[None], 2 * grid - 1, mode="linear", align_corners=True)
            resized[name] = rows[0].T.contiguous()
    return resized


@torch.no_grad()
def _look_nearby(image_encoder: ImageEncoderViT) -> None:
    """Initialise attention as a convolution (ConViT): each head attends to one offset, farther in later blocks.

    A head's logit for a cell falls with the squared distance to the head's offset. The square is expressed by three
    columns of the relative position tables, d^2, dy and dx, with the query biases as their factors.
    Source: d'Ascoli et al., "ConViT" (arXiv:2103.10697), in SAM's own parameters.
    """
    depth = len(image_encoder.blocks)
    for number, block in enumerate(image_encoder.blocks):
        attention = block.attn
        heads, width = attention.num_heads, attention.rel_pos_h.shape[1]
        radius = 1 + 2 * number / max(depth - 1, 1)
        for table, column in ((attention.rel_pos_h, 1), (attention.rel_pos_w, 2)):
            reach = len(table) // 2
            from_key = torch.arange(-reach, reach + 1)
            table.zero_()
            table[:, 0], table[:, column] = -(from_key**2) / SHARPNESS, from_key / SHARPNESS
        weight = attention.qkv.weight[: 2 * heads * width].view(2, heads, width, -1)  # of queries and keys
        bias = attention.qkv.bias[: 2 * heads * width].view(2, heads, width)
        angles = 2 * math.pi * (torch.arange(heads) + number / 2) / heads
        weight[:, :, :3], bias[:, :, :3] = 0, 0
        bias[0, :, 0] = SHARPNESS / radius**2
        bias[0, :, 1] = -2 * SHARPNESS * angles.sin() / radius
        bias[0, :, 2] = -2 * SHARPNESS * angles.cos() / radius
