"""The paper's token refiner: adds image features under the coarse mask to the prompt embedding of the next stage.

R(p, i, m) = p + CA(p, MAP(i, m)) of a prompt p: masked average pooling of SAM's image embedding i under the binarised
coarse mask m gives one vector; cross attention from the prompt to it is added back.
Source: CoReS (arXiv:2404.05673) and its release, whose layer is `p + LayerNorm(p + MHA(p, MAP, MAP))`.
Deviation: the release leaves it frozen with all weights 1, where it depends on neither image nor mask; ours is
initialised and trained.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

AREA_FLOOR = 0.0005
"""Added to the area in feature cells, as released."""


class TokenRefiner(nn.Module):
    """Refines a prompt embedding of width C by the image content under a coarse mask."""

    def __init__(self, width: int, heads: int = 8) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm = nn.LayerNorm(width)

    def forward(
        self, prompts: Tensor, image_embeddings: Tensor, coarse: Tensor, images: Tensor | None = None
    ) -> Tensor:
        """Refine N prompts.

        Args:
            prompts: (N, C).
            image_embeddings: (B, C, h, w), coarsest feature map of each image.
            coarse: (N, 1, s, s) unthresholded logits. Their binarisation passes no gradient.
            images: (N,) row of each prompt's image; None if B = N and each prompt has the row of its own number.

        Returns:
            (N, C).
        """
        pooled = pool_under_mask(image_embeddings, coarse, images)[:, None]
        query = prompts[:, None]
        attended, _ = self.attention(query, pooled, pooled, need_weights=False)
        refined: Tensor = prompts + self.norm(query + attended)[:, 0]
        return refined


def pool_under_mask(image_embeddings: Tensor, coarse: Tensor, images: Tensor | None = None) -> Tensor:
    """Average features under N coarse masks, logits > 0, scaled down to the feature cells. Gives (N, C).

    Of a mask without any cell, which may be one of a few thin pixels, the average over the image. Arguments as for
    `TokenRefiner.forward`.
    """
    inside = (coarse > 0).to(image_embeddings.dtype)
    inside = functional.interpolate(inside, image_embeddings.shape[-2:], mode="bilinear", align_corners=False)
    empty = inside.sum(dim=(2, 3), keepdim=True) == 0
    inside = torch.where(empty, torch.ones_like(inside), inside)
    area = inside.sum(dim=(2, 3)) + AREA_FLOOR
    cells = image_embeddings.flatten(2)
    if images is None:
        sums = (cells @ inside.flatten(2).transpose(1, 2))[:, :, 0]
    else:  # sums of every mask over every image: less memory than a copy of the features for each mask
        number = torch.arange(len(images), device=images.device)
        sums = torch.einsum("bcl,nl->nbc", cells, inside.flatten(1))[number, images]
    pooled: Tensor = sums / area
    return pooled
