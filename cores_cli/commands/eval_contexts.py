"""`cores eval --context`: choose, load or generate the in-context example (a solved example before the question)."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cores_cli import console

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cores_core.evaluate.targets import Target

ContextOption = Annotated[
    str | None,
    typer.Option("--context", help="In-context example: fixed, random, none, generate, or a JSONL file."),
]
EndpointOption = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        metavar="URL",
        help="With --context generate: URL of an OpenAI-compatible server (key: OPENAI_API_KEY).",
    ),
]
LlmOption = Annotated[
    str | None,
    typer.Option(
        "--llm",
        metavar="NAME",
        help="With --context generate: the model on the server; without --endpoint, a local one.",
    ),
]


@dataclass(frozen=True)
class ContextChoice:
    """The kind of in-context examples, and the generator of `generate`."""

    name: str | None
    endpoint: str | None
    llm: str | None
    output: Path | None

    def choose(self, targets: "Sequence[Target]") -> "Mapping[str, str]":
        """The example of each question."""
        from cores_core.evaluate.contexts import NAMED, load_examples, name_examples

        assert self.name is not None
        if self.name in NAMED:
            return name_examples(self.name, targets, seed=0)
        return load_examples(self._written(targets) if self.name == "generate" else Path(self.name), targets)

    def _written(self, targets: "Sequence[Target]") -> Path:
        from cores_core.data.questions.writers import EndpointWriter, LocalWriter
        from cores_core.evaluate.contexts import write_examples

        if self.llm is None or self.output is None:
            raise typer.BadParameter("generate needs --llm, and --output for the examples", param_hint="--context")
        key = os.environ.get("OPENAI_API_KEY")
        writer = EndpointWriter(self.endpoint, self.llm, key) if self.endpoint else LocalWriter(self.llm)
        path = self.output / "examples.jsonl"
        with console.progress_bar() as progress:
            task = progress.add_task("generating examples", total=len(targets))
            write_examples(path, targets, writer, partial(progress.advance, task))
        return path
