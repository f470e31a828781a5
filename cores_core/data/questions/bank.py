"""The question bank: what one can ask about parts and objects, and the fixed questions of the ReasonPart benchmark.

`bank/*.yaml` are the 11 super-categories of PartImageNet (and PartWorld) with their 40 parts; a wording belongs to one
split only, so that no test wording is ever trained on. `bank/<set>/*.yaml` are further wordings to train on for the
parts of PASCAL-Part and PACO. `reasonpart.yaml` is the benchmark.
Source: CoReS (arXiv:2404.05673), appendix C, which had such questions written by a language model; these are ours.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

import numpy as np
import yaml

from cores_core.sample import Query

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Ten times faster where PyYAML was built with its C library."""


@dataclass(frozen=True)
class Wordings:
    """Ways to ask for one thing: `{object}` stands for a name of its category.

    Attributes:
        answer_words: nouns that would give the answer away; no question holds one. Empty for whole objects.
        questions: for each split, sentences that need thought.
        phrases: for each split, plain referring phrases.
    """

    answer_words: tuple[str, ...]
    questions: Mapping[str, tuple[str, ...]]
    phrases: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class CategoryQuestions:
    """All wordings of a super-category: its names, the whole object, and its parts by name."""

    category: str
    names: tuple[str, ...]
    whole: Wordings
    parts: Mapping[str, Wordings]

    def draw(self, wordings: Wordings, split: str, counts: tuple[int, int], rng: np.random.Generator) -> list[Query]:
        """Draw (questions, phrases) without repetition as far as there are enough; questions come first."""
        queries = []
        for texts, count, is_sentence in (
            (wordings.questions[split], counts[0], True),
            (wordings.phrases[split], counts[1], False),
        ):
            for index in rng.permutation(len(texts))[:count]:
                name = self.names[int(rng.integers(len(self.names)))]
                text = texts[int(index)].replace("{object}", name)
                queries.append(Query(text if is_sentence else text.removeprefix("the "), is_sentence))
        return queries


@dataclass(frozen=True)
class BenchmarkQuestions:
    """ReasonPart's questions.

    Attributes:
        version: raised whenever a question changes.
        digest: SHA-256 of the file.
        questions: for each half of the benchmark, the one question of each category.
    """

    version: int
    digest: str
    questions: Mapping[str, Mapping[str, str]]


@cache
def load_benchmark() -> BenchmarkQuestions:
    """Read the fixed questions of ReasonPart."""
    data = (resources.files("cores_core.data.questions") / "reasonpart.yaml").read_bytes()
    tree = yaml.load(data, Loader=_LOADER)
    halves = {name: MappingProxyType(entry) for name, entry in tree.items() if name != "version"}
    return BenchmarkQuestions(tree["version"], hashlib.sha256(data).hexdigest(), MappingProxyType(halves))


@cache
def load_part_wordings(name: str) -> Mapping[tuple[str, str], Wordings]:
    """What to train on for the parts of `pascal_part` or `paco_lvis`, by raw names of object and part."""
    folder = resources.files("cores_core.data.questions") / "bank" / name.removesuffix("_lvis")
    found: dict[tuple[str, str], Wordings] = {}
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        tree = yaml.load(entry.read_text(encoding="utf-8"), Loader=_LOADER)
        for part, given in tree["parts"].items():
            questions = MappingProxyType({"train": tuple(given["questions"])})
            found[tree["object"], part] = Wordings(tuple(given["words"]), questions, MappingProxyType({}))
    return MappingProxyType(found)


@cache
def load_bank() -> Mapping[str, CategoryQuestions]:
    """Read the bank that ships with the package, by lower-case category name."""
    folder = resources.files("cores_core.data.questions") / "bank"
    entries = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".yaml")), key=lambda e: e.name)
    trees = [yaml.load(entry.read_text(encoding="utf-8"), Loader=_LOADER) for entry in entries]
    return MappingProxyType({tree["category"]: _category(tree) for tree in trees})


def _category(tree: Mapping[str, Any]) -> CategoryQuestions:
    return CategoryQuestions(
        category=tree["category"],
        names=tuple(tree["names"]),
        whole=_wordings(tree["object"]),
        parts=MappingProxyType({part: _wordings(entry) for part, entry in tree["parts"].items()}),
    )


def _wordings(entry: Mapping[str, Any]) -> Wordings:
    return Wordings(
        answer_words=tuple(entry.get("words", ())),
        questions=MappingProxyType({split: tuple(texts) for split, texts in entry["questions"].items()}),
        phrases=MappingProxyType({split: tuple(texts) for split, texts in entry["phrases"].items()}),
    )
