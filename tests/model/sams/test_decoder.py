"""The mask decoder's forward against the stock one, in float64: masks, IoUs and gradients."""

from collections.abc import Mapping

import pytest
import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder
from torch import Tensor, nn

from cores_core.config import SamConfig
from cores_core.model.sams import decoder as ours
from cores_core.model.sams import sam1
from cores_core.model.sams.decoder import decode_masks, embed_cells
from cores_core.model.sams.sam1 import Sam1, build_sam1

SIDE, WIDTH, COUNT = 6, 32, 3
UNREAD = ("output_hypernetworks_mlps.1", "output_hypernetworks_mlps.2", "output_hypernetworks_mlps.3", "iou_prediction")
CONFIG = SamConfig(
    image_size=48,
    patch_size=8,
    embed_dim=16,
    depth=1,
    num_heads=2,
    window_size=0,
    global_attn_indexes=(0,),
    prompt_embed_dim=WIDTH,
)


@pytest.fixture
def sam() -> Sam1:
    """A SAM whose parameters are all random, in float64, in which a difference of method is not hidden by rounding."""
    torch.manual_seed(0)
    built = build_sam1(CONFIG)
    for parameter in (*built.mask_decoder.parameters(), *built.prompt_encoder.parameters()):
        nn.init.normal_(parameter, std=0.2)
    built.double().prompt_encoder.pe_layer.float()  # the stock positional encoding makes its grid in float32
    return built


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {"image": (COUNT, WIDTH, SIDE, SIDE), "prompts": (COUNT, WIDTH), "mask": (COUNT, 1, 4 * SIDE, 4 * SIDE)}
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}


@pytest.mark.parametrize("with_mask", [False, True])
def test_it_decodes_the_stock_masks_and_ious(sam: Sam1, inputs: Mapping[str, Tensor], with_mask: bool) -> None:
    mask = inputs["mask"] if with_mask else None
    expected = _stock(sam, inputs["image"], inputs["prompts"], mask)
    found = sam.decode_scored((inputs["image"],), inputs["prompts"], mask)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(sam.decode((inputs["image"],), inputs["prompts"], mask), expected[0], atol=1e-10, rtol=0)


@pytest.mark.parametrize("with_mask", [False, True])
def test_all_queries_in_one_call_equal_each_alone(
    sam: Sam1, inputs: Mapping[str, Tensor], with_mask: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few are decoded at a time on a CPU, all together on a GPU."""
    mask = inputs["mask"] if with_mask else None
    cells = embed_cells(sam.prompt_encoder, inputs["image"].flatten(2).transpose(1, 2), mask)
    positions = sam.prompt_encoder.get_dense_pe()[0].flatten(1).T
    together, ious = decode_masks(sam.mask_decoder, cells, positions, inputs["prompts"], with_iou=True)
    monkeypatch.setattr(sam1, "CPU_VALUES", 1)
    alone = sam.decode_scored((inputs["image"],), inputs["prompts"], mask)
    torch.testing.assert_close((together, ious), alone, atol=1e-10, rtol=0)


@pytest.mark.parametrize("values", [2**20, 700])
@pytest.mark.parametrize("with_mask", [False, True])
def test_its_gradients_are_the_stock_ones(
    sam: Sam1, inputs: Mapping[str, Tensor], with_mask: bool, values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ours, "BLOCK_VALUES", values)

    def decode(image: Tensor, prompts: Tensor, mask: Tensor | None) -> Tensor:
        return sam.decode((image,), prompts, mask)

    found = _gradients(sam, decode, inputs, with_mask)
    expected = _gradients(sam, lambda *call: _stock(sam, *call)[0], inputs, with_mask)
    largest = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in expected.items():
        if name in found:
            torch.testing.assert_close(found[name], gradient, atol=1e-12 * float(largest), rtol=1e-9, msg=name)
        else:
            assert gradient.abs().max() < 1e-12 * largest, name
    unread = {name for name in expected if name not in found}
    assert all(name.startswith(UNREAD) or name.endswith("k_proj.bias") for name in unread)


def test_frozen_inputs_get_no_gradient(sam: Sam1, inputs: Mapping[str, Tensor]) -> None:
    sam.prompt_encoder.requires_grad_(False)
    sam.decode((inputs["image"],), inputs["prompts"], inputs["mask"]).sum().backward()
    assert all(parameter.grad is None for parameter in sam.prompt_encoder.parameters())
    assert sam.mask_decoder.mask_tokens.weight.grad is not None


def test_queries_of_images_in_any_order(sam: Sam1, inputs: Mapping[str, Tensor]) -> None:
    images = torch.tensor([2, 0, 2])
    found = sam.decode((inputs["image"],), inputs["prompts"], None, images)
    torch.testing.assert_close(found, sam.decode((inputs["image"][images],), inputs["prompts"], None))


@pytest.mark.parametrize("with_mask", [False, True])
def test_queries_of_a_single_image(sam: Sam1, inputs: Mapping[str, Tensor], with_mask: bool) -> None:
    """Its cells, which are not copied for each query, get the gradients of all of them."""
    images, one = torch.zeros(COUNT, dtype=torch.long), {**inputs, "image": inputs["image"][:1]}

    def decode_copied(image: Tensor, prompts: Tensor, mask: Tensor | None) -> Tensor:
        return sam.decode((image[images],), prompts, mask)

    found = _gradients(sam, lambda image, *others: sam.decode((image,), *others, images), one, with_mask)
    torch.testing.assert_close(found, _gradients(sam, decode_copied, one, with_mask), atol=1e-10, rtol=0)


def test_positions_follow_weights_that_are_loaded_later(sam: Sam1, inputs: Mapping[str, Tensor]) -> None:
    before = sam.decode((inputs["image"],), inputs["prompts"], None)
    weights = sam.state_dict()
    weights["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"] *= 2
    sam.load_state_dict(weights)
    found = sam.decode((inputs["image"],), inputs["prompts"], None)
    assert not torch.allclose(found, before)
    torch.testing.assert_close(found, _stock(sam, inputs["image"], inputs["prompts"], None)[0], atol=1e-10, rtol=0)


def _stock(sam: Sam1, image: Tensor, prompts: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """segment-anything's own call for each query: masks (N, 1, 4h, 4w) and IoUs (N,)."""
    assert type(sam.mask_decoder) is MaskDecoder
    assert type(sam.prompt_encoder) is PromptEncoder
    masks, ious = [], []
    for query in range(len(prompts)):
        some = slice(query, query + 1)
        _, dense = sam.prompt_encoder(points=None, boxes=None, masks=None if mask is None else mask[some])
        drawn, iou = sam.mask_decoder(
            image_embeddings=image[some],
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=prompts[some, None],
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        masks.append(drawn)
        ious.append(iou[:, 0])
    return torch.cat(masks), torch.cat(ious)


def _gradients(sam: Sam1, decode: object, inputs: Mapping[str, Tensor], with_mask: bool) -> dict[str, Tensor]:
    """Gradients of a loss by the names of inputs and of parameters of both modules; only those that are reached."""
    assert callable(decode)
    sam.zero_grad()
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
    logits = decode(leaves["image"], leaves["prompts"], leaves["mask"] if with_mask else None)
    logits.sin().sum().backward()
    named = {**leaves, **dict(sam.mask_decoder.named_parameters()), **dict(sam.prompt_encoder.named_parameters())}
    return {name: tensor.grad for name, tensor in named.items() if tensor.grad is not None}
