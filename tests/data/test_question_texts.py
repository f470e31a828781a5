"""ReasonPart and the wordings for PASCAL-Part and PACO ask about every part, give nothing away and stay apart."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from importlib import resources
from itertools import combinations
from pathlib import Path

import pytest

from cores_core.data.questions.bank import load_bank, load_benchmark, load_part_wordings

PARTIMAGENET = {
    "Quadruped": "Head, Body, Foot, Tail",
    "Biped": "Head, Body, Hand, Foot, Tail",
    "Fish": "Head, Body, Fin, Tail",
    "Bird": "Head, Body, Wing, Foot, Tail",
    "Snake": "Head, Body",
    "Reptile": "Head, Body, Foot, Tail",
    "Car": "Body, Tier, Side Mirror",
    "Bicycle": "Body, Head, Seat, Tier",
    "Boat": "Body, Sail",
    "Aeroplane": "Head, Body, Engine, Wing, Tail",
    "Bottle": "Mouth, Body",
}
PASCAL_PART = {
    "aeroplane": "body, wing, tail, wheel",
    "bicycle": "wheel, handlebar, saddle",
    "bird": "beak, head, eye, leg, foot, wing, neck, tail, torso",
    "bottle": "body, cap",
    "bus": "license plate, headlight, door, mirror, window, wheel",
    "car": "license plate, headlight, door, mirror, window, wheel",
    "cat": "head, leg, ear, eye, paw, neck, nose, tail, torso",
    "cow": "head, leg, ear, eye, neck, horn, muzzle, tail, torso",
    "dog": "head, leg, ear, eye, paw, neck, nose, muzzle, tail, torso",
    "horse": "head, leg, ear, eye, neck, muzzle, tail, torso",
    "motorbike": "wheel, handlebar, headlight, saddle",
    "person": "hair, head, ear, eye, nose, neck, mouth, arm, hand, leg, foot, torso",
    "potted plant": "plant, pot",
    "sheep": "head, leg, ear, eye, neck, horn, muzzle, tail, torso",
}
PARTIMAGENET_PARTS = [(name, part) for name, parts in PARTIMAGENET.items() for part in parts.split(", ")]
PASCAL_PARTS = [(name, part) for name, parts in PASCAL_PART.items() for part in parts.split(", ")]
_PACO_LINES = Path(__file__).with_name("paco_parts.txt").read_text("utf-8").splitlines()
PACO_PARTS = [(name, part) for name, _, part in (line.partition(":") for line in _PACO_LINES)]
PARTS = {"pascal_part": PASCAL_PARTS, "paco_lvis": PACO_PARTS}
AT_LEAST = {"pascal_part": 6, "paco_lvis": 5}
"""Questions to train on for each part."""
HALVES = {"partimagenet": PARTIMAGENET_PARTS, "pascal_part": PASCAL_PARTS}


def test_the_lists_have_as_many_parts_as_the_data_sets() -> None:
    assert [len(set(parts)) for parts in (PARTIMAGENET_PARTS, PASCAL_PARTS, PACO_PARTS)] == [40, 93, 456]


@pytest.mark.parametrize("half", HALVES)
def test_the_benchmark_asks_one_question_about_every_part(half: str) -> None:
    assert list(load_benchmark().questions[half]) == [f"{name} {part}" for name, part in HALVES[half]]


def test_the_benchmark_has_two_halves_and_a_version() -> None:
    assert set(load_benchmark().questions) == set(HALVES)
    assert load_benchmark().version >= 1


@pytest.mark.parametrize("name", PARTS)
def test_the_bank_asks_about_every_part_often_enough(name: str) -> None:
    wordings = load_part_wordings(name)
    assert set(wordings) == set(PARTS[name])
    assert {key: len(texts) for key, texts in _trained(name) if len(texts) < AT_LEAST[name]} == {}


@pytest.mark.parametrize("name", PARTS)
def test_no_part_is_written_twice(name: str) -> None:
    folder = resources.files("cores_core.data.questions") / "bank" / name.removesuffix("_lvis")
    written = sum(entry.read_text("utf-8").count("\n    questions:\n") for entry in folder.iterdir())
    assert written == len(PARTS[name])


@pytest.mark.parametrize("name", PARTS)
def test_the_name_of_a_part_is_among_its_answer_words(name: str) -> None:
    wordings = load_part_wordings(name)
    assert [key for key in wordings if _plain(key[1]) not in wordings[key].answer_words] == []


@pytest.mark.parametrize("name", PARTS)
def test_no_question_to_train_on_gives_its_answer_away(name: str) -> None:
    words = {key: wordings.answer_words for key, wordings in load_part_wordings(name).items()}
    assert [(key, text) for key, texts in _trained(name) for text in texts if _names(words[key], text)] == []


def test_no_question_of_the_benchmark_gives_its_answer_away() -> None:
    questions = load_benchmark().questions
    pascal = load_part_wordings("pascal_part")
    asked = [(pascal[key].answer_words, questions["pascal_part"][" ".join(key)]) for key in PASCAL_PARTS]
    for name, part in PARTIMAGENET_PARTS:
        wordings = load_bank()[name.lower()].parts[part.lower()]
        asked.append((wordings.answer_words, questions["partimagenet"][f"{name} {part}"]))
    assert [text for words, text in asked if _names(words, text)] == []


@pytest.mark.parametrize("half", HALVES)
def test_no_question_of_the_benchmark_names_the_object(half: str) -> None:
    questions = load_benchmark().questions[half]
    assert [key for key in HALVES[half] if _names((key[0],), questions[" ".join(key)])] == []


def test_every_question_is_one_clean_line_of_ascii() -> None:
    texts = [text for _, text in _benchmark()] + [text for name in PARTS for _, of in _trained(name) for text in of]
    clean = re.compile(r"[A-Z][ -~]+[^\s?]\?")
    assert [
        text for text in texts if not clean.fullmatch(text) or "  " in text or re.search(r"[{}\[\]<>_]", text)
    ] == []


@pytest.mark.parametrize("half", HALVES)
def test_no_question_of_the_benchmark_asks_for_two_parts(half: str) -> None:
    assert _repeated(load_benchmark().questions[half].values()) == []


@pytest.mark.parametrize("name", PARTS)
def test_no_question_to_train_on_is_asked_twice(name: str) -> None:
    assert _repeated(text for _, texts in _trained(name) for text in texts) == []


def test_no_question_of_the_benchmark_is_ever_trained_on() -> None:
    trained = {_normalise(text) for name in PARTS for _, texts in _trained(name) for text in texts}
    for entry in load_bank().values():
        for wordings in (entry.whole, *entry.parts.values()):
            for text in (text for texts in wordings.questions.values() for text in texts):
                trained.update(_normalise(text.replace("{object}", name)) for name in entry.names)
    assert [text for _, text in _benchmark() if _normalise(text) in trained] == []


def test_the_questions_about_a_part_of_pascal_part_differ_clearly() -> None:
    benchmark = load_benchmark().questions["pascal_part"]
    pairs = [
        pair for key, texts in _trained("pascal_part") for pair in combinations((*texts, benchmark[" ".join(key)]), 2)
    ]
    assert [pair for pair in pairs if _likeness(*pair) > 0.75] == []


def _trained(name: str) -> Iterator[tuple[tuple[str, str], tuple[str, ...]]]:
    return ((key, wordings.questions["train"]) for key, wordings in load_part_wordings(name).items())


def _benchmark() -> list[tuple[str, str]]:
    return [pair for half in load_benchmark().questions.values() for pair in half.items()]


def _names(words: tuple[str, ...], text: str) -> bool:
    return re.search(rf"\b(?:{'|'.join(map(_with_plurals, words))})\b", text, re.IGNORECASE) is not None


def _with_plurals(word: str) -> str:
    irregular = (("foot$", "feet"), ("tooth$", "teeth"), ("y$", "ies"), ("fe?$", "ves"))
    return "|".join([f"{word}(?:s|es)?", *(re.sub(end, ends, word) for end, ends in irregular)])


def _likeness(one: str, other: str) -> float:
    return SequenceMatcher(None, _normalise(one), _normalise(other)).ratio()


def _repeated(texts: Iterable[str]) -> list[str]:
    return [text for text, count in Counter(map(_normalise, texts)).items() if count > 1]


def _plain(part: str) -> str:
    return part.replace("_", " ").replace("colied", "coiled")  # as one would spell what PACO does not


def _normalise(text: str) -> str:
    return re.sub(r"\W+", " ", text.lower()).strip()
