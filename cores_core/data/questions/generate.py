"""Have a language model write ReasonPart questions: ask, check, ask again, and keep what is done.

One row of JSON a topic: `{"topic", "questions", "refused": {reason: count}, "model"}`, appended as soon as the topic is
done, so that a call that was cut off goes on where it was. Of two rows for one topic the later counts.

Source: CoReS (arXiv:2404.05673), appendix C: in-context learning with ChatGPT to generate questions about categories.
Deviation: its prompt was never published, this one is ours, for any model; what names its answer is refused.
"""

import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cores_core.data.questions.writers import Message, Writer
from cores_core.errors import ConfigError, DataError
from cores_core.files import save_text, writing_hint

ROUNDS = 8
"""How often a topic is asked for before it is left short."""
FEWEST_ASKED = 5
"""A model that is asked for a single question gives the same one each time."""
MOST_WORDS = 40

Progress = Callable[[str, int], None]
"""Called with the key of a topic and how many questions more it has, those of earlier calls included."""

_Row = dict[str, Any]
_MARKUP = re.compile(r"[<>\[\]{}|\\*`_#]")
_FENCED = re.compile(r"```\w*\n(.*?)```", re.DOTALL)
_NUMBERING = re.compile(r"(?:(?:[-*•–+]+|[(\[]?\d+[.):\]](?!\d)|(?:q|question)\s*\d*[.:])\s*)*", re.IGNORECASE)
_WRAPPING = " ,*_\"'“”‘’«»`"
_ODD_PLURALS = {"foot": "feet", "tooth": "teeth"}


@dataclass(frozen=True)
class Topic:
    """What questions are to ask for.

    Attributes:
        key: its name in the file, such as "partimagenet: Fish Tail".
        thing, whole: the answer and what it is a part of ("tail", "fish"); for a whole object the second is empty.
        words: with `thing`, the words that give the answer away; in the singular.
    """

    key: str
    thing: str
    whole: str
    words: tuple[str, ...]

    def __post_init__(self) -> None:
        if not all(text.strip() for text in (self.key, self.thing, *self.words)):
            raise DataError(f"a topic with an empty name or word: {self}")


@dataclass(frozen=True)
class Assignment:
    """How many questions each topic gets, after which examples.

    Attributes:
        per_topic: questions to be accepted. examples: good questions for other topics. seed: of all luck.
    """

    per_topic: int
    examples: Mapping[Topic, Sequence[str]]
    seed: int = 0

    def __post_init__(self) -> None:
        if self.per_topic < 1:
            raise ConfigError(f"a topic needs at least one question: {self.per_topic}")


@dataclass(frozen=True)
class GenerationReport:
    """What the file holds for the topics that were asked for.

    Attributes:
        accepted: questions. refused: texts, for each reason. short: keys of topics with too few questions.
    """

    accepted: int
    refused: Mapping[str, int]
    short: tuple[str, ...]


def build_messages(topic: Topic, examples: Mapping[Topic, Sequence[str]], count: int) -> list[Message]:
    """Render the chat that asks for `count` questions: system text, an answered request for each example, the request.

    Examples for the very same part of the same whole are left out.
    """
    system = (
        "You write questions that test whether somebody can find things in a picture by reasoning. A question tells of "
        "the function of a thing, its use, its appearance or the place where it is found, so that only who knows about "
        "the world can tell what is meant. It never names the thing itself. You answer with the questions only."
    )
    messages = [{"role": "system", "content": system}]
    for other, questions in examples.items():
        if _answer(other).lower() != _answer(topic).lower() and questions:
            messages.append({"role": "user", "content": _request(other, len(questions))})
            messages.append({"role": "assistant", "content": "\n".join(questions)})
    return [*messages, {"role": "user", "content": _request(topic, count)}]


def parse_questions(text: str) -> list[str]:
    """Find the questions in an answer: JSON, or one a line; without thoughts, numbers, bullets and quotes.

    Lines that are no questions are given as well, for `check_question` to refuse.
    """
    text = text.rpartition("</think>")[2].partition("<think>")[0]
    fenced = _FENCED.search(text)
    body = (fenced[1] if fenced else text).strip()
    lines = body.splitlines()
    if body.startswith(("[", "{")):
        with suppress(ValueError, RecursionError):  # cut off, or no JSON after all: its lines may still be questions
            lines = list(_strings(json.loads(body)))
    bare = (_NUMBERING.sub("", " ".join(line.split()).strip(_WRAPPING), count=1) for line in lines)
    return [line.strip(_WRAPPING) for line in bare if any(character.isalnum() for character in line)]


