"""In-context examples per question in evaluation, replacing the one the model was trained with.

Query-specific examples (Table S1, "relevant", of CoReS, arXiv:2404.05673) come from a file with a row per question:

    {"id": "reasonseg/val/12.0.0", "example": {"question": "What is ...?", "answer": "It is usually found on ..."}}
    {"image": "reason_seg/.../a.jpg", "question": "the question of the benchmark", "example": {...}}

A language model can write them, as in the paper (GPT).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from cores_core.data.questions.writers import Writer
from cores_core.errors import DataError, reason_of
from cores_core.evaluate.targets import Target
from cores_core.files import parse_json, save_text
from cores_core.prompts import EXAMPLES, render_example

NAMED = ("fixed", "random", "none")
ATTEMPTS = 5
"""Maximum number of requests to a language model per example."""
_REQUEST = (
    "You help a model that finds things in images. You are given a question about an image that you do not see. Write "
    "one example of how to think about such a question: ask for something else that is found in a similar place or is "
    "used in a similar way, and answer in two short sentences, the first of where it is usually found, the second of "
    'what it looks like. Do not answer the given question. Reply with JSON alone: {"question": "...", "answer": "..."}'
)


def name_examples(context: str, targets: Sequence[Target], seed: int) -> Mapping[str, str]:
    """The example of each question by target id: `fixed` the first of `EXAMPLES`, `random` one per image, `none` "".

    Args:
        seed: of the random choice, together with the image's path.
    """
    examples = {}
    for target in targets:
        number = crc32(f"{seed} {target.image}".encode()) % len(EXAMPLES) if context == "random" else 0
        examples[target.id] = "" if context == "none" else render_example(*EXAMPLES[number])
    return examples


def load_examples(path: Path, targets: Sequence[Target]) -> Mapping[str, str]:
    """Read the example of each question, by target id, from a file.

    Raises:
        DataError: the file is missing or malformed, or has no example for a question.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        hint = "--context takes fixed, random, none, generate or a file"
        raise DataError(f"cannot read: {path} ({reason_of(error)})", hint=hint) from error
    found: dict[Any, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
            key = row["id"] if "id" in row else (row["image"], row["question"])
            found[key] = render_example(row["example"]["question"], row["example"]["answer"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise DataError(f"malformed example: {path}:{number} ({reason})") from error
    examples = {target.id: found.get(target.id, found.get((target.image, target.question))) for target in targets}
    missing = [target for target in targets if examples[target.id] is None]
    if missing:
        raise DataError(
            f"no example for {len(missing)} questions in: {path}", hint=f"the first has the id {missing[0].id}"
        )
    return {key: example for key, example in examples.items() if example is not None}


def write_examples(path: Path, targets: Sequence[Target], writer: Writer, progress: Callable[[int], None]) -> None:
    """Let a language model write the examples missing in `path`, appending each row immediately.

    Raises:
        DataError: the writer fails, or its replies cannot be parsed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    done = _written(path)
    progress(sum(target.id in done for target in targets))
    for target in targets:
        if target.id in done:
            continue
        row = {"id": target.id, "example": _write_example(target.question, writer), "model": writer.model}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        progress(1)


def _written(path: Path) -> set[str]:
    """Ids of the existing rows; a truncated last row is removed."""
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else [""]
    if lines[-1]:
        save_text("".join(f"{line}\n" for line in lines[:-1]), path)
    return {parse_json(line)["id"] for line in lines[:-1]}


def _write_example(question: str, writer: Writer) -> dict[str, str]:
    messages = [{"role": "system", "content": _REQUEST}, {"role": "user", "content": question}]
    for seed in range(ATTEMPTS):
        reply = writer.write(messages, 1, seed)
        try:
            tree = parse_json(reply[reply.index("{") : reply.rindex("}") + 1])
            example = {key: " ".join(tree[key].split()) for key in ("question", "answer")}
        except (AttributeError, KeyError, TypeError, ValueError):
            continue
        if all(example.values()):
            return example
    raise DataError(f"no valid example by {writer.model} for: {question}", hint="try another model, or --context FILE")
