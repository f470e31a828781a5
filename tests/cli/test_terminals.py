"""What `cores` writes to a terminal: a pseudo-terminal of some width, with the variables by which users set it up."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
from rich.cells import cell_len

ESCAPE = re.compile(r"\x1b\[([\d;]*)[A-Za-z]")
COLOURS = {*map(str, (*range(30, 50), *range(90, 108)))}
VARIABLES = ("TERM", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "COLORTERM")
TABLE = "┏┃┡│└╭╰"


def show(command: str, width: int = 100, **variables: str) -> str:
    """All that a command writes to a terminal of `width` columns."""
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES} | variables
    arguments = [sys.executable, "-m", "cores_cli.app", *command.split()]
    with subprocess.Popen(arguments, stdin=end, stdout=end, stderr=end, env=environment):
        os.close(end)
        written = b""
        try:
            while read := os.read(terminal, 1 << 16):
                written += read
        except OSError:  # Linux's way to say that the other end is closed
            pass
    os.close(terminal)
    return written.decode()


def colours(text: str) -> set[str]:
    return {code for found in ESCAPE.finditer(text) for code in found[1].split(";")} & COLOURS


@pytest.mark.parametrize("command", ["models", "config show nothing"])
def test_a_dumb_terminal_gets_no_escape_sequences(command: str) -> None:
    written = show(command, TERM="dumb")
    assert "tiny" in written
    assert "\x1b" not in written


def test_errors_are_coloured_unless_no_color_is_set() -> None:
    coloured, plain = (show("config show nothing", TERM="xterm-256color", **more) for more in ({}, {"NO_COLOR": "1"}))
    assert colours(coloured)
    assert not colours(plain)
    assert ESCAPE.sub("", plain) == ESCAPE.sub("", coloured)


@pytest.mark.parametrize("settings", [{"width": 40}, {"COLUMNS": "40"}], ids=["window", "COLUMNS"])
@pytest.mark.parametrize("command", ["models", "predict --help"])
def test_tables_fit_in_40_columns(command: str, settings: dict[str, int | str]) -> None:
    """Running text is left to the terminal, which wraps it without ends of lines within what users copy."""
    lines = ESCAPE.sub("", show(command, TERM="xterm-256color", **settings)).splitlines()
    widths = [cell_len(line) for line in lines if line[:1] in TABLE and line]
    assert len(widths) > 10
    assert max(widths) <= 40
