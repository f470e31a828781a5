"""The command line: `cores COMMAND`. Only the standard library is imported before signals are handled."""

import atexit
import gc
import io
import sys
import warnings
from typing import TextIO

from cores_cli.interrupts import EXIT_CODES, interrupts
from cores_core.errors import CoresError, CoresWarning

COLLECT_AFTER = 200_000
"""New objects before a garbage collection. The default of 700 takes a fifth of the time to import torch and
transformers, whose 400,000 objects are never freed."""


def main(argv: list[str] | None = None) -> None:
    """Entry point. Prints errors that the user can correct without a traceback.

    Tests and the `cores` command both enter here.
    """
    with interrupts.handled():
        _run(argv)


def _run(argv: list[str] | None) -> None:
    from cores_cli import console
    from cores_cli.root import app

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # text that the terminal cannot encode is escaped
    warnings.showwarning = _show_warning
    gc.set_threshold(COLLECT_AFTER)
    atexit.register(gc.freeze)  # avoids a last collection of a second at exit
    try:
        app(args=argv, prog_name="cores")
    except OSError as error:
        from cores_core.files import NO_WRITING, writing_hint

        if error.errno not in NO_WRITING:
            raise
        place = f": {error.filename}" if error.filename else ""
        console.show_error(CoresError(f"cannot write{place} ({error.strerror})", hint=writing_hint(error)))
        raise SystemExit(1) from error
    except (CoresError, SystemExit, KeyboardInterrupt) as error:
        was_done = isinstance(error, SystemExit) and not error.code
        if interrupts.number is not None and interrupts.is_raised and not was_done:
            console.say("interrupted")
            raise SystemExit(EXIT_CODES[interrupts.number]) from None
        if isinstance(error, CoresError):
            console.show_error(error)
            raise SystemExit(1) from error
        raise


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    from cores_cli import console

    if issubclass(category, CoresWarning):
        console.say(f"note: {message}", style="yellow")
    else:
        (file or sys.stderr).write(warnings.formatwarning(message, category, filename, lineno, line))


if __name__ == "__main__":
    main(sys.argv[1:])
