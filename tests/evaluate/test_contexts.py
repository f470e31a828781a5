"""Which in-context example a question is asked with."""

import json
from pathlib import Path

import pytest
from helpers import mask

from cores_core.errors import DataError
from cores_core.evaluate.contexts import load_examples, name_examples
from cores_core.evaluate.targets import Target
from cores_core.masks import encode_rle
from cores_core.prompts import EXAMPLE, SEG

BLANK = encode_rle(mask("."))
TARGETS = [
    Target(f"d/val/{image}.0.{query}", f"{image}.png", "", f"what {image}?", True, BLANK, None)
    for image in range(40)
    for query in (0, 1)
]


def test_fixed_is_the_example_of_training_and_none_is_empty() -> None:
    assert set(name_examples("fixed", TARGETS, seed=0).values()) == {EXAMPLE}
    assert set(name_examples("none", TARGETS, seed=0).values()) == {""}


def test_random_is_one_of_ours_for_each_image_and_only_the_seed_decides() -> None:
    drawn = name_examples("random", TARGETS, seed=0)
    assert len(set(drawn.values())) > 4
    assert all(drawn[f"d/val/{i}.0.0"] == drawn[f"d/val/{i}.0.1"] for i in range(40))
    assert name_examples("random", TARGETS[::-1], seed=0) == drawn
    assert name_examples("random", TARGETS, seed=1) != drawn


def test_a_file_gives_each_question_its_own(tmp_path: Path) -> None:
    example = {"question": f"Where is {SEG}?", "answer": "There."}
    rows = [{"id": "d/val/0.0.0", "example": example}, {"image": "1.png", "question": "what 1?", "example": example}]
    path = tmp_path / "examples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load_examples(path, [TARGETS[0], TARGETS[2]])
    assert set(found) == {"d/val/0.0.0", "d/val/1.0.0"}
    assert SEG not in found["d/val/0.0.0"]  # text is never taken for a token
    assert found["d/val/0.0.0"].startswith("USER: Where is")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no example for 1 questions"),
        ("{", "examples.jsonl:1"),
        ('{"id": "d/val/0.0.0"}', "KeyError"),
        ('{"id": "d/val/0.0.0", "example": 3}', "examples.jsonl:1"),
    ],
)
def test_a_file_that_does_not_do_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "examples.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        load_examples(path, TARGETS[:1])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="relevant"):
        load_examples(tmp_path / "relevant", TARGETS[:1])
