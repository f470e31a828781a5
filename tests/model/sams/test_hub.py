"""SAM 2 and SAM 3 of transformers against their own forward: a point's embedding as prompt gives the point's mask."""

from pathlib import Path

import numpy as np
import pytest
import torch
from families import save_tiny_sam, tiny_sam
from helpers import noise_image
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel, Sam2ImageProcessor, Sam3ImageProcessor

from cores_core.errors import CheckpointError
from cores_core.model.sams.hub import HubSam, read_hub_sam, read_hub_sam_config
from cores_core.model.sams.table import find_sam, read_sam
from cores_core.model.segmenter import Features

KINDS = ("sam2", "sam3")
SIDES = {"sam2": 128, "sam3": 112}
IMAGE_INDEX = [0, 1, 1]


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def stock(kind: str) -> PreTrainedModel:
    model = tiny_sam(kind)
    model.mask_decoder.dynamic_multimask_via_stability = False
    return model


@pytest.fixture(scope="module")
def segmenter(kind: str) -> HubSam:
    return HubSam(tiny_sam(kind)).eval()


@pytest.fixture(scope="module")
def pixels(segmenter: HubSam) -> Tensor:
    """Two images of different shape."""
    images = (noise_image(80, 120, seed=1), noise_image(90, 60, seed=2))
    return torch.stack([segmenter.frame.pixels(Image.fromarray(image))[0] for image in images])


@pytest.fixture(scope="module")
def features(segmenter: HubSam, pixels: Tensor) -> Features:
    with torch.no_grad():
        return segmenter.encode(pixels)


def test_features_are_those_of_the_stock_model(stock: PreTrainedModel, features: Features, pixels: Tensor) -> None:
    with torch.no_grad():
        own = stock.get_image_embeddings(pixels)
    assert len(own) == len(features) == 3
    for ours, theirs in zip(features, own, strict=True):
        torch.testing.assert_close(ours, theirs.reshape(ours.shape), atol=1e-6, rtol=0)


