"""The full-size models, without their weights: every tensor of a 7B release has its place, and the sizes add up.

The list of tensors follows from that of the tiny golden model, layer by layer, with the dimensions of LLaMA-7B,
CLIP ViT-L/14 and SAM ViT-H.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cores_core.config import ChainConfig, Config, LanguageConfig, SamConfig, VisionConfig
from cores_core.model.cores import CoresModel
from cores_core.model.families.llava import build_llava
from cores_core.model.sams.sam1 import build_sam1
from cores_core.model.weights.names import FIRST_LAYER, SECOND_LAYER, is_derived, our_name

VOCABULARY = 32004
SEVEN_B = Config(
    language=LanguageConfig(
        hidden_size=4096,
        num_hidden_layers=32,
        num_attention_heads=32,
        intermediate_size=11008,
        vocab_size=VOCABULARY + 1,
    ),
    vision=VisionConfig(
        image_size=224,
        patch_size=14,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        feature_layer=-2,
        projector_layers=1,
    ),
    sam=SamConfig(
        image_size=1024,
        patch_size=16,
        embed_dim=1280,
        depth=32,
        num_heads=16,
        window_size=14,
        global_attn_indexes=(7, 15, 23, 31),
        prompt_embed_dim=256,
    ),
    chain=ChainConfig(stages=2, refiner=True),
)
DIMENSIONS = {
    r"^model\.(layers|norm|embed_tokens)|^lm_head": {64: 4096, 128: 11008, 1004: VOCABULARY, 8: 64},
    r"^model\.vision_tower": {32: 1024, 64: 4096},
    r"^model\.mm_projector": {64: 4096, 32: 1024},
    r"^model\.visual_model\.image_encoder\.neck": {32: 1280},
    r"^model\.visual_model\.image_encoder": {32: 1280, 96: 3840, 128: 5120, 16: 80},
    r"^model\.text_hidden_fcs": {64: 4096},
    r"": {},
}
"""For the first pattern that fits a name: from the dimensions of the golden model to those of the 7B release."""
DEPTHS = {
    r"^model\.layers\.": 32,
    r"^model\.vision_tower\.vision_tower\.vision_model\.encoder\.layers\.": 24,
    r"^model\.visual_model\.image_encoder\.blocks\.": 32,
}


@pytest.fixture(scope="module")
def model() -> CoresModel:
    with torch.device("meta"):
        mllm = build_llava(SEVEN_B.language, SEVEN_B.vision, image_token_id=VOCABULARY)
        return CoresModel(mllm, build_sam1(SEVEN_B.sam), chain_ids=(32001, 32002), refiner=True)


def test_every_tensor_of_a_7b_release_has_its_place(shared: Path, model: CoresModel) -> None:
    golden = json.loads((shared / "golden/cores_mask/shapes.json").read_text())
    released = dict(_grow(golden))
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    mapped = {our_name(name): shape for name, shape in released.items() if not is_derived(name)}
    for name in ("mllm.net.model.language_model.embed_tokens.weight", "mllm.net.lm_head.weight"):
        mapped[name] = (mapped[name][0] + 1, *mapped[name][1:])  # the image token's row
    for ending in ("weight", "bias"):  # a second layer that does nothing
        mapped[f"{SECOND_LAYER}{ending}"] = (4096,) * (2 if ending == "weight" else 1)
    assert mapped == expected
    assert mapped[f"{FIRST_LAYER}weight"] == (4096, 1024)


def test_the_parts_have_the_sizes_that_the_paper_builds_on(model: CoresModel) -> None:
    def millions(module: torch.nn.Module) -> float:
        return sum(parameter.numel() for parameter in module.parameters()) / 1e6

    assert millions(model.mllm.net.model.language_model) == pytest.approx(6607, abs=1)
    assert millions(model.mllm.net.lm_head) == pytest.approx(131, abs=1)
    assert millions(model.mllm.net.model.vision_tower) == pytest.approx(303, abs=1)
    assert millions(model.segmenter) == pytest.approx(641, abs=1)
    assert millions(model.projection) == pytest.approx(17.8, abs=0.1)


def _grow(golden: dict[str, list[object]]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor of the large model; global attention in every eighth block of SAM."""
    for name, (shape, _) in golden.items():
        dimensions = next(sizes for pattern, sizes in DIMENSIONS.items() if re.search(pattern, name))
        grown = _grown_shape(name, shape, dimensions)
        repeated = next((pattern for pattern in DEPTHS if re.search(rf"{pattern}[01]\.", name)), None)
        if repeated is None:
            yield name, grown
            continue
        number = int(re.search(rf"{repeated}(\d)", name)[1])
        for layer in range(DEPTHS[repeated]):
            is_global = "image_encoder" in name and layer % 8 == 7
            if number == int(is_global):  # the golden SAM has one block with windows and one without
                yield re.sub(rf"({repeated})\d", rf"\g<1>{layer}", name), grown


def _grown_shape(name: str, shape: object, dimensions: dict[int, int]) -> tuple[int, ...]:
    assert isinstance(shape, list)
    if "patch_embed" in name:  # only the width grows, not the 3 colours and the pixels of a patch
        return dimensions.get(shape[0], shape[0]), *shape[1:]
    if name.endswith("pos_embed"):
        return *shape[:3], dimensions.get(shape[3], shape[3])
    return tuple(dimensions.get(size, size) for size in shape)
