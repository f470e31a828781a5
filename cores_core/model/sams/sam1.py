"""Stock segment-anything, prompted by embeddings: encode an image, decode a mask from a prompt and a prior.

A text prompt is one more sparse embedding, (N, 1, C); the dense prompt is the prompt encoder's no-mask embedding or its
embedding of the prior. SAM itself is unchanged (masks are those of the research fork to 1e-6), but attends in less time
and memory (see `attention.py`).
Deviation: queries of several images are decoded in one call. The stock decoder repeats one image embedding for all
prompts, so each prompt's own embedding is passed inside its dense prompt and the repeated one is zero.
"""

import math
from collections.abc import Mapping
from functools import partial

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import Tensor, nn
from torch.nn import functional

from cores_core.config import SamConfig
from cores_core.errors import CheckpointError, ConfigError
from cores_core.model.sams.attention import attend_by_rows, attend_from_cells
from cores_core.model.segmenter import Features, Frame, Segmenter
from cores_core.model.weights.tensors import Tensors, get_tensor

SHARPNESS = 10.0
"""How the initial look at neighbours is split between large biases and small tables of positions."""


class Sam1(Segmenter):
    """segment-anything without its points and boxes. h x w is its embedding grid, s = 4h."""

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

    @property
    def width(self) -> int:
        """C, the width of a prompt embedding."""
        return int(self.prompt_encoder.embed_dim)

    def encode(self, pixels: Tensor) -> Features:
        """Encode (B, 3, S, S) pixels into one map, (B, C, h, w) float32."""
        return (self.image_encoder(pixels.to(self.image_encoder.pos_embed.dtype)).float(),)

    def decode(self, features: Features, prompts: Tensor, prior: Tensor | None) -> Tensor:
        """Decode one mask for each of N prompts, see `Segmenter.decode`."""
        (image_embeddings,) = features
        with torch.autocast(prompts.device.type, enabled=False):  # SAM's positional encoding mixes dtypes otherwise
            _, dense = self.prompt_encoder(points=None, boxes=None, masks=prior)
            logits, _ = self.mask_decoder(
                image_embeddings=torch.zeros_like(image_embeddings[:1]),
                image_pe=self.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=prompts[:, None],
                dense_prompt_embeddings=image_embeddings + dense,
                multimask_output=False,
            )
        masks: Tensor = logits
        return masks


def build_sam1(config: SamConfig) -> Sam1:
    """Build a SAM with random weights from its sizes, with the proportions of the released ones."""
    grid = config.image_size // config.patch_size
    width = config.prompt_width
    image_encoder = ImageEncoderViT(
        img_size=config.image_size,
        patch_size=config.patch_size,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads,
        out_chans=width,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=config.window,
        global_attn_indexes=config.global_blocks,
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
    attend_from_cells(mask_decoder.transformer)
    return Sam1(image_encoder, prompt_encoder, mask_decoder)


def sam_sizes(weights: Tensors) -> SamConfig:
    """The size of a SAM from its tensors: heads from the width of the relative positions, windows from their length.

    Args:
        weights: the state of a `Sam1` under the prefix `segmenter.`, in whole or in part.

    Raises:
        CheckpointError: a tensor that tells is missing, or the sizes make no sense.
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
            width=width,
            depth=len(blocks),
            heads=width // reaches[0][1],
            window=min((span for span in spans if span < grid), default=0),
            global_blocks=tuple(number for number, span in enumerate(spans) if span == grid),
            prompt_width=get_tensor(weights, f"{prefix}neck.0.weight").shape[0],
        )
    except (IndexError, ConfigError) as error:
        raise CheckpointError(f"the sizes of SAM do not make sense: {error}") from error


def resize_positions(weights: Mapping[str, Tensor], grid: int) -> dict[str, Tensor]:
    """The positions of SAM's image encoder for a grid of another size.

    Args:
        weights: the state of a `Sam1`, or of a module that holds one.
        grid: the new number of cells a side.

    Returns:
        The tensors that change: absolute positions (bicubic), and of the blocks with global attention the relative
        ones (linear), so that a distance means the same share of the image.
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
    """Let attention begin as a convolution: each head looks at one neighbour of a cell, later blocks further away.

    A head's logit for a cell at (y, x) from its own falls off as the square of the distance to the head's neighbour.
    The square is written in three columns of the tables of relative positions: d^2, dy and dx, whose factors are the
    biases of the queries. Source: d'Ascoli et al., "ConViT" (arXiv:2103.10697), in SAM's own parameters.
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
