"""Every family of the table against its own forward: one question alone, its own mask, positions and image inputs.

Ours are packed, a batch of two images of different size with three questions each.
"""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from families import tiny_mllm
from helpers import noise_image
from torch import Tensor
from transformers import PreTrainedModel

from cores_core.model.families.chat import ChatPrompts
from cores_core.model.families.table import FAMILIES, Family
from cores_core.model.mllm import Mllm, PrefixCache
from cores_core.model.processor import Batch, Processor
from cores_core.model.segmenter import Frame
from cores_core.prompts import PromptFormat, render_turn
from cores_core.sample import Query, Sample

QUESTIONS = ("Which part steers it?", "What would one hold on to when it moves fast?", "the lid")
PROMPT = PromptFormat(stages=2, context="none", conversation="template")
ATTENTION = ("sdpa", "eager")


@dataclass(frozen=True)
class Tiny:
    """A tiny model of a family, its processor, two images with questions, and the batch of them."""

    name: str
    family: Family
    net: PreTrainedModel
    processor: Processor
    samples: tuple[Sample, ...]

    @property
    def batch(self) -> Batch:
        return self.processor.collate(self.samples)

    @property
    def mllm(self) -> Mllm:
        return Mllm(self.net, self.family)


def build(name: str, **changes: Any) -> Tiny:
    net, hub = tiny_mllm(name)
    hub.tokenizer.add_tokens(list(PROMPT.chain), special_tokens=True)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2)  # so that attention is not almost even, and what it sees matters
    family = replace(FAMILIES[name], **changes)
    processor = Processor(ChatPrompts(hub, family, PROMPT, max_tokens=4096), PROMPT, Frame(64, grid=8))
    turns = tuple(render_turn(Query(text), PROMPT) for text in QUESTIONS)
    images = (noise_image(120, 170, seed=1), noise_image(200, 90, seed=2))
    return Tiny(name, family, net, processor, tuple(Sample(image, turns) for image in images))


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def tiny(request: pytest.FixtureRequest) -> Tiny:
    return build(request.param)


def own_inputs(tiny: Tiny, sample: Sample, question: int) -> dict[str, Any]:
    """What the family's own processor and model make of one question with its answer."""
    prompts = tiny.processor.mllm
    assert isinstance(prompts, ChatPrompts)
    prefix, turn = prompts.prefix(sample), sample.turns[question]
    ids = torch.tensor([[*prefix.ids, *prompts.question(turn), *prompts.answer(turn)]])
    is_image = ids == tiny.net.config.image_token_id
    kind = "mm_token_type_ids" if FAMILIES[tiny.name].mrope else "token_type_ids" if tiny.name == "gemma3" else None
    extra = {} if kind is None else {kind: is_image.int()}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **prefix.vision, **extra}


def own_states(tiny: Tiny, sample: Sample, question: int) -> Tensor:
    """States of the tokens behind the prefix, (T, D)."""
    inputs = own_inputs(tiny, sample, question)
    start = len(tiny.processor.mllm.prefix(sample).ids)
    states: Tensor = tiny.net.model(**inputs, use_cache=False).last_hidden_state[0, start:]
    return states


def our_states(batch: Batch, mllm: Mllm) -> list[Tensor]:
    """The same of every question of a batch, in order."""
    hidden = mllm(batch)
    states = []
    for row, sequence_ids in zip(hidden, batch.sequence_ids, strict=True):
        states += [row[sequence_ids == number] for number in sequence_ids.unique().tolist() if number > 0]
    return states


def difference(tiny: Tiny) -> float:
    with torch.no_grad():
        own = [own_states(tiny, sample, n) for sample in tiny.samples for n in range(len(QUESTIONS))]
        ours = our_states(tiny.batch, tiny.mllm)
    return max(float((a - b).abs().max()) for a, b in zip(own, ours, strict=True))


@pytest.mark.parametrize("attention", ATTENTION)
def test_packed_states_are_those_of_the_model_alone(tiny: Tiny, attention: str) -> None:
    tiny.net.set_attn_implementation(attention)
    assert difference(tiny) < 1e-5


def test_gradients_of_all_weights_are_those_of_the_model_alone(tiny: Tiny) -> None:
    tiny.net.set_attn_implementation("sdpa")
    if not tiny.family.packs:
        tiny.net.double()  # gradients of linear attention's time steps cancel to a hundredth of their terms
    for checkpointing in (False, True):
        if checkpointing:
            tiny.net.activation_checkpointing_enable({"use_reentrant": False})
        tiny.net.train()
        ours = gradients(tiny.net, our_states(tiny.batch, tiny.mllm))
        tiny.net.activation_checkpointing_disable()
        pairs = [own_states(tiny, sample, n) for sample in tiny.samples for n in range(len(QUESTIONS))]
        own = gradients(tiny.net, pairs)
        tiny.net.eval()
        assert set(ours) == set(own)
        for name, gradient in own.items():
            largest = gradient.abs().max().clamp(min=1e-3)
            assert float((gradient - ours[name]).abs().max() / largest) < 1e-4, name
    tiny.net.float()


