"""Where a model goes. Tests have no GPU: what needs one is refused, and the way there is walked on a CPU."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import build_checkpoint
from helpers import noise_image

from cores_core.config import Config, LanguageConfig
from cores_core.errors import ConfigError
from cores_core.model.checkpoint import Checkpoint
from cores_core.model.placement import Placement, check_placement, place_model
from cores_core.predict import Predictor

CPU = torch.device("cpu")
IMAGE = noise_image(40, 60)
QUESTION = "Which part steers the fish?"


@pytest.fixture
def own(checkpoint: Checkpoint) -> Checkpoint:
    """A copy of one's own, to move about."""
    return copy.deepcopy(checkpoint)


@pytest.mark.parametrize("load_in", ["4bit", "8bit"])
def test_quantisation_needs_a_gpu(load_in: str) -> None:
    with pytest.raises(ConfigError, match=load_in) as caught:
        check_placement(Placement(CPU, load_in))
    assert "--load-in" in str(caught.value.hint)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_spreading_needs_a_gpu() -> None:
    with pytest.raises(ConfigError, match="cuda"):
        Predictor.from_checkpoint("tiny", device="spread")


def test_a_plain_cpu_is_always_right() -> None:
    check_placement(Placement(CPU))


def test_spreading_changes_no_answer(checkpoint: Checkpoint, own: Checkpoint) -> None:
    place_model(own.model, Placement(CPU, spread=True))
    masks = [Predictor(c).predict(IMAGE, QUESTION, protocol="teacher_forced").logits for c in (checkpoint, own)]
    assert (masks[0] == masks[1]).all()


@pytest.mark.parametrize(("load_in", "layer"), [("8bit", "Linear8bitLt"), ("4bit", "Linear4bit")])
def test_quantised_layers_are_those_of_the_language_model(tiny_config: Config, load_in: str, layer: str) -> None:
    pytest.importorskip("bitsandbytes")
    wide = LanguageConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128, vocab_size=800
    )  # 4-bit blocks are of 64
    own = build_checkpoint(replace(tiny_config, language=wide))
    place_model(own.model, Placement(CPU, load_in))
    kinds = {name: type(module).__name__ for name, module in own.model.named_modules()}
    quantised = [name for name, kind in kinds.items() if kind == layer]
    assert len(quantised) == 2 * 7  # layers, and the linear layers of each
    assert all("language_model.layers" in name for name in quantised)
    prediction = Predictor(own).predict(IMAGE, QUESTION, protocol="teacher_forced")
    assert prediction.mask.shape == (40, 60)


@pytest.mark.usefixtures("compiler")
def test_a_compiled_encoder_gives_the_same_but_for_rounding(checkpoint: Checkpoint, own: Checkpoint) -> None:
    names = list(own.model.state_dict())
    place_model(own.model, Placement(CPU, compiled=True))
    plain, compiled = (
        Predictor(c).predict(IMAGE, QUESTION, protocol="teacher_forced").logits for c in (checkpoint, own)
    )
    np.testing.assert_allclose(compiled, plain, atol=1e-4)
    assert list(own.model.state_dict()) == names


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="compiler") as caught:
        check_placement(Placement(CPU, compiled=True))
    assert "g++" in str(caught.value.hint)