def check_question(text: str, topic: Topic, known: Collection[str]) -> str | None:
    """Tell why a question is refused, in words that repeat, or None.

    Args:
        known: questions that are there already, which it must not repeat, whatever its case and punctuation.
    """
    wording = _wording(text)
    reasons = {
        "empty": not wording,
        "unprintable characters": not text.isprintable(),
        "markup": _MARKUP.search(text) is not None,
        "not a question": not text.endswith("?"),
        f"longer than {MOST_WORDS} words": len(text.split()) > MOST_WORDS,
        "names its answer": _answer_pattern(topic).search(text) is not None,
        "asked already": any(_wording(other) == wording for other in known),
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def generate_questions(
    topics: Sequence[Topic], writer: Writer, path: Path, assignment: Assignment, progress: Progress
) -> GenerationReport:
    """Ask for questions until each topic has enough or `ROUNDS` are used up.

    Topics that `path` has enough for are not asked for again; those that came short are, with other luck. No question
    serves two topics, nor is an example taken for one.

    Raises:
        DataError: the writer fails, or the file is damaged or cannot be written. What it holds stays.
    """
    rows = _recover(path)
    known = {text for row in rows.values() for text in row["questions"]}
    known.update(text for questions in assignment.examples.values() for text in questions)
    for topic in topics:
        row = rows.get(topic.key) or {"topic": topic.key, "questions": [], "refused": {}, "model": writer.model}
        progress(topic.key, len(row["questions"]))
        if len(row["questions"]) < assignment.per_topic:
            rows[topic.key] = _ask(topic, writer, assignment, row, known, progress)
            _append(rows[topic.key], path)
    asked = [rows[key] for key in dict.fromkeys(topic.key for topic in topics)]
    return GenerationReport(
        accepted=sum(len(row["questions"]) for row in asked),
        refused=MappingProxyType(sum((Counter(row["refused"]) for row in asked), Counter[str]())),
        short=tuple(row["topic"] for row in asked if len(row["questions"]) < assignment.per_topic),
    )


def load_questions(path: Path) -> Mapping[str, tuple[str, ...]]:
    """Read the questions of each topic, by its key.

    Raises:
        DataError: the file is missing or damaged.
    """
    return MappingProxyType({key: tuple(row["questions"]) for key, row in _read_rows(path).items()})


def _answer(topic: Topic) -> str:
    return f'"{topic.thing}" (a part of "{topic.whole}")' if topic.whole else f'"{topic.thing}"'


def _request(topic: Topic, count: int) -> str:
    words = ", ".join(dict.fromkeys((topic.thing, *topic.words)))
    return (
        f"Write {count} different questions whose answer is {_answer(topic)}. Never use these words: {words}.\n"
        f"One question a line, of at most {MOST_WORDS} words, with a question mark at its end."
    )


def _strings(tree: object) -> Iterator[str]:
    """All texts in a tree of JSON, in its order; keys of mappings are none."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, list | dict):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from _strings(value)


@cache
def _wording(text: str) -> str:
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


@cache
def _answer_pattern(topic: Topic) -> re.Pattern[str]:
    forms = (form for word in (topic.thing, *topic.words) for form in _forms(word))
    return re.compile(rf"(?<!\w)(?:{'|'.join(forms)})(?!\w)", re.IGNORECASE)


def _forms(word: str) -> Iterator[str]:
    """Patterns of a word and its simple plurals: "side mirror" is also "side-mirrors", "wing" also "wings"."""
    *first, last = re.split(r"[\s-]+", word.strip())
    plurals = (re.sub("y$", "ies", last), re.sub("fe?$", "ves", last), _ODD_PLURALS.get(last.lower(), last))
    for ending in (f"{re.escape(last)}(?:s|es)?", *map(re.escape, plurals)):
        yield r"[\s-]*".join([*map(re.escape, first), ending])


def _ask(topic: Topic, writer: Writer, assignment: Assignment, row: _Row, known: set[str], progress: Progress) -> _Row:
    """Fill the row of one topic; its questions join those that are known."""
    questions: list[str] = list(row["questions"])
    refused: Counter[str] = Counter(row["refused"])
    for number in range(ROUNDS):
        missing = assignment.per_topic - len(questions)
        if missing == 0:
            break
        count = max(missing, FEWEST_ASKED)
        luck = f"{assignment.seed} {topic.key} {len(questions) + refused.total()} {number}"
        text = writer.write(build_messages(topic, assignment.examples, count), count, zlib.crc32(luck.encode()) >> 1)
        for found in parse_questions(text):
            reason = check_question(found, topic, known)
            if reason is not None:
                refused[reason] += 1
            elif len(questions) < assignment.per_topic:
                questions.append(found)
                known.add(found)
                progress(topic.key, 1)
    models = ", ".join(dict.fromkeys([*row["model"].split(", "), writer.model]))
    return {"topic": topic.key, "questions": questions, "refused": dict(refused), "model": models}


def _recover(path: Path) -> dict[str, _Row]:
    """Read what is done; make the file where there is none, and drop a last line that was cut off."""
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()  # what cannot be written is told before anything is asked for
        rows = _read_rows(path)
        if not path.read_bytes().endswith(b"\n"):
            save_text("".join(map(_line, rows.values())), path)
        return rows


def _read_rows(path: Path) -> dict[str, _Row]:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"cannot read the questions: {path} ({error.strerror or error})") from error
    rows = {}
    for number, line in enumerate(lines, start=1):
        row = _parse_row(line)
        if row is not None:
            rows[row["topic"]] = row
        elif line.strip() and number < len(lines):
            raise DataError(f"not a row of questions: {path}, line {number}", hint="mend this line or remove it")
    return rows


def _parse_row(line: bytes) -> _Row | None:
    try:
        row = json.loads(line)
        texts = [row["topic"], row["model"], *row["questions"]]
        fits = all(isinstance(text, str) for text in texts) and isinstance(row["questions"], list)
        return row if fits and all(type(count) is int for count in row["refused"].values()) else None
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None


def _append(row: _Row, path: Path) -> None:
    with _writing(path), path.open("a", encoding="utf-8", newline="\n") as file:
        file.write(_line(row))
        file.flush()
        os.fsync(file.fileno())


def _line(row: _Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"cannot write the questions: {path} ({error.strerror or error})"
        raise DataError(message, hint=writing_hint(error)) from error
