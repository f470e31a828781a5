"""The segmenting chain and its losses, on the weights and inputs of the release, give the numbers of the release.

The two projected token states (`fc_sema`, `fc_seg`) come from the golden files; everything after them is ours.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from cores_core.config import LossWeights, SamConfig
from cores_core.masks import binarize
from cores_core.model.cores import CoresModel, TextOutput
from cores_core.model.losses import Counts, compute_losses
from cores_core.model.refiner import TokenRefiner, pool_under_mask
from cores_core.model.sams.sam1 import build_sam1
from cores_core.model.segmenter import Frame, Segmenter
from cores_core.sample import ImageSize

SAM = SamConfig(
    image_size=1024,
    patch_size=16,
    embed_dim=32,
    depth=2,
    num_heads=2,
    window_size=14,
    global_attn_indexes=(1,),
    prompt_embed_dim=256,
)

FRAME = Frame(side=1024, grid=64)


@dataclass(frozen=True)
class Release:
    """The released model from the projected token states on."""

    segmenter: Segmenter
    refiner: TokenRefiner
    projection: nn.Sequential
    embeddings: Tensor
    sizes: tuple[ImageSize, ...]


@dataclass(frozen=True)
class Run:
    """One chain: both steps, and what the refiner made on the way."""

    coarse: Tensor
    refined: Tensor
    pooled: Tensor
    prompt: Tensor


@pytest.fixture(scope="module")
def cases(shared: Path) -> Path:
    return shared / "golden/cores_mask/cases"


@pytest.fixture(scope="module")
def release(shared: Path) -> Release:
    weights = load_file(shared / "golden/cores_mask/model/model.safetensors")
    segmenter, refiner = build_sam1(SAM), TokenRefiner(width=256)
    segmenter.load_state_dict(_under(weights, "model.visual_model."))
    attention = _under(weights, "transformer_cross_attention_layers.")
    refiner.load_state_dict({key.replace("multihead_attn.", "attention."): value for key, value in attention.items()})
    projection = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 256))
    projection.load_state_dict(_under(weights, "model.text_hidden_fcs.0."))
    images = np.load(shared / "golden/data/images_rgb.npz")
    pixels, sizes = zip(*(FRAME.pixels(Image.fromarray(images[name])) for name in ("img0", "img1")), strict=True)
    with torch.no_grad():
        (embeddings,) = segmenter.encode(torch.stack(pixels))
    return Release(segmenter.eval(), refiner.eval(), projection, embeddings, sizes)


def test_the_image_embedding_equals_the_release(release: Release, cases: Path) -> None:
    golden = np.load(cases / "expected_train_t1_reason_refer.npz")
    ours = release.embeddings.double()
    stats = torch.stack([ours.mean((1, 2, 3)), ours.std((1, 2, 3), unbiased=False), ours.abs().sum((1, 2, 3))], dim=1)
    np.testing.assert_allclose(stats.numpy(), golden["image_embed_stats"].reshape(2, 3), rtol=1e-4)


@pytest.mark.parametrize("token", ["seg", "sema"])
def test_the_projection_equals_the_release(release: Release, cases: Path, token: str) -> None:
    golden = np.load(cases / "expected_refer_0.npz")
    with torch.no_grad():
        ours = release.projection(torch.from_numpy(golden[f"hid_{token}"]))
    _assert_close(ours, golden[f"fc_{token}"], tolerance=1e-4)


@pytest.mark.parametrize(("case", "stride"), [("refer_0", 1), ("reason_0", 4)])
def test_both_steps_of_the_chain_equal_the_release(release: Release, cases: Path, case: str, stride: int) -> None:
    golden = np.load(cases / f"expected_{case}.npz")
    run = _run_chain(release, golden, [0] * len(golden["fc_seg"]))
    _assert_close(run.coarse[:, 0, ::stride, ::stride], golden["c1_low"], tolerance=1e-3)
    _assert_close(run.pooled, golden["masked_feat"], tolerance=1e-3)
    _assert_close(run.prompt[:, None], golden["c2_sparse_in"], tolerance=1e-3)
    _assert_close(run.refined[:, 0, ::stride, ::stride], golden["c2_low"], tolerance=5e-3)
    masks = release.segmenter.upsample(run.refined, release.sizes[0])
    _assert_close(masks, golden["pred_masks"], tolerance=5e-3)
    assert (binarize(masks.numpy()) == binarize(golden["pred_masks"])).mean() > 0.999


def test_the_mask_for_pooling_is_resized_as_in_the_release(cases: Path) -> None:
    golden = np.load(cases / "expected_refer_0.npz")
    coarse = torch.from_numpy(golden["c1_low"])[:, None]
    cells = torch.eye(64 * 64).reshape(1, 64 * 64, 64, 64)  # one channel for each cell: pooling gives its weight
    weights = torch.cat([pool_under_mask(cells, one[None]) for one in coarse])
    expected = golden["gap_mask64"].reshape(2, -1)
    _assert_close(weights, expected / (expected.sum(axis=1, keepdims=True) + 0.0005), tolerance=1e-7)


def test_the_refiner_as_released_before_training_does_nothing_but_normalise(release: Release, cases: Path) -> None:
    """Its constant weights give an attention that is the same in all channels, which LayerNorm takes away."""
    golden = np.load(cases / "expected_constinit_refer_0.npz")
    refiner = TokenRefiner(width=256)
    for name, parameter in refiner.named_parameters():
        nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)
    prompts = torch.from_numpy(np.load(cases / "expected_refer_0.npz")["fc_seg"])
    coarse = torch.from_numpy(np.load(cases / "expected_refer_0.npz")["c1_low"])[:, None]
    with torch.no_grad():
        refined = refiner(prompts, release.embeddings[[0, 0]], coarse)
    _assert_close(refined[:, None], golden["c2_sparse_in"], tolerance=1e-3)
    _assert_close(refined, prompts + functional.layer_norm(prompts, (256,)).numpy(), tolerance=1e-3)


def test_mask_losses_equal_the_release(release: Release, cases: Path) -> None:
    golden, inputs = (np.load(cases / f"{kind}_train_t1_reason_refer.npz") for kind in ("expected", "inputs"))
    expected = json.loads((cases / "expected_train.json").read_text())["t1_reason_refer"]["losses"]
    run = _run_chain(release, golden, [0, 0, 0, 1, 1, 1])
    _assert_close(run.refined[:, 0, ::4, ::4], golden["c2_low"], tolerance=5e-3)
    output: Any = SimpleNamespace(refined=run.refined, text=TextOutput((), torch.zeros(1, 2), torch.zeros(1).long()))
    batch: Any = SimpleNamespace(
        masks=[torch.from_numpy(inputs[f"gt_masks_{image}"]) == 1 for image in (0, 1)],
        ignores=[None, None],
        sizes=release.sizes,
        counts=(3, 3),
    )
    weights = LossWeights(bce=2.0, dice=0.5, mask=2.0)
    losses = compute_losses(output, batch, release.segmenter, weights, Counts(tokens=1, masks=6))
    # the release multiplies both mask losses by 2 in this variant, which is our `mask` weight
    assert 2 * 2.0 * losses.bce.item() == pytest.approx(expected["mask_bce_loss"], rel=1e-4)
    assert 2 * 0.5 * losses.dice.item() == pytest.approx(expected["mask_dice_loss"], rel=1e-4)
    assert losses.total.item() - losses.text.item() == pytest.approx(expected["mask_loss"], rel=1e-4)


@torch.no_grad()
def _run_chain(release: Release, golden: Any, image_index: list[int]) -> Run:
    """`CoresModel.segment` without an MLLM, and what the refiner makes on the way."""
    locate, seg = (torch.from_numpy(golden[name]) for name in ("fc_sema", "fc_seg"))
    images = release.embeddings[image_index]
    headless: Any = SimpleNamespace(segmenter=release.segmenter, refiner=release.refiner)
    coarse, refined = CoresModel.segment(headless, (images,), (locate, seg))
    return Run(coarse, refined, pool_under_mask(images, coarse), release.refiner(seg, images, coarse))


def _under(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def _assert_close(ours: Tensor, golden: NDArray[np.float32], tolerance: float) -> None:
    np.testing.assert_allclose(ours.numpy(), golden, atol=tolerance, rtol=0)
