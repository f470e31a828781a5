"""The model that ships with the package: small, loadable, and fluent in its own template."""

import json
from pathlib import Path

import pytest

from cores_core.model.checkpoint import EMBEDDED, find_checkpoint
from cores_core.predict import Predictor
from cores_core.prompts import ANSWERS

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
MOST_BYTES = 25_000_000


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.from_checkpoint(EMBEDDED, device="cpu")


def test_it_is_small_and_has_a_card() -> None:
    folder = find_checkpoint(EMBEDDED)
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= MOST_BYTES
    assert (folder / "MODEL_CARD.md").is_file()


def test_it_holds_nothing_that_only_resuming_needs() -> None:
    assert not (find_checkpoint(EMBEDDED) / "optimizer").exists()


def test_it_writes_the_template_for_every_example(predictor: Predictor) -> None:
    for line in (EXAMPLES / "questions.jsonl").read_text(encoding="utf-8").splitlines():
        example = json.loads(line)
        prediction = predictor.predict(EXAMPLES / example["image"], example["question"])
        assert prediction.answer == ANSWERS[2]
        assert prediction.mask.any()
        assert not prediction.mask.all()


def test_both_protocols_give_the_same_mask_where_the_answers_agree(predictor: Predictor) -> None:
    image, question = EXAMPLES / "images" / "fish.jpg", "Which part steers the fish?"
    given, generated = (predictor.predict(image, question, protocol=name) for name in ("teacher_forced", "generate"))
    assert given.answer == generated.answer
    assert (given.logits == generated.logits).all()


def test_another_question_gives_another_mask(predictor: Predictor) -> None:
    image = EXAMPLES / "images" / "fish.jpg"
    tail, head = predictor.predict_many(image, ["Which part steers the fish?", "With what does the fish see?"])
    overlap = (tail.mask & head.mask).sum() / (tail.mask | head.mask).sum()
    assert overlap < 0.5
