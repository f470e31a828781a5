"""What a language model can be asked to write questions for, and where what it wrote is kept.

<data root>/questions/<set>.jsonl    a row a category; read beside the bank when the set's train split is prepared
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from cores_core.data.questions.bank import load_bank, load_part_wordings
from cores_core.data.questions.generate import Topic, load_questions

SETS = ("partimagenet", "pascal_part", "paco_lvis")
"""The sets of parts that questions are written for."""
EXAMPLE_TOPICS, EXAMPLE_QUESTIONS = 4, 5
"""How much of the bank a language model is shown."""


def list_topics(name: str) -> list[Topic]:
    """The part categories of a set, each with the words that would give it away."""
    if name == "partimagenet":
        return [topic for topic, _ in _bank()]
    return [
        Topic(f"{name}: {whole}:{part}", _plain(part), _plain(whole), wordings.answer_words)
        for (whole, part), wordings in load_part_wordings(name).items()
    ]


def list_examples() -> Mapping[Topic, tuple[str, ...]]:
    """A few categories with questions, to show what is wanted."""
    entries = list(_bank())
    step = -(-len(entries) // EXAMPLE_TOPICS)
    return {topic: questions[:EXAMPLE_QUESTIONS] for topic, questions in entries[::step]}


def questions_path(data_root: Path, name: str) -> Path:
    """Where the written questions of a set are kept."""
    return data_root / "questions" / f"{name}.jsonl"


def load_written(data_root: Path, name: str) -> Mapping[str, tuple[str, ...]]:
    """The written questions of a set by raw category ("Fish Tail", "bird:beak"); none if nothing was written.

    Raises:
        DataError: the file is damaged.
    """
    path = questions_path(data_root, name)
    written = load_questions(path) if path.is_file() else {}
    return {key.removeprefix(f"{name}: "): questions for key, questions in written.items()}


def _bank() -> Iterator[tuple[Topic, tuple[str, ...]]]:
    for entry in load_bank().values():
        for part, wordings in entry.parts.items():
            key = f"partimagenet: {entry.category.title()} {part.title()}"
            asked = tuple(text.replace("{object}", entry.category) for text in wordings.questions["train"])
            yield Topic(key, part, entry.category, wordings.answer_words), asked


def _plain(name: str) -> str:
    return " ".join(name.partition("_(")[0].replace("_", " ").split())
