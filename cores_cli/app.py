"""The command line: `cores COMMAND`. Nothing heavy is imported here, so `cores --help` is quick."""

import atexit
import gc
import io
import sys
import warnings
from importlib import metadata
from typing import Annotated, TextIO

import typer

from cores_cli import console
from cores_cli.commands import checkpoint, predict, prepare_data, train
from cores_cli.commands import eval as evaluation
from cores_core.errors import CoresError, CoresWarning

COLLECT_AFTER = 200_000
"""New objects after which Python looks for garbage. With its own 700 that is a fifth of the time to import torch and
transformers, whose 400,000 objects stay to the end."""

app = typer.Typer(
    name="cores",
    help="Ask an image a question that needs thought and get the mask of the answer.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 a problem with the input, 2 wrong usage, 130 interrupted.",
)
app.command("predict")(predict.predict)
app.command("prepare-data")(prepare_data.prepare_data)
app.command("train")(train.train)
app.add_typer(evaluation.app, name="eval")
app.add_typer(checkpoint.app, name="checkpoint")


def _show_version(wanted: bool) -> None:
    if wanted:
        console.out.print(f"cores {metadata.version('cores')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Reasoning segmentation with CoReS: a language model reasons, SAM segments, coarse then fine."""


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if issubclass(category, CoresWarning):
        console.say(f"note: {message}", style="yellow")
    else:
        (file or sys.stderr).write(warnings.formatwarning(message, category, filename, lineno, line))


def main(argv: list[str] | None = None) -> None:
    """The one boundary between mistakes and people: no traceback for what a user can mend.

    Tests and the `cores` command both enter here.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # text that the terminal cannot encode is escaped
    warnings.showwarning = _show_warning
    gc.set_threshold(COLLECT_AFTER)
    atexit.register(gc.freeze)  # or it looks through them all once more at the end, for a second
    try:
        app(args=argv, prog_name="cores")
    except CoresError as error:
        console.show_error(error)
        raise SystemExit(1) from error
    except KeyboardInterrupt:
        console.say("interrupted")
        raise SystemExit(130) from None


if __name__ == "__main__":
    main(sys.argv[1:])
