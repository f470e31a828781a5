"""Which in-context example a question is asked with."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from helpers import mask

from cores_core.errors import DataError
from cores_core.evaluate.contexts import load_examples, name_examples, write_examples
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


class _Scripted:
    """A writer that says what it is told to, in turn."""

    model = "scripted"

    def __init__(self, *replies: str) -> None:
        self.replies = list(replies)
        self.asked: list[str] = []

    def write(self, messages: Sequence[Mapping[str, str]], count: int, seed: int) -> str:
        self.asked.append(messages[-1]["content"])
        return self.replies.pop(0)


GOOD = 'Sure: {"question": "What cuts bread?", "answer": "It is usually in a kitchen. It is long and sharp."}'


def test_a_language_model_writes_an_example_for_each_question_once(tmp_path: Path) -> None:
    path, targets = tmp_path / "written/examples.jsonl", TARGETS[:4:2]
    write_examples(path, targets[:1], _Scripted("no idea", '{"question": 3}', GOOD), lambda _: None)
    with path.open("a") as file:
        file.write('{"id": "d/val/1.0.0", "exa')  # cut off
    writer, done = _Scripted(GOOD), []
    write_examples(path, targets, writer, done.append)
    assert writer.asked == ["what 1?"]
    assert done == [1, 1]
    examples = load_examples(path, targets)
    assert set(examples.values()) == {
        "USER: What cuts bread? Please output segmentation mask. ASSISTANT: "
        "It is usually in a kitchen. It is long and sharp. "
    }


def test_a_language_model_that_cannot_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no valid example by scripted for: what 0\?"):
        write_examples(tmp_path / "examples.jsonl", TARGETS[:1], _Scripted(*["no"] * 5), lambda _: None)
