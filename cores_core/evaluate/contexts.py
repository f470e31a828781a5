"""Which in-context example each question is asked with, where it is not the one that the model was trained with.

"Query-specific" examples (Table S1, "relevant", of CoReS, arXiv:2404.05673) come from a file, a row for each question:

    {"id": "reasonseg/val/12.0.0", "example": {"question": "What is ...?", "answer": "It is usually found on ..."}}
    {"image": "reason_seg/.../a.jpg", "question": "the question that is asked", "example": {...}}
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from cores_core.errors import DataError
from cores_core.evaluate.targets import Target
from cores_core.prompts import EXAMPLES, render_example

NAMED = ("fixed", "random", "none")


def name_examples(context: str, targets: Sequence[Target], seed: int) -> Mapping[str, str]:
    """The example of each question by its id: `fixed` the first of ours, `random` any for each image, `none` "".

    Args:
        seed: decides, with the image, which one is random.
    """
    examples = {}
    for target in targets:
        number = crc32(f"{seed} {target.image}".encode()) % len(EXAMPLES) if context == "random" else 0
        examples[target.id] = "" if context == "none" else render_example(*EXAMPLES[number])
    return examples


def load_examples(path: Path, targets: Sequence[Target]) -> Mapping[str, str]:
    """The example of each question by its id, from a file.

    Raises:
        DataError: the file is missing or damaged, or has none for a question.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        hint = "--context takes fixed, random, none, generate or a file"
        raise DataError(f"cannot read: {path} ({error})", hint=hint) from error
    found: dict[Any, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            key = row["id"] if "id" in row else (row["image"], row["question"])
            found[key] = render_example(row["example"]["question"], row["example"]["answer"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise DataError(f"not an example of this form: {path}:{number} ({reason})") from error
    examples = {target.id: found.get(target.id, found.get((target.image, target.question))) for target in targets}
    missing = [target for target in targets if examples[target.id] is None]
    if missing:
        raise DataError(
            f"no example for {len(missing)} questions in: {path}", hint=f"the first is that of id {missing[0].id}"
        )
    return {key: example for key, example in examples.items() if example is not None}
