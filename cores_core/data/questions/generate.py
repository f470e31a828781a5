"""Generate ReasonPart questions with a language model: request, check, request again, append to a file.

One JSON row for each topic, `{"topic", "questions", "refused": {reason: count}, "model"}`, is appended as soon as the
topic is done, so that an interrupted call can be resumed. Of two rows for one topic the later counts.

Source: CoReS (arXiv:2404.05673), appendix C: in-context learning with ChatGPT to generate questions about categories.
Deviation: its prompt was never published; this one is ours, and questions that name their answer are refused.
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
from cores_core.files import parse_json, save_text, writing_hint

ROUNDS = 8
"""Maximum number of requests for a topic."""
MIN_REQUESTED = 5
"""Questions of one request; asked for a single one, a model repeats itself."""
MAX_WORDS = 40

Progress = Callable[[str, int], None]
"""Called with the key of a topic and its number of further questions, those of earlier calls included."""

_Row = dict[str, Any]
_MARKUP = re.compile(r"[<>\[\]{}|\\*`_#]")
_FENCED = re.compile(r"```\w*\n(.*?)```", re.DOTALL)
_NUMBERING = re.compile(r"(?:(?:[-*•–+]+|[(\[]?\d+[.):\]](?!\d)|(?:q|question)\s*\d*[.:])\s*)*", re.IGNORECASE)
_WRAPPING = " ,*_\"'“”‘’«»`"
_ODD_PLURALS = {"foot": "feet", "tooth": "teeth"}


@dataclass(frozen=True)
class Topic:
    """The answer that questions are to have.

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
    """Number of questions for each topic, and the examples in the prompt.

    Attributes:
        per_topic: questions to be accepted. examples: good questions for other topics. seed: random seed.
    """

    per_topic: int
    examples: Mapping[Topic, Sequence[str]]
    seed: int = 0

    def __post_init__(self) -> None:
        if self.per_topic < 1:
            raise ConfigError(f"a topic needs at least one question: {self.per_topic}")


@dataclass(frozen=True)
class GenerationReport:
    """Counts over the requested topics, as the file holds them.

    Attributes:
        accepted: number of questions. refused: number of texts by reason. short: keys of topics with too few questions.
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
    """Extract questions from JSON or lines, without reasoning (<think>), numbers, bullets and quotes.

    Other lines are returned as well, for `check_question` to refuse.
    """
    text = text.rpartition("</think>")[2].partition("<think>")[0]
    fenced = _FENCED.search(text)
    body = (fenced[1] if fenced else text).strip()
    lines = body.splitlines()
    if body.startswith(("[", "{")):
        with suppress(ValueError, RecursionError):  # truncated or no JSON: its lines may still be questions
            lines = list(_strings(parse_json(body)))
    bare = (_NUMBERING.sub("", " ".join(line.split()).strip(_WRAPPING), count=1) for line in lines)
    return [line.strip(_WRAPPING) for line in bare if any(character.isalnum() for character in line)]


def check_question(text: str, topic: Topic, known: Collection[str]) -> str | None:
    """Reason to refuse a question, from a fixed set of texts, or None.

    Args:
        known: questions that it must not repeat, compared without case and punctuation.
    """
    wording = _wording(text)
    reasons = {
        "empty": not wording,
        "unprintable characters": not text.isprintable(),
        "markup": _MARKUP.search(text) is not None,
        "not a question": not text.endswith("?"),
        f"longer than {MAX_WORDS} words": len(text.split()) > MAX_WORDS,
        "names its answer": _answer_pattern(topic).search(text) is not None,
        "asked already": any(_wording(other) == wording for other in known),
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def generate_questions(
    topics: Sequence[Topic], writer: Writer, path: Path, assignment: Assignment, progress: Progress
) -> GenerationReport:
    """Request questions until each topic has enough or `ROUNDS` are used up.

    Topics that have enough in `path` are skipped; incomplete ones are requested again with other seeds. A question
    counts for one topic only, and examples do not count.

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
        f"One question a line, of at most {MAX_WORDS} words, with a question mark at its end."
    )


def _strings(tree: object) -> Iterator[str]:
    """All strings in a JSON value, in order, without the keys of objects."""
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
    """Complete the row of one topic and add its questions to `known`."""
    questions: list[str] = list(row["questions"])
    refused: Counter[str] = Counter(row["refused"])
    for number in range(ROUNDS):
        missing = assignment.per_topic - len(questions)
        if missing == 0:
            break
        count = max(missing, MIN_REQUESTED)
        seed = f"{assignment.seed} {topic.key} {len(questions) + refused.total()} {number}"
        text = writer.write(build_messages(topic, assignment.examples, count), count, zlib.crc32(seed.encode()) >> 1)
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
    """Read finished rows, creating the file if it is missing and dropping an incomplete last line."""
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()  # fails before the first request if the file cannot be written
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
            raise DataError(f"not a row of questions: {path}, line {number}", hint="correct or remove this line")
    return rows


def _parse_row(line: bytes) -> _Row | None:
    try:
        row = parse_json(line)
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