def gradients(net: PreTrainedModel, states: list[Tensor]) -> dict[str, Tensor]:
    """Of a random projection of states, for all weights but key biases, whose gradient is zero but for rounding."""
    net.zero_grad()
    generator = torch.Generator().manual_seed(0)
    sum((s * torch.randn(s.shape, generator=generator).to(s)).sum() for s in states).backward()
    found = {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}
    return {name: gradient for name, gradient in found.items() if not name.endswith("k_proj.bias")}


def test_written_answers_are_those_of_the_model_alone(tiny: Tiny) -> None:
    sample, prompts = tiny.samples[0], tiny.processor.mllm
    turns = sample.turns if tiny.family.packs else sample.turns[:1]
    batch = tiny.processor.collate([replace(sample, turns=turns)], answers=[[[] for _ in turns]])
    ours = tiny.mllm.generate(batch, prompts.end_id, limit=6)
    for number, answer in enumerate(ours):
        inputs = own_inputs(tiny, sample, number)
        length = len(prompts.answer(sample.turns[number]))
        for name in ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids"):
            if name in inputs:
                inputs[name] = inputs[name][:, :-length]
        own = tiny.net.generate(
            **inputs,
            max_new_tokens=6,
            do_sample=False,
            eos_token_id=prompts.end_id,
            pad_token_id=prompts.end_id,
            suppress_tokens=[tiny.net.config.image_token_id],
        )
        assert answer == own[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("name", sorted(name for name, family in FAMILIES.items() if family.packs))
def test_questions_on_a_kept_prefix_are_those_of_the_model_alone(name: str, attention: str) -> None:
    tiny = build(name)
    tiny.net.set_attn_implementation(attention)
    prefix = PrefixCache()
    seen: list[int] = []
    for number in (0, 1, 0):  # another question, then the first one again
        sample = replace(tiny.samples[0], turns=(tiny.samples[0].turns[number],))
        batch = tiny.processor.collate([sample])
        embeddings = tiny.net.get_input_embeddings()
        with torch.no_grad(), embeddings.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1])):
            hidden = tiny.mllm(batch, prefix=prefix)[0, batch.sequence_ids[0] == 1]
        assert float((hidden - own_states(tiny, sample, 0)).detach().abs().max()) < 1e-5
    length = prefix.length
    assert seen[0] > length > 0
    assert max(seen[1:]) < length  # the image was read once
    opened = tiny.processor.collate([tiny.samples[0]], answers=[[[] for _ in QUESTIONS]])
    end = tiny.processor.mllm.end_id
    assert tiny.mllm.generate(opened, end, 6, prefix) == tiny.mllm.generate(opened, end, 6)
    assert prefix.length == length


CONTROLS = [
    ("qwen2_5_vl", {"mrope": False}),
    ("qwen3_vl", {"mrope": False}),
    ("gemma3", {"sees_images_both_ways": False}),
    ("qwen3_5", {"packs": True}),
]


@pytest.mark.parametrize(("name", "change"), CONTROLS, ids=[name for name, _ in CONTROLS])
def test_a_wrong_entry_is_seen(name: str, change: dict[str, Any]) -> None:
    assert difference(build(name, **change)) > 1e-2


@pytest.mark.parametrize("name", sorted(name for name, family in FAMILIES.items() if family.packs))
def test_branches_that_see_each_other_are_seen(name: str) -> None:
    tiny = build(name)
    batch = tiny.batch
    joined = replace(batch, sequence_ids=batch.sequence_ids.clamp(max=1))
    with torch.no_grad():
        apart, together = tiny.mllm(batch), tiny.mllm(joined)
    late = batch.sequence_ids == len(QUESTIONS)
    assert float((apart - together)[late].abs().max()) > 1e-2


def test_the_window_counts_places_of_the_plain_sequence() -> None:
    tiny = build("gemma3")
    batch = tiny.batch
    columns = torch.arange(batch.position_ids.shape[1]).expand_as(batch.position_ids)
    with torch.no_grad():
        right, wrong = tiny.mllm(batch), tiny.mllm(replace(batch, position_ids=columns))
    late = batch.sequence_ids == len(QUESTIONS)
    assert float((right - wrong)[late].abs().max()) > 1e-2
