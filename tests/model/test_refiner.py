"""The refiner tells a prompt what lies under the coarse mask."""

import torch
from helpers import mask
from torch import Tensor

from cores_core.model.refiner import TokenRefiner, pool_under_mask
from cores_core.sample import BoolMask


def test_pooling_averages_what_the_mask_covers() -> None:
    image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    coarse = _logits(mask("####....", "####....", "####....", "####....", *["........"] * 4))  # one cell of 2 x 2
    torch.testing.assert_close(pool_under_mask(image, coarse), torch.tensor([[1 / 1.0005]]))


def test_two_cells_weigh_the_same() -> None:
    image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    coarse = _logits(mask(*["########"] * 4, *["........"] * 4))
    torch.testing.assert_close(pool_under_mask(image, coarse), torch.tensor([[3 / 2.0005]]))


def test_an_empty_mask_pools_the_whole_image() -> None:
    image = torch.arange(2 * 3 * 4 * 4, dtype=torch.float32).reshape(2, 3, 4, 4)
    pooled = pool_under_mask(image, torch.full((2, 1, 16, 16), -1.0))
    torch.testing.assert_close(pooled, image.mean(dim=(2, 3)), rtol=1e-4, atol=0)


def test_empty_and_full_masks_do_not_disturb_each_other() -> None:
    image = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)).expand(3, -1, -1, -1)
    corner = torch.full((1, 1, 16, 16), -1.0)
    corner[..., :4, :4] = 1.0
    coarse = torch.cat([corner, torch.full_like(corner, -1.0), corner])
    pooled = pool_under_mask(image, coarse)
    assert torch.equal(pooled[0], pooled[2])
    assert torch.equal(pooled[1:2], pool_under_mask(image[:1], coarse[1:2]))


def test_only_the_sign_of_the_coarse_logits_counts_and_no_gradient_flows() -> None:
    image, coarse = torch.rand(1, 3, 4, 4), torch.randn(1, 1, 16, 16, requires_grad=True)
    pooled = pool_under_mask(image, coarse)
    assert torch.equal(pooled, pool_under_mask(image, 7 * coarse))
    assert not pooled.requires_grad


def test_the_formula_is_prompt_plus_norm_of_prompt_plus_attention() -> None:
    torch.manual_seed(0)
    refiner = TokenRefiner(width=16)
    prompts, image, coarse = torch.randn(3, 16), torch.randn(3, 16, 4, 4), torch.randn(3, 1, 16, 16)
    pooled = pool_under_mask(image, coarse)
    attention = refiner.attention  # with a single key the attention is 1: its value, projected
    value = pooled @ attention.in_proj_weight[32:].T + attention.in_proj_bias[32:]
    attended = value @ attention.out_proj.weight.T + attention.out_proj.bias
    expected = prompts + refiner.norm(prompts + attended)
    torch.testing.assert_close(refiner(prompts, image, coarse), expected)


def test_each_prompt_is_refined_by_its_own_image() -> None:
    torch.manual_seed(0)
    refiner = TokenRefiner(width=16)
    prompts, image, coarse = torch.randn(2, 16), torch.randn(2, 16, 4, 4), torch.ones(2, 1, 16, 16)
    both = refiner(prompts, image, coarse)
    image[1] = 0
    changed = refiner(prompts, image, coarse)
    torch.testing.assert_close(changed[0], both[0])
    assert not torch.allclose(changed[1], both[1], atol=1e-3)


def _logits(covered: BoolMask) -> Tensor:
    return torch.where(torch.from_numpy(covered), 3.0, -3.0)[None, None]
