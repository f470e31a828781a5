"""Packed questions are read, and answered, as if each were alone."""

import pytest
import torch
from helpers import noise_image
from torch import Tensor

from cores_core.model.checkpoint import Checkpoint
from cores_core.model.processor import PREFIX, Batch
from cores_core.prompts import render_turn
from cores_core.sample import Query, Sample

QUESTIONS = ("Which part steers the fish?", "What would a bird use to fly away from here?", "Where is its end?")
NOTHING_ENDS = -1


def test_packed_states_equal_those_of_each_question_alone(checkpoint: Checkpoint) -> None:
    packed = _collate(checkpoint, *QUESTIONS)
    hidden = _read(checkpoint, packed)
    for number, question in enumerate(QUESTIONS, start=1):
        seen = (packed.sequence_ids[0] == PREFIX) | (packed.sequence_ids[0] == number)
        torch.testing.assert_close(hidden[0, seen], _read_plainly(checkpoint, question)[0], atol=1e-5, rtol=0)


def test_a_branch_does_not_see_another(checkpoint: Checkpoint) -> None:
    packed, changed = (_collate(checkpoint, QUESTIONS[0], second, QUESTIONS[2]) for second in QUESTIONS[1:])
    hidden, other = _read(checkpoint, packed), _read(checkpoint, changed)
    for number in (PREFIX, 1, 3):
        unchanged = hidden[packed.sequence_ids == number], other[changed.sequence_ids == number]
        torch.testing.assert_close(*unchanged, atol=1e-5, rtol=0)
    assert not torch.equal(packed.input_ids[packed.sequence_ids == 2], changed.input_ids[changed.sequence_ids == 2])


def test_a_token_sees_nothing_later(checkpoint: Checkpoint) -> None:
    packed = _collate(checkpoint, *QUESTIONS)
    before = _read(checkpoint, packed)
    last = torch.nonzero(packed.sequence_ids[0] == 2).max()
    packed.input_ids[0, last] = 300
    after = _read(checkpoint, packed)
    moved = (before - after).abs().amax(dim=-1)[0] > 1e-6
    assert torch.nonzero(moved).flatten().tolist() == [last]


def test_padding_changes_no_real_token(checkpoint: Checkpoint) -> None:
    short, long = _sample(checkpoint, QUESTIONS[0]), _sample(checkpoint, *QUESTIONS)
    both = checkpoint.processor.collate([short, long])
    alone = checkpoint.processor.collate([short])
    length = alone.input_ids.shape[1]
    hidden = _read(checkpoint, both)
    torch.testing.assert_close(hidden[:1, :length], _read(checkpoint, alone), atol=1e-5, rtol=0)
    assert hidden.isfinite().all()


def test_the_image_is_seen(checkpoint: Checkpoint) -> None:
    packed, other = (_collate(checkpoint, QUESTIONS[0], seed=seed) for seed in (0, 1))
    assert torch.equal(packed.input_ids, other.input_ids)
    assert not torch.allclose(_read(checkpoint, packed)[0, -1], _read(checkpoint, other)[0, -1], atol=1e-4)


@pytest.mark.parametrize("questions", [QUESTIONS[:1], QUESTIONS])
def test_writing_equals_a_plain_loop_without_a_cache(checkpoint: Checkpoint, questions: tuple[str, ...]) -> None:
    processor = checkpoint.processor
    batch = processor.collate([_sample(checkpoint, *questions)], answers=[[[] for _ in questions]])
    written = checkpoint.model.mllm.generate(batch, end_id=NOTHING_ENDS, limit=6)
    assert written == [_write_plainly(checkpoint, question, limit=6) for question in questions]


def test_an_answer_ends_with_its_end_while_others_go_on(checkpoint: Checkpoint) -> None:
    processor = checkpoint.processor
    batch = processor.collate([_sample(checkpoint, *QUESTIONS)], answers=[[[], [], []]])
    free = checkpoint.model.mllm.generate(batch, end_id=NOTHING_ENDS, limit=6)
    end = free[0][2]
    expected = [answer[: answer.index(end) + 1] if end in answer else answer for answer in free]
    assert checkpoint.model.mllm.generate(batch, end_id=end, limit=6) == expected


def test_no_answer_is_longer_than_the_limit(checkpoint: Checkpoint) -> None:
    batch = checkpoint.processor.collate([_sample(checkpoint, *QUESTIONS)], answers=[[[], [], []]])
    assert [len(ids) for ids in checkpoint.model.mllm.generate(batch, end_id=NOTHING_ENDS, limit=2)] == [2, 2, 2]


def _sample(checkpoint: Checkpoint, *questions: str, seed: int = 0) -> Sample:
    turns = tuple(render_turn(Query(question), checkpoint.processor.prompt) for question in questions)
    return Sample(image=noise_image(30, 40, seed), turns=turns)


def _collate(checkpoint: Checkpoint, *questions: str, seed: int = 0) -> Batch:
    return checkpoint.processor.collate([_sample(checkpoint, *questions, seed=seed)])


@torch.no_grad()
def _read(checkpoint: Checkpoint, batch: Batch) -> Tensor:
    hidden: Tensor = checkpoint.model.mllm(batch)
    return hidden


@torch.no_grad()
def _read_plainly(checkpoint: Checkpoint, question: str, answer: list[int] | None = None) -> Tensor:
    """Last-layer states of one question as the stock model reads it: its own mask, its own positions."""
    sample = _sample(checkpoint, question)
    batch = checkpoint.processor.collate([sample], answers=None if answer is None else [[answer]])
    output = checkpoint.model.mllm.net.model(
        input_ids=batch.input_ids,
        **batch.vision,
        attention_mask=torch.ones_like(batch.input_ids),
        use_cache=False,
    )
    hidden: Tensor = output.last_hidden_state
    return hidden


def _write_plainly(checkpoint: Checkpoint, question: str, limit: int) -> list[int]:
    answer: list[int] = []
    for _ in range(limit):
        hidden = _read_plainly(checkpoint, question, answer)
        answer.append(int(checkpoint.model.mllm.logits(hidden[:, -1]).argmax()))
    return answer
