"""Packed questions are the same training as one sample for each: states, masks, losses and gradients, in fp32.

The plain form is the same model on samples of one question, which repeats the prefix and both encoders.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import build_checkpoint
from helpers import noise_image
from torch import Tensor

from cores_core.config import Config, LoraConfig, VisionConfig
from cores_core.model.checkpoint import Checkpoint
from cores_core.model.cores import ChainOutput
from cores_core.model.lora import add_lora, choose_trainable, is_adapter
from cores_core.model.losses import compute_losses
from cores_core.model.processor import PREFIX, Batch
from cores_core.prompts import render_dialogue, render_turn
from cores_core.sample import Query, Sample, Turn

VALUE_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-4
LORA = LoraConfig(rank=4, alpha=8)
IMAGES = (
    ("Which part steers the fish?", "What would a bird use to fly away from here?", "Where is its end?"),
    ("What holds water?",),
    ("Which of the two is further away from us than the other one?", "Where is up?"),
)
WORDS = render_dialogue([Turn("What is this?", "It is a fish in a bowl on a table.")], 0)


def _tiny(config: Config) -> Checkpoint:
    """Every weight learns."""
    return build_checkpoint(config)


def _llava_336(config: Config) -> Checkpoint:
    """The 576 patches of LLaVA 1.5; adapters learn, and what learns beside them."""
    vision = VisionConfig(
        image_size=336, patch_size=14, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, feature_layer=-2
    )
    checkpoint = build_checkpoint(replace(config, vision=vision))
    add_lora(checkpoint.model, LORA, checkpoint.processor.new_ids)
    choose_trainable(checkpoint.model, LORA)
    for name, parameter in checkpoint.model.named_parameters():
        if is_adapter(name):  # half of them are zero at first, and then the others have no gradient
            torch.nn.init.normal_(parameter, std=0.1)
    return checkpoint


@pytest.fixture(scope="module", params=[_tiny, _llava_336], ids=["tiny", "llava-336"])
def model(request: pytest.FixtureRequest, tiny_config: Config) -> Checkpoint:
    """A seeded model in eval mode, so without dropout."""
    build: Callable[[Config], Checkpoint] = request.param
    checkpoint = build(tiny_config)
    checkpoint.model.eval()
    return checkpoint


def test_hidden_states_are_the_same(model: Checkpoint) -> None:
    packed, plain = _batches(model)
    with torch.no_grad():
        together, alone = model.model.mllm(packed), model.model.mllm(plain)
    rows = [(image, number) for image in range(len(packed.sequence_ids)) for number in _turns(packed, image)]
    assert len(rows) == len(plain.sequence_ids) == 7
    for row, (image, number) in enumerate(rows):
        for theirs, ours in ((PREFIX, PREFIX), (number, 1)):
            expected = alone[row, plain.sequence_ids[row] == ours]
            torch.testing.assert_close(
                together[image, packed.sequence_ids[image] == theirs], expected, atol=VALUE_TOLERANCE, rtol=0
            )


def test_masks_and_words_are_the_same(model: Checkpoint) -> None:
    packed, plain = _batches(model)
    with torch.no_grad():
        together, alone = (model.model(batch) for batch in (packed, plain))
    assert together.refined.shape[0] == 6
    for ours, theirs in zip(_values(together), _values(alone), strict=True):
        torch.testing.assert_close(ours, theirs, atol=VALUE_TOLERANCE, rtol=0)
    assert torch.equal(together.text.labels, alone.text.labels)


def test_the_gradient_of_every_trained_parameter_is_the_same(model: Checkpoint) -> None:
    packed, plain = _batches(model)
    (loss, together), (plain_loss, alone) = _learn(model, packed), _learn(model, plain)
    torch.testing.assert_close(loss, plain_loss, atol=VALUE_TOLERANCE, rtol=0)
    assert together.keys() == alone.keys()
    whole = torch.stack([gradient.norm() for gradient in alone.values()]).norm()
    for name, gradient in alone.items():
        bar = GRADIENT_TOLERANCE * gradient.norm() + 1e-9 * whole  # of biases of keys, all is rounding
        assert (together[name] - gradient).norm() <= bar, name


def test_packing_is_what_makes_the_difference(model: Checkpoint) -> None:
    packed, plain = _batches(model)
    assert (len(packed.vision["pixel_values"]), len(plain.vision["pixel_values"])) == (3, 7)
    assert (packed.sequence_ids >= PREFIX).sum() < 0.6 * (plain.sequence_ids >= PREFIX).sum()


def _batches(model: Checkpoint) -> tuple[Batch, Batch]:
    """The same questions packed, and one in a sample; one of them is about nothing that has a mask."""
    samples = [_sample(model, *questions, seed=seed) for seed, questions in enumerate(IMAGES)]
    samples[1] = replace(samples[1], turns=(*samples[1].turns, WORDS))
    alone = [single for sample in samples for single in _split(sample)]
    return model.processor.collate(samples), model.processor.collate(alone)


def _sample(model: Checkpoint, *questions: str, seed: int) -> Sample:
    generator = np.random.default_rng(seed)
    return Sample(
        image=noise_image(30 + 10 * seed, 40, seed),
        turns=tuple(render_turn(Query(question), model.processor.prompt) for question in questions),
        masks=tuple(generator.random((30 + 10 * seed, 40)) < 0.5 for _ in questions),
        ignores=(None,) * len(questions),
    )


def _split(sample: Sample) -> Iterator[Sample]:
    masks = iter(sample.masks)
    for turn in sample.turns:
        own = (next(masks),) if turn.segments else ()
        yield replace(sample, turns=(turn,), masks=own, ignores=(None,) * len(own))


def _turns(batch: Batch, image: int) -> range:
    return range(1, int(batch.sequence_ids[image].max()) + 1)


def _values(output: ChainOutput) -> tuple[Tensor, ...]:
    return *output.text.prompts, output.text.logits, *output.stages


def _learn(model: Checkpoint, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a training step and its gradients by the names of the parameters."""
    model.model.zero_grad()
    output = model.model(batch)
    losses = compute_losses(output, batch, model.model.segmenter, model.config.loss)
    losses.total.backward()  # type: ignore[no-untyped-call]
    learning = {name: value.grad for name, value in model.model.named_parameters() if value.requires_grad}
    return losses.total.detach(), {name: gradient for name, gradient in learning.items() if gradient is not None}
