"""Docstrings, comments, messages and documents use plain, standard terms: a list of banned phrases, searched in all."""

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BANNED = re.compile(
    r"""\b(?:
        luck\w* | nobody | somebody | whoever | so\s+many | wish(?:es)? | thimbles? | unheard
        | tells? | told | is\s+heard | in\s+words | cut\s+off | go(?:es)?\s+on | went\s+on
        | what\s+[\w']+(?:\s+[\w']+)?\s+makes?\s+of | counts?\s+nowhere | makes?\s+(?:no\s+)?sense | by\s+chance
        | stands?\s+(?:by|for)\s+itself | ha(?:s|ve)\s+(?:its|their)\s+home | the\s+only\s+home | mends?
        | into\s+(?:its|their)\s+mouths? | half\s+a\s+(?:surrogate|pair) | to\s+be\s+had | without\s+influence
    )\b | \A[rf]*\"{3}The\ same\b""",
    re.IGNORECASE | re.VERBOSE,
)
ALLOWED = ("What tells the time on this wall?",)
"""Texts of prompts and data that contain a banned phrase."""
EXEMPT = ("cores_core/data/questions/generate.py",)
"""Its prompts for a language model use everyday words."""
PLACES = ("cores_core", "cores_cli", "docs", "benchmarks", "README.md", "CONTRIBUTING.md")
SUFFIXES = (".py", ".md", ".yaml")
DATA = ("cores_core/data/questions/bank/", "cores_core/data/questions/reasonpart.yaml")
"""Questions, whose words are data."""
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for place in PLACES
    for path in ((ROOT / place).rglob("*") if (ROOT / place).is_dir() else [ROOT / place])
    if path.suffix in SUFFIXES and not path.relative_to(ROOT).as_posix().startswith(DATA)
)


def texts(name: str, content: str) -> Iterator[tuple[int, str]]:
    """Line number and text of each comment and string of a Python file; of other files the whole text."""
    if not name.endswith(".py"):
        yield 1, content
        return
    for token in tokenize.generate_tokens(io.StringIO(content).readline):
        if tokenize.tok_name[token.type] in ("COMMENT", "STRING", "FSTRING_MIDDLE"):
            yield token.start[0], token.string


def find_banned(name: str, content: str) -> list[str]:
    """`file:line: phrase` of each banned phrase, also of those that a line break divides."""
    for text in ALLOWED:
        content = content.replace(text, "")
    return [
        f"{name}:{line + text[: found.start()].count(chr(10))}: {found[0]}"
        for line, text in texts(name, content)
        for found in BANNED.finditer(text)
    ]


def test_files_are_found() -> None:
    assert {"cores_core/masks.py", "docs/own_data.md", "README.md"} <= set(FILES)


@pytest.mark.parametrize("name", [name for name in FILES if name not in EXEMPT])
def test_no_banned_phrase(name: str) -> None:
    assert find_banned(name, (ROOT / name).read_text(encoding="utf-8")) == []


def test_banned_phrases_are_found_in_strings_and_comments_alone() -> None:
    content = '"""The same."""\ntold = so_many = "a file\\n"  # by luck\n"A run goes on."\n'
    assert find_banned("a.py", content) == ['a.py:1: """The same', "a.py:2: luck", "a.py:3: goes on"]
