"""Asking: one reading of the image for all questions, and no mask without a proper answer."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import noise_image

from cores_core.model.checkpoint import Checkpoint
from cores_core.model.inference import (
    EXTRA_TOKENS,
    NO_MASK,
    QUERIES_AT_ONCE,
    REASON_TOKENS,
    ImageSession,
    Protocol,
    Segmentation,
    segment_image,
)
from cores_core.model.mllm import PrefixCache
from cores_core.model.processor import IGNORED_LABEL, Batch
from cores_core.model.tokenizer import token_id
from cores_core.prompts import LOC, REJECTION, SEG, render_turn
from cores_core.sample import Query, Sample, Turn

IMAGE = noise_image(30, 45)
QUERIES = (Query("Which part steers the fish?"), Query("tail of the fish", is_sentence=False), Query("Where is up?"))


def test_given_answers_are_the_template_and_have_masks_of_the_images_size(checkpoint: Checkpoint) -> None:
    results = _ask(checkpoint, *QUERIES)
    assert [result.answer for result in results] == [checkpoint.processor.prompt.answer] * 3
    for result in results:
        assert result.coarse.shape == result.refined.shape == (30, 45)
        assert result.refined.dtype == np.float32
        assert result.refined.min() > NO_MASK


def test_the_mask_is_the_forwards_own(checkpoint: Checkpoint) -> None:
    batch = checkpoint.processor.collate([_sample(checkpoint)])
    with torch.no_grad():
        expected = checkpoint.model.segmenter.upsample(checkpoint.model(batch).refined, batch.sizes[0]).numpy()
    assert np.array_equal(np.stack([result.refined for result in _ask(checkpoint, *QUERIES)]), expected)


def test_questions_together_equal_each_alone(checkpoint: Checkpoint) -> None:
    for query, together in zip(QUERIES, _ask(checkpoint, *QUERIES), strict=True):
        (alone,) = _ask(checkpoint, query)
        np.testing.assert_allclose(together.refined, alone.refined, atol=1e-5)
        np.testing.assert_allclose(together.coarse, alone.coarse, atol=1e-5)


def test_sams_encoder_reads_an_image_once_however_many_questions_there_are(checkpoint: Checkpoint) -> None:
    queries = [Query(f"Where is number {number}?") for number in range(QUERIES_AT_ONCE + 1)]
    readings: list[object] = []
    with checkpoint.model.segmenter.image_encoder.register_forward_hook(lambda *_: readings.append(1)):
        *_, last = _ask(checkpoint, *queries)
    assert len(readings) == 1
    (alone,) = _ask(checkpoint, queries[-1])
    np.testing.assert_allclose(last.refined, alone.refined, atol=1e-5)


def test_the_vision_tower_reads_an_image_once_even_if_answers_are_written(checkpoint: Checkpoint) -> None:
    seen: list[int] = []
    tower = checkpoint.model.mllm.parts["vision tower"]
    session = ImageSession(checkpoint, IMAGE)
    with tower.register_forward_hook(lambda *_: seen.append(1)):
        session.ask(QUERIES, "generate")  # this model writes something else than the template
        session.ask(QUERIES[:1], "teacher_forced")
    assert len(seen) == 1


@pytest.mark.parametrize("protocol", ["teacher_forced", "generate"])
def test_a_further_question_is_answered_as_the_first_one(checkpoint: Checkpoint, protocol: Protocol) -> None:
    session = ImageSession(checkpoint, IMAGE)
    session.ask(QUERIES, protocol)
    for example in (None, "", None):  # another prefix between them
        (later,) = session.ask(QUERIES[2:], protocol, example)
        (alone,) = ImageSession(checkpoint, IMAGE).ask(QUERIES[2:], protocol, example)
        assert later.answer == alone.answer
        np.testing.assert_allclose(later.refined, alone.refined, atol=1e-5)


def test_a_further_question_costs_its_own_tokens(checkpoint: Checkpoint) -> None:
    session = ImageSession(checkpoint, IMAGE)
    lengths: list[int] = []
    norm = checkpoint.model.mllm.net.model.language_model.norm
    with norm.register_forward_hook(lambda _, __, states: lengths.append(states.shape[1])):
        for _ in range(2):
            session.ask(QUERIES[:1], "teacher_forced")
    row = checkpoint.processor.tokenize(replace(_sample(checkpoint), turns=_sample(checkpoint).turns[:1]))[0]
    assert lengths == [len(row.ids), len(row.ids) - len(row.prefix.ids)]


def test_no_question_is_no_answer(checkpoint: Checkpoint) -> None:
    assert _ask(checkpoint) == []


def test_written_answers_equal_given_ones_when_the_model_writes_the_template(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = checkpoint.processor.answer_ids(render_turn(QUERIES[0], checkpoint.processor.prompt))
    _let_it_write(checkpoint, monkeypatch, template, template, template)
    for given, written in zip(_ask(checkpoint, *QUERIES), _ask(checkpoint, *QUERIES, protocol="generate"), strict=True):
        assert written.answer == given.answer
        assert np.array_equal(written.refined, given.refined)


def test_a_trained_head_predicts_the_iou_of_each_mask(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [answer.predicted_iou for answer in _ask(checkpoint, *QUERIES)] == [None] * 3  # SAM from random weights
    config = replace(checkpoint.config, sam=replace(checkpoint.config.sam, predicts_iou=True))
    trained = replace(checkpoint, config=config)
    found = _ask(trained, *QUERIES)
    batch = checkpoint.processor.collate([_sample(checkpoint)])
    with torch.no_grad():
        model = checkpoint.model
        first, second = model.reason(batch).prompts
        features, images = model.encode(batch), batch.image_index
        coarse = model.segmenter.decode(features, first, None, images)
        assert model.refiner is not None
        refined = model.refiner(second, features[-1], coarse, images)
        _, ious = model.segmenter.decode_scored(features, refined, coarse, images)
    assert [answer.predicted_iou for answer in found] == pytest.approx(ious.clamp(0, 1).tolist(), abs=1e-5)
    bad = [token_id(checkpoint.processor.tokenizer, SEG)]
    _let_it_write(checkpoint, monkeypatch, bad, bad, bad)
    assert [answer.predicted_iou for answer in _ask(trained, *QUERIES, protocol="generate")] == [None] * 3


def test_an_answer_that_is_not_well_formed_has_no_mask_and_spoils_no_other(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = checkpoint.processor
    loc, seg, end = token_id(processor.tokenizer, LOC), token_id(processor.tokenizer, SEG), processor.mllm.end_id
    template = processor.answer_ids(render_turn(QUERIES[0], processor.prompt))
    _let_it_write(checkpoint, monkeypatch, [seg, loc, end], template, [loc, seg, seg, end])
    first, good, last = _ask(checkpoint, *QUERIES, protocol="generate")
    for bad in (first, last):
        assert (bad.refined == NO_MASK).all()
        assert (bad.coarse == NO_MASK).all()
    (alone,) = _ask(checkpoint, QUERIES[1])
    np.testing.assert_allclose(good.refined, alone.refined, atol=1e-5)
    assert first.answer.replace(" ", "") == f"{SEG}{LOC}"


@pytest.fixture(scope="module")
def taught(checkpoint: Checkpoint) -> Checkpoint:
    """A model that writes the template to the first and the last of the questions, and nonsense to the second."""
    taught = copy.deepcopy(checkpoint)
    processor = taught.processor
    template = processor.answer_ids(render_turn(QUERIES[0], processor.prompt))
    answers = [template, [token_id(processor.tokenizer, SEG), *template], template]
    batch = processor.collate([_sample(taught)], answers=[answers])
    optimizer = torch.optim.Adam(taught.model.mllm.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        hidden = taught.model.mllm(batch)[:, :-1][batch.labels[:, 1:] != IGNORED_LABEL]
        labels = batch.labels[:, 1:][batch.labels[:, 1:] != IGNORED_LABEL]
        torch.nn.functional.cross_entropy(taught.model.mllm.logits(hidden), labels).backward()
        optimizer.step()
    return taught


def test_only_what_differs_from_the_template_is_written_token_by_token(taught: Checkpoint) -> None:
    template, nonsense, same = _written_alone(taught)
    assert template == same == taught.processor.prompt.answer
    assert nonsense != template
    readings: list[object] = []
    with taught.model.mllm.net.model.register_forward_hook(lambda *_: readings.append(1)):
        both = _ask(taught, QUERIES[0], QUERIES[2], protocol="generate")
        assert [result.answer for result in both] == [template, template]
        assert len(readings) == 1
        everything = _ask(taught, *QUERIES, protocol="generate")
        assert len(readings) > 3  # to propose, to write, to read what was written
    assert [result.answer for result in everything] == [template, nonsense, template]
    for together, alone in zip((everything[0], everything[2]), both, strict=True):
        np.testing.assert_allclose(together.refined, alone.refined, atol=1e-5)
    assert (everything[1].refined == NO_MASK).all()


@pytest.mark.parametrize("reasons", [False, True])
def test_an_answer_that_reasons_in_words_may_be_longer(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, reasons: bool
) -> None:
    processor = copy.copy(checkpoint.processor)
    processor.prompt = replace(processor.prompt, chain_of_thought=reasons)
    lengths: list[int] = []
    write = checkpoint.model.mllm.generate

    def listen(batch: Batch, end_id: int, limit: int, prefix: PrefixCache | None) -> list[list[int]]:
        answers = write(batch, end_id=-1, limit=limit, prefix=prefix)  # which nothing ends
        lengths.extend(map(len, answers))
        return answers

    monkeypatch.setattr(checkpoint.model.mllm, "generate", listen)
    _ask(replace(checkpoint, processor=processor), QUERIES[0], protocol="generate")
    template = len(processor.answer_ids(render_turn(QUERIES[0], processor.prompt)))
    assert lengths == [template + (REASON_TOKENS if reasons else EXTRA_TOKENS)]


def test_a_rejection_is_an_answer_without_a_mask(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    rejecting = _rejecting(checkpoint, monkeypatch)
    first, rejected, last = _ask(rejecting, *QUERIES, protocol="generate")
    assert (rejected.answer, rejected.rejected, rejected.well_formed) == (REJECTION, True, True)
    assert (rejected.refined == NO_MASK).all()
    assert 0 < rejected.answer_probability < 1
    plain = _ask(checkpoint, QUERIES[0], QUERIES[2])
    for ours, alone in zip((first, last), plain, strict=True):
        assert not ours.rejected
        np.testing.assert_allclose(ours.refined, alone.refined, atol=1e-5)
        assert ours.answer_probability == pytest.approx(alone.answer_probability, rel=1e-4)


def test_a_model_that_was_not_taught_to_reject_does_not(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    _rejecting(checkpoint, monkeypatch)
    _, other, _ = _ask(checkpoint, *QUERIES, protocol="generate")
    assert (other.answer, other.rejected, other.well_formed) == (REJECTION, False, False)


def test_all_questions_may_be_rejected(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    rejecting = _rejecting(checkpoint, monkeypatch)
    ids = checkpoint.processor.answer_ids(Turn("", REJECTION, segments=False))
    _let_it_write(checkpoint, monkeypatch, ids, ids, ids)
    assert all(answer.rejected for answer in _ask(rejecting, *QUERIES, protocol="generate"))


def test_an_untrained_model_may_write_anything(checkpoint: Checkpoint) -> None:
    results = _ask(checkpoint, *QUERIES, protocol="generate")
    assert len(results) == 3
    assert all(result.refined.shape == (30, 45) for result in results)


def _rejecting(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    """A model with rejections that writes the template to the first and the last question, and rejects the second."""
    processor = copy.copy(checkpoint.processor)
    processor.prompt = replace(processor.prompt, rejects=True)
    template = processor.answer_ids(render_turn(QUERIES[0], processor.prompt))
    rejection = processor.answer_ids(Turn("", REJECTION, segments=False))
    _let_it_write(checkpoint, monkeypatch, template, rejection, template)
    return replace(checkpoint, processor=processor)


def _sample(checkpoint: Checkpoint) -> Sample:
    return Sample(image=IMAGE, turns=tuple(render_turn(query, checkpoint.processor.prompt) for query in QUERIES))


def _written_alone(checkpoint: Checkpoint) -> list[str]:
    """What the model writes to each question, token by token."""
    processor = checkpoint.processor
    batch = processor.collate([_sample(checkpoint)], answers=[[[] for _ in QUERIES]])
    return [processor.decode(ids) for ids in checkpoint.model.mllm.generate(batch, processor.mllm.end_id, limit=20)]


def _ask(checkpoint: Checkpoint, *queries: Query, protocol: Protocol = "teacher_forced") -> list[Segmentation]:
    return segment_image(checkpoint, IMAGE, queries, protocol)


def _let_it_write(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, *answers: list[int]) -> None:
    monkeypatch.setattr(checkpoint.model.mllm, "generate", lambda *_, **__: list(answers))


def test_the_probability_of_an_answer_is_that_of_its_tokens(checkpoint: Checkpoint) -> None:
    found = segment_image(checkpoint, IMAGE, QUERIES, "teacher_forced")
    turns = tuple(render_turn(query, checkpoint.processor.prompt) for query in QUERIES)
    for number, (turn, answer) in enumerate(zip(turns, found, strict=True)):
        batch = checkpoint.processor.collate([Sample(IMAGE, (turn,))])
        with torch.no_grad():
            text = checkpoint.model.reason(batch)
        tokens = text.logits.log_softmax(-1)[torch.arange(len(text.labels)), text.labels]
        assert answer.answer_probability == pytest.approx(float(tokens.mean().exp()), rel=1e-4), number
