"""Answers in words: explained questions, conversations without a mask, and what a model reads of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cores_core.config import LossWeights
from cores_core.data.mixture import Mixture, SampleOptions
from cores_core.data.store import Record, Region, Store, save_store, store_path
from cores_core.masks import encode_rle
from cores_core.model.checkpoint import Checkpoint
from cores_core.model.losses import compute_losses
from cores_core.prompts import END, LOC, SEG, PromptFormat
from cores_core.sample import Query, Turn

WORDS = "A spoon, which lies in the bowl."
DIALOGUE = (Turn("What is it?", "A bowl.", segments=False), Turn("And in it?", f"Soup {SEG}.", segments=False))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An image with an explained question, and one with a conversation."""
    Image.new("RGB", (24, 16), "red").save(tmp_path / "a.png")
    Image.new("RGB", (24, 16), "blue").save(tmp_path / "b.png")
    mask = encode_rle(np.arange(16 * 24).reshape(16, 24) < 100)
    region = Region("", "object", mask, None, (Query("What moves the soup?", answer=WORDS),), "a")
    records = [Record("a.png", (16, 24), (region,)), Record("b.png", (16, 24), (), DIALOGUE)]
    save_store(records, store_path(tmp_path, "mixed", "train"))
    return Store(tmp_path, "mixed", "train")


def test_a_store_gives_back_answers_in_words(store: Store) -> None:
    assert store[0].regions[0].queries[0].answer == WORDS
    assert store[1].dialogue == DIALOGUE
    assert store[0].dialogue == ()


def test_an_explained_question_is_answered_by_words_a_chain_or_both(store: Store) -> None:
    mixture = Mixture([store], PromptFormat(), SampleOptions(queries=1, explanatory=0.3), seed=0)
    turns = [sample.turns[0] for sample in map(mixture.__getitem__, range(400)) if sample.image[0, 0, 0] == 255]
    words = [turn for turn in turns if turn.answer == WORDS]
    both = [turn for turn in turns if turn.answer == f"{PromptFormat().answer} {WORDS}"]
    chain = [turn for turn in turns if turn.answer == PromptFormat().answer]
    assert len(turns) == len(words) + len(both) + len(chain) == 200
    assert 40 <= len(words) <= 80  # 30 %
    assert 45 <= len(both) <= 95  # half of the rest
    assert not any(turn.segments for turn in words)
    assert all(turn.segments for turn in both + chain)
    assert all("expla" in turn.question for turn in both)


def test_words_alone_have_no_mask(store: Store) -> None:
    mixture = Mixture([store], PromptFormat(), SampleOptions(queries=1, explanatory=1.0), seed=0)
    for sample in (mixture[0], mixture[1]):
        assert len(sample.turns) == 1
        assert sample.masks == sample.ignores == sample.categories == ()


def test_a_conversation_is_told_up_to_one_of_its_answers(store: Store) -> None:
    mixture = Mixture([store], PromptFormat(), SampleOptions(queries=1), seed=0)
    turns = [sample.turns[0] for sample in map(mixture.__getitem__, range(40)) if sample.image[0, 0, 2] == 255]
    assert {(turn.question, len(turn.history)) for turn in turns} == {("What is it?", 0), ("And in it?", 1)}
    assert not any(SEG in turn.answer or LOC in turn.answer for turn in turns)  # broken up: nobody asked for a mask


def test_only_the_last_answer_is_learned(store: Store, checkpoint: Checkpoint) -> None:
    processor = checkpoint.processor
    turn = Turn("And in it?", "Soup.", segments=False, history=(Turn("What is it?", "A bowl.", segments=False),))
    sample = replace(Mixture([store], processor.prompt, SampleOptions(queries=1), seed=0)[0], turns=(turn,), masks=())
    batch = processor.collate([sample])
    text, learned = (
        processor.decode([i for i in ids.tolist() if i >= 0]) for ids in (batch.input_ids[0], batch.labels[0])
    )
    assert "What is it? ASSISTANT: A bowl." in text
    assert text.count("USER:") == 3  # of the example, and of two questions
    assert learned.strip() == "Soup."
    assert batch.counts == (0,)


@pytest.mark.parametrize("explanatory", [0.0, 1.0])
def test_a_batch_with_words_alone_trains_every_part(store: Store, checkpoint: Checkpoint, explanatory: float) -> None:
    model, processor = checkpoint.model, checkpoint.processor
    mixture = Mixture([store], processor.prompt, SampleOptions(queries=1, explanatory=explanatory), seed=0)
    batch = processor.collate([mixture[0], mixture[1]])
    assert sum(batch.counts) == (0 if explanatory else 1)
    model.zero_grad(set_to_none=True)
    losses = compute_losses(model(batch), batch, model.segmenter, LossWeights())
    losses.total.backward()
    assert torch.isfinite(losses.total)
    assert (losses.bce > 0) == (not explanatory)
    for name, parameter in model.named_parameters():
        has_influence = not name.endswith("token_to_image.k_proj.bias")  # it adds the same to all scores of a softmax
        if has_influence and ("mask_decoder.transformer" in name or "projection" in name):
            assert parameter.grad is not None, name
    model.zero_grad(set_to_none=True)


def test_a_long_answer_in_words_is_cut_off_and_a_chain_is_not(store: Store, checkpoint: Checkpoint) -> None:
    processor = checkpoint.processor
    sample = Mixture([store], processor.prompt, SampleOptions(queries=1), seed=0)[0]
    long = replace(sample, turns=(Turn("Why?", "because " * 3000, segments=False),), masks=(), ignores=())
    batch = processor.collate([long])
    assert batch.input_ids.shape[1] == processor.mllm.max_tokens
    assert END not in processor.tokenizer.decode(batch.input_ids[0, -5:].tolist(), skip_special_tokens=False)
