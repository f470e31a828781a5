"""Rules that no other tool checks: file and function sizes, one place per concept, no terminal output in the core."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path for package in ("cores_core", "cores_cli") for path in (ROOT / package).rglob("*.py"))
MOST_LINES, MOST_FUNCTION_LINES, MOST_PARAMETERS = 400, 60, 6
WALL_CLOCK = {
    "time": {"time", "time_ns", "localtime", "gmtime", "ctime", "strftime", "asctime", "clock_gettime"},
    "datetime": {"now", "utcnow", "today"},
}
CHAIN_TOKENS = ("[LOC]", "[SEG]", "[SEG_SEMA]")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_there_is_something_to_check() -> None:
    assert len(FILES) > 30


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_no_file_is_too_long(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_no_function_is_too_long(path: Path) -> None:
    lengths = {function.name: (function.end_lineno or 0) - function.lineno + 1 for function in _functions(path)}
    assert {name: length for name, length in lengths.items() if length > MOST_FUNCTION_LINES} == {}


NOT_COMMANDS = [path for path in FILES if path.parent.name != "commands"]  # a command's parameters are its options


@pytest.mark.parametrize("path", NOT_COMMANDS, ids=_name)
def test_no_function_has_too_many_parameters(path: Path) -> None:
    counts = {function.name: len(_parameters(function)) for function in _functions(path)}
    assert {name: count for name, count in counts.items() if count > MOST_PARAMETERS} == {}


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_only_prompts_spells_the_tokens_of_the_chain(path: Path) -> None:
    if _name(path) == "cores_core/prompts.py":
        pytest.skip("their home")
    spelled = [text for text in _code_strings(path) if any(token in text for token in CHAIN_TOKENS)]
    assert spelled == []


@pytest.mark.parametrize("path", [path for path in FILES if "cores_core" in path.parts], ids=_name)
def test_the_core_never_talks(path: Path) -> None:
    assert {"typer", "rich", "click"} & set(_imports(path)) == set()


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_no_code_reads_the_wall_clock(path: Path) -> None:
    """A clock that is set back changes nothing: durations are of time.monotonic and time.perf_counter."""
    assert _clock_reads(ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "code",
    ["time.time()", "from time import time", "datetime.now(UTC)", "datetime.datetime.now()", "datetime.date.today()"],
)
def test_reading_the_wall_clock_is_found(code: str) -> None:
    assert len(_clock_reads(ast.parse(code))) == 1


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_packages_are_empty_and_every_other_file_says_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if path.name == "__init__.py" and path.parent.parent != ROOT:
        assert tree.body == []
    elif path.name != "__init__.py":
        assert ast.get_docstring(tree)


def _functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, Function):
            yield node


def _parameters(function: Function) -> list[str]:
    arguments = function.args
    listed = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [argument.arg for argument in listed if argument.arg not in ("self", "cls")]


def _clock_reads(tree: ast.Module) -> list[str]:
    """Names in a module that give the time of day."""
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            found += [alias.name for alias in node.names if alias.name in WALL_CLOCK["time"]]
        elif isinstance(node, ast.Attribute):
            of_time = ast.unparse(node.value) == "time" and node.attr in WALL_CLOCK["time"]
            if of_time or node.attr in WALL_CLOCK["datetime"]:
                found.append(ast.unparse(node))
    return found


def _code_strings(path: Path) -> Iterator[str]:
    """Strings, pieces of f-strings included, that are not docstrings (a string that is a whole statement)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in statements:
            yield node.value


def _imports(path: Path) -> Iterator[str]:
    """First names of all imported modules."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module.split(".")[0]
