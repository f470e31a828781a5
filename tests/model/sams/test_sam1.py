"""Stock SAM, several images in one call, and masks without the padding."""

from dataclasses import replace

import pytest
import torch
from helpers import mask
from segment_anything.modeling.image_encoder import add_decomposed_rel_pos
from torch import Tensor
from torch.nn import functional

from cores_core.config import SamConfig
from cores_core.model.checkpoint import Checkpoint
from cores_core.model.sams.sam1 import build_sam1, resize_positions
from cores_core.model.segmenter import Segmenter, upsample_masks
from cores_core.sample import ImageSize

WIDTH, GRID, LOW = 16, 8, 32


@pytest.fixture(scope="module")
def segmenter(checkpoint: Checkpoint) -> Segmenter:
    return checkpoint.model.segmenter


@pytest.fixture(scope="module")
def embeddings(segmenter: Segmenter) -> Tensor:
    """Two images."""
    with torch.no_grad():
        return segmenter.encode(_noise(2, 3, 64, 64))[0]


@pytest.fixture(scope="module")
def prompts() -> Tensor:
    """Three queries: two of the first image, one of the second."""
    return _noise(3, WIDTH, seed=1)


IMAGE_INDEX = [0, 0, 1]
MASK_INPUTS = [None, torch.linspace(-3, 3, 3 * LOW * LOW).reshape(3, 1, LOW, LOW)]


def test_sizes_follow_the_config(segmenter: Segmenter, embeddings: Tensor, prompts: Tensor) -> None:
    assert segmenter.width == WIDTH
    assert embeddings.shape == (2, WIDTH, GRID, GRID)
    assert _decode(segmenter, embeddings[IMAGE_INDEX], prompts, None).shape == (3, 1, LOW, LOW)


@pytest.mark.parametrize("mask_input", MASK_INPUTS, ids=["no mask input", "mask input"])
def test_queries_of_two_images_together_equal_each_alone(
    segmenter: Segmenter, embeddings: Tensor, prompts: Tensor, mask_input: Tensor | None
) -> None:
    together = _decode(segmenter, embeddings[IMAGE_INDEX], prompts, mask_input)
    for query, image in enumerate(IMAGE_INDEX):
        alone = _decode(
            segmenter,
            embeddings[image : image + 1],
            prompts[query : query + 1],
            None if mask_input is None else mask_input[query : query + 1],
        )
        torch.testing.assert_close(together[query : query + 1], alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("mask_input", MASK_INPUTS, ids=["no mask input", "mask input"])
def test_decoding_equals_stock_sam(
    segmenter: Segmenter, embeddings: Tensor, prompts: Tensor, mask_input: Tensor | None
) -> None:
    """The stock call: one image, its embedding repeated by the decoder, the prompt a sparse embedding."""
    sparse, dense = segmenter.prompt_encoder(points=None, boxes=None, masks=mask_input)
    with torch.no_grad():
        expected, _ = segmenter.mask_decoder(
            image_embeddings=embeddings[:1],
            image_pe=segmenter.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=torch.cat([sparse.expand(3, -1, -1), prompts[:, None]], dim=1),
            dense_prompt_embeddings=dense.expand(3, -1, -1, -1),
            multimask_output=False,
        )
    ours = _decode(segmenter, embeddings[[0, 0, 0]], prompts, mask_input)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)


def test_prompt_image_and_prior_all_matter(segmenter: Segmenter, embeddings: Tensor, prompts: Tensor) -> None:
    plain = _decode(segmenter, embeddings[:1], prompts[:1], None)
    others = [
        _decode(segmenter, embeddings[:1], prompts[1:2], None),
        _decode(segmenter, embeddings[1:], prompts[:1], None),
        _decode(segmenter, embeddings[:1], prompts[:1], torch.full((1, 1, LOW, LOW), 5.0)),
    ]
    assert all((plain - other).abs().max() > 1e-4 for other in others)


