"""Asking: one reading of the image for all questions, and no mask without a proper answer."""

import numpy as np
import pytest
import torch
from helpers import noise_image

from cores_core.model.checkpoint import Checkpoint
from cores_core.model.inference import NO_MASK, QUERIES_AT_ONCE, Protocol, Segmentation, segment_image
from cores_core.prompts import LOC, SEG, render_turn
from cores_core.sample import Query, Sample

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
    turns = tuple(render_turn(query, checkpoint.processor.prompt) for query in QUERIES)
    batch = checkpoint.processor.collate([Sample(image=IMAGE, turns=turns)])
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
    assert np.array_equal(last.refined, alone.refined)


def test_no_question_is_no_answer(checkpoint: Checkpoint) -> None:
    assert _ask(checkpoint) == []


def test_written_answers_equal_given_ones_when_the_model_writes_the_template(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = checkpoint.processor.answer_ids(render_turn(QUERIES[0], checkpoint.processor.prompt))
    _let_it_write(checkpoint, monkeypatch, template, template, template)
    for given, written in zip(
        _ask(checkpoint, *QUERIES), _ask(checkpoint, *QUERIES, protocol="generated"), strict=True
    ):
        assert written.answer == given.answer
        assert np.array_equal(written.refined, given.refined)


def test_an_answer_that_is_not_well_formed_has_no_mask_and_spoils_no_other(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = checkpoint.processor
    loc, seg, end = processor.token_id(LOC), processor.token_id(SEG), processor.end_id
    template = processor.answer_ids(render_turn(QUERIES[0], processor.prompt))
    _let_it_write(checkpoint, monkeypatch, [seg, loc, end], template, [loc, seg, seg, end])
    first, good, last = _ask(checkpoint, *QUERIES, protocol="generated")
    for bad in (first, last):
        assert (bad.refined == NO_MASK).all()
        assert (bad.coarse == NO_MASK).all()
    (alone,) = _ask(checkpoint, QUERIES[1])
    np.testing.assert_allclose(good.refined, alone.refined, atol=1e-5)
    assert first.answer.replace(" ", "") == f"{SEG}{LOC}"


def test_an_untrained_model_may_write_anything(checkpoint: Checkpoint) -> None:
    results = _ask(checkpoint, *QUERIES, protocol="generated")
    assert len(results) == 3
    assert all(result.refined.shape == (30, 45) for result in results)


def _ask(checkpoint: Checkpoint, *queries: Query, protocol: Protocol = "given") -> list[Segmentation]:
    return segment_image(checkpoint, IMAGE, queries, protocol)


def _let_it_write(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, *answers: list[int]) -> None:
    monkeypatch.setattr(checkpoint.model.mllm, "generate", lambda *_, **__: list(answers))