@pytest.mark.parametrize("with_mask_input", [False, True])
def test_a_points_own_embedding_gives_the_points_mask(
    stock: PreTrainedModel, segmenter: HubSam, features: Features, pixels: Tensor, with_mask_input: bool
) -> None:
    """The stock decoder takes two tokens for a point, of which the second is padding; both are given as they are."""
    point, label = torch.tensor([[[[40.0, 30.0]]]]), torch.tensor([[[1]]])
    mask_input = torch.linspace(-4, 4, segmenter.frame.mask_side**2).reshape(1, 1, *[segmenter.frame.mask_side] * 2)
    mask_input = mask_input if with_mask_input else None
    one = tuple(level[:1] for level in features)
    with torch.no_grad():
        own = stock(
            pixel_values=pixels[:1],
            input_points=point,
            input_labels=label,
            input_masks=mask_input,
            multimask_output=False,
        )
        sparse, _ = segmenter.prompt_encoder(point, label, None, None)  # (1, 1, 2, C)
        ours, ious = segmenter.decode_tokens(one, sparse[:, 0], mask_input)
    assert ours.shape == (1, 1, segmenter.frame.mask_side, segmenter.frame.mask_side)
    torch.testing.assert_close(ours, own.pred_masks[:, 0], atol=1e-6, rtol=0)
    torch.testing.assert_close(ious, own.iou_scores[:, 0, 0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("with_mask_input", [False, True])
def test_prompts_of_two_images_together_equal_each_alone(
    segmenter: HubSam, features: Features, with_mask_input: bool
) -> None:
    prompts = torch.randn(3, segmenter.width, generator=torch.Generator().manual_seed(0))
    mask_input = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(1)) if with_mask_input else None
    many = tuple(level[IMAGE_INDEX] for level in features)
    with torch.no_grad():
        together = segmenter.decode(many, prompts, mask_input)
        for n in range(3):
            one = slice(n, n + 1)
            alone = segmenter.decode(
                tuple(f[one] for f in many), prompts[one], None if mask_input is None else mask_input[one]
            )
            torch.testing.assert_close(together[one], alone, atol=1e-6, rtol=0)
    assert together.shape == (3, 1, segmenter.frame.mask_side, segmenter.frame.mask_side)


def test_training_and_evaluation_decode_the_same_mask(kind: str, features: Features) -> None:
    segmenter = HubSam(tiny_sam(kind))
    prompts = torch.randn(2, segmenter.width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        masks = [segmenter.train(mode).decode(tuple(f for f in features), prompts, None) for mode in (True, False)]
    assert torch.equal(*masks)


def test_gradients_reach_prompts_decoder_and_encoder(kind: str, pixels: Tensor) -> None:
    segmenter = HubSam(tiny_sam(kind))
    prompts = torch.randn(2, segmenter.width, generator=torch.Generator().manual_seed(0), requires_grad=True)
    features = segmenter.encode(pixels)
    first = segmenter.decode(features, prompts, None)
    segmenter.decode(features, prompts, first).square().sum().backward()
    assert prompts.grad is not None and bool((prompts.grad.abs().amax(dim=1) > 0).all())
    for part in (segmenter.image_encoder.vision_encoder, segmenter.image_encoder.finest, segmenter.mask_decoder):
        gradients = [parameter.grad for parameter in part.parameters() if parameter.grad is not None]
        assert sum(float(gradient.abs().sum()) for gradient in gradients) > 0


@pytest.mark.parametrize("hw", [(80, 120), (300, 200), (60, 60)])
def test_pixels_are_those_of_the_hubs_processor(kind: str, segmenter: HubSam, hw: tuple[int, int]) -> None:
    side = {"height": SIDES[kind], "width": SIDES[kind]}
    processor = (Sam2ImageProcessor if kind == "sam2" else Sam3ImageProcessor)(size=side)
    image = Image.fromarray(noise_image(*hw))
    theirs = processor(image, return_tensors="pt")["pixel_values"][0]
    ours, size = segmenter.frame.pixels(image)
    assert size.resized_hw == (SIDES[kind], SIDES[kind])
    level = 2.0 / 255 / 0.224  # rounding to 8 bits, in units of the normalised pixel
    assert float((ours - theirs).abs().max()) < level


def test_masks_come_back_in_the_images_own_pixels(segmenter: HubSam) -> None:
    _, size = segmenter.frame.pixels(Image.fromarray(np.zeros((50, 90, 3), dtype=np.uint8)))
    assert segmenter.upsample(torch.zeros(2, 1, 32, 32), size).shape == (2, 50, 90)


def test_a_folder_of_the_hub_is_read_whole(kind: str, segmenter: HubSam, tmp_path: Path) -> None:
    folder = save_tiny_sam(tmp_path / kind, kind)
    config, weights = read_sam(find_sam(str(folder)))
    assert config is not None and config.model_type == segmenter.kind
    expected = {f"segmenter.{name}": tensor for name, tensor in segmenter.state_dict().items()}
    assert set(weights) == set(expected)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    _, shapes = read_hub_sam(folder, shapes_only=True)
    assert {n: t.shape for n, t in shapes.items()} == {n: t.shape for n, t in expected.items()}


def test_a_damaged_folder_is_one_error(kind: str, tmp_path: Path) -> None:
    folder = save_tiny_sam(tmp_path / kind, kind)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot read weights"):
        read_sam(folder)


def test_a_folder_of_another_kind_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "sam"}')
    with pytest.raises(CheckpointError, match="model type `sam`"):
        find_sam(str(tmp_path))


@pytest.mark.parametrize("text", ["{}", '{"model_type": "sam9"}', '{"model_type": 3}', "[]", "{"])
def test_a_config_of_another_kind_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        read_hub_sam_config(tmp_path)
