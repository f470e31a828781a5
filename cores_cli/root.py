"""The commands of `cores` and their common options. Imports nothing heavy, so `cores --help` is quick."""

from importlib import metadata
from typing import Annotated

import typer

from cores_cli import console
from cores_cli.commands import checkpoint, config, models, predict, prepare_data, serve, train
from cores_cli.commands import eval as evaluation

app = typer.Typer(
    name="cores",
    help="Ask an image a question that needs reasoning and get the mask of the answer.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 a problem with the input, 2 wrong usage, 130 interrupted, 143 terminated.",
)
app.command("predict")(predict.predict)
app.command("serve")(serve.serve)
app.command("prepare-data")(prepare_data.prepare_data)
app.command("train")(train.train)
app.add_typer(evaluation.app, name="eval")
app.add_typer(checkpoint.app, name="checkpoint")
app.add_typer(models.app, name="models")
app.add_typer(config.app, name="config")


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
