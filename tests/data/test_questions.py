"""The question bank asks about everything, gives nothing away and keeps its splits apart."""

import re
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from cores_core.data.partworld.catalog import PARTS
from cores_core.data.questions.bank import CategoryQuestions, Wordings, load_bank
from cores_core.prompts import SPECIAL_TOKENS

SPLITS = ("train", "val", "test")
THINGS = [(category, "") for category in PARTS] + [(category, part) for category in PARTS for part in PARTS[category]]


def test_there_are_the_eleven_objects_and_forty_parts_of_the_catalog() -> None:
    assert {name: set(entry.parts) for name, entry in load_bank().items()} == {
        name: set(parts) for name, parts in PARTS.items()
    }
    assert len(THINGS) == 11 + 40


@pytest.mark.parametrize(("category", "part"), THINGS)
def test_each_thing_has_many_questions_and_some_phrases_in_every_split(category: str, part: str) -> None:
    wordings = _wordings(category, part)
    assert set(wordings.questions) == set(wordings.phrases) == set(SPLITS)
    assert len(wordings.questions["train"]) >= 20
    for split in SPLITS:
        assert wordings.questions[split]
        assert wordings.phrases[split]


@pytest.mark.parametrize(("category", "part"), THINGS)
def test_no_wording_is_in_two_splits_or_twice_in_one(category: str, part: str) -> None:
    wordings = _wordings(category, part)
    for texts in (wordings.questions, wordings.phrases):
        counts = Counter(_normalise(text) for split in SPLITS for text in texts[split])
        assert [text for text, count in counts.items() if count > 1] == []


def test_no_question_asks_for_two_things() -> None:
    counts = Counter(
        (category, _normalise(text))
        for category, part in THINGS
        for split in SPLITS
        for text in _wordings(category, part).questions[split]
    )
    assert [text for text, count in counts.items() if count > 1] == []


@pytest.mark.parametrize(("category", "part"), [thing for thing in THINGS if thing[1]])
def test_no_question_gives_its_answer_away(category: str, part: str) -> None:
    wordings = _wordings(category, part)
    assert wordings.answer_words
    answer = re.compile(rf"\b(?:{'|'.join(map(_with_plurals, wordings.answer_words))})\b", re.IGNORECASE)
    assert [text for split in SPLITS for text in wordings.questions[split] if answer.search(text)] == []


def test_no_question_about_an_object_names_it() -> None:
    for category, entry in load_bank().items():
        assert not any(re.search(rf"\b{category}s?\b", text, re.I) for text in _all(entry.whole.questions))
        assert not any("{object}" in text for text in _all(entry.whole.questions))


def test_every_question_is_one_clean_line() -> None:
    for category, part in THINGS:
        for text in _all(_wordings(category, part).questions):
            assert text.endswith(("?", ".")), text  # a question, or a request
            assert text == " ".join(text.split()), text
            first = text.lstrip("'\"‘“")
            assert first[0].isupper() or first[0].isdigit() or first.startswith("{object}"), text
            assert not any(token in text for token in SPECIAL_TOKENS), text
            assert re.sub(r"\{object\}", "", text).count("{") == 0, text


def test_every_phrase_is_a_clean_phrase() -> None:
    for category, part in THINGS:
        for text in _all(_wordings(category, part).phrases):
            assert text == " ".join(text.split()), text
            assert not text.endswith((".", "?")), text


def test_objects_have_several_names_the_category_among_them() -> None:
    for category, entry in load_bank().items():
        assert entry.category == category
        assert len(set(entry.names)) == len(entry.names) >= 2


def test_drawing_gives_questions_first_and_never_twice() -> None:
    entry = load_bank()["fish"]
    drawn = entry.draw(entry.parts["tail"], "train", (6, 2), np.random.default_rng(0))
    assert [query.is_sentence for query in drawn] == [True] * 6 + [False] * 2
    assert len(set(drawn)) == 8
    assert not any("{" in query.text for query in drawn)
    assert not any(query.text.startswith("the ") for query in drawn if not query.is_sentence)


def test_drawing_depends_on_the_rng_alone_and_stops_where_there_is_no_more() -> None:
    entry = load_bank()["fish"]
    same = [entry.draw(entry.whole, "val", (99, 99), np.random.default_rng(3)) for _ in range(2)]
    assert same[0] == same[1]
    assert len(same[0]) == len(entry.whole.questions["val"]) + len(entry.whole.phrases["val"])


def _with_plurals(word: str) -> str:
    return f"{word}(?:s|es)?|{word.replace('foot', 'feet')}|{re.sub('y$', 'ies', word)}"


def _wordings(category: str, part: str) -> Wordings:
    entry: CategoryQuestions = load_bank()[category]
    return entry.parts[part] if part else entry.whole


def _all(texts: object) -> Iterator[str]:
    assert hasattr(texts, "values")
    for split in texts.values():
        yield from split


def _normalise(text: str) -> str:
    return re.sub(r"\W+", " ", text.lower()).strip()