def test_a_wide_image_loses_the_padding_below(segmenter: Segmenter) -> None:
    logits = torch.full((1, 1, LOW, LOW), 5.0)  # all of the padding says yes
    logits[..., : LOW // 2, LOW // 2 :] = -5.0  # and of the image its left half
    size = ImageSize(original_hw=(4, 8), resized_hw=(32, 64))
    full = segmenter.upsample(logits, size)
    assert full.shape == (1, 4, 8)
    assert ((full[0] > 0).numpy() == mask("####....", "####....", "####....", "####....")).all()


def test_a_tall_image_loses_the_padding_to_the_right(segmenter: Segmenter) -> None:
    logits = torch.full((1, 1, LOW, LOW), 5.0)
    logits[..., LOW // 2 :, : LOW // 2] = -5.0
    full = segmenter.upsample(logits, ImageSize(original_hw=(8, 4), resized_hw=(64, 32)))
    assert ((full[0] > 0).numpy() == mask(*["####"] * 4, *["...."] * 4)).all()


@pytest.mark.parametrize("resized_hw", [(48, 64), (64, 33), (64, 1), (61, 64), (64, 64)])
@pytest.mark.parametrize("scale", [1, 2, 0.3])
def test_upsampling_leaves_out_nothing_but_the_padding(resized_hw: tuple[int, int], scale: float) -> None:
    """Bit for bit what SAM does: upsample to its input size, cut the padding, resize."""
    logits = _noise(2, 1, 16, 16)
    original_hw = (max(1, round(scale * resized_hw[0])), max(1, round(scale * resized_hw[1])))
    whole = functional.interpolate(logits, (64, 64), mode="bilinear", align_corners=False)
    cut = whole[..., : resized_hw[0], : resized_hw[1]]
    expected = functional.interpolate(cut, original_hw, mode="bilinear", align_corners=False)[:, 0]
    assert torch.equal(upsample_masks(logits, ImageSize(original_hw, resized_hw), square=64), expected)


def test_a_square_image_keeps_every_place(segmenter: Segmenter) -> None:
    logits = torch.linspace(-1, 1, LOW).repeat(1, 1, LOW, 1)  # rises from left to right
    full = segmenter.upsample(logits, ImageSize(original_hw=(64, 64), resized_hw=(64, 64)))[0]
    torch.testing.assert_close(full[0], full[-1])
    assert (full[0].diff() >= 0).all()
    assert full[0, 31] + full[0, 32] == pytest.approx(0.0, abs=1e-6)


def _decode(segmenter: Segmenter, embeddings: Tensor, prompts: Tensor, mask_input: Tensor | None) -> Tensor:
    with torch.no_grad():
        return segmenter.decode((embeddings,), prompts, mask_input)


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_positions_of_another_grid_keep_their_place_in_the_image() -> None:
    config = SamConfig(
        image_size=64, patch_size=8, embed_dim=32, depth=2, num_heads=2, window_size=4, global_attn_indexes=(1,)
    )
    weights = build_sam1(config).state_dict()
    ramp = torch.linspace(-1, 1, 15)[:, None].expand(15, 16)
    weights["image_encoder.blocks.1.attn.rel_pos_h"] = ramp
    resized = resize_positions(weights, grid=12)
    assert resized.keys() == {
        "image_encoder.pos_embed",
        "image_encoder.blocks.1.attn.rel_pos_h",
        "image_encoder.blocks.1.attn.rel_pos_w",
    }
    build_sam1(replace(config, image_size=96)).load_state_dict(weights | resized)
    torch.testing.assert_close(
        resized["image_encoder.blocks.1.attn.rel_pos_h"][:, 0], torch.linspace(-1, 1, 23), atol=1e-6, rtol=0
    )


def test_attention_begins_as_a_look_at_the_neighbours() -> None:
    """Each of four heads of the first block looks at one of the four cells around; the image shows nothing."""
    torch.manual_seed(0)
    config = SamConfig(
        image_size=96, patch_size=8, embed_dim=64, depth=2, num_heads=4, window_size=0, global_attn_indexes=(0, 1)
    )
    attention = build_sam1(config).image_encoder.blocks[0].attn
    queries, keys, _ = attention.qkv(torch.zeros(1, 12 * 12, 64)).view(144, 3, 4, 16).permute(1, 2, 0, 3)
    logits = add_decomposed_rel_pos(
        queries @ keys.mT / 4, queries, attention.rel_pos_h, attention.rel_pos_w, (12, 12), (12, 12)
    )
    middle = 6 * 12 + 6
    seen = {tuple(divmod(int(row.argmax()), 12)) for row in logits[:, middle]}
    assert seen == {(6, 5), (6, 7), (5, 6), (7, 6)}
