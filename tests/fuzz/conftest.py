"""Number of inputs: a few in CI, always the same; `CORES_FUZZ=N pytest tests/fuzz` tries N new ones per fuzzer."""

import resource
from collections.abc import Iterator
from typing import Any

import pytest
from fuzz.limits import COUNT, SURVEY, memory_limit
from hypothesis import HealthCheck, settings

COMMON: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}
settings.register_profile("ci", max_examples=15, derandomize=True, **COMMON)
settings.register_profile("by hand", max_examples=max(COUNT, 1), **COMMON)
settings.load_profile("by hand" if COUNT else "ci")


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """Bound the memory of each fuzzer."""
    with memory_limit():
        yield


@pytest.fixture(autouse=True, scope="session")
def survey(request: pytest.FixtureRequest) -> Iterator[None]:
    """By hand, list all failures at the end."""
    yield
    if COUNT and SURVEY.failures:
        request.session.testsfailed += 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """By hand, print the counts and each kind of failure with its first traceback."""
    if not COUNT:
        return
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    for key, (count, first) in sorted(SURVEY.failures.items(), key=lambda entry: -entry[1][0]):
        terminalreporter.write_line(f"{first}\n{count} x {key}\n")
    failed = sum(count for count, _ in SURVEY.failures.values())
    terminalreporter.write_line(
        f"{SURVEY.inputs} inputs, {SURVEY.refused} refused, {failed} failures of {len(SURVEY.failures)} kinds; "
        f"the slowest took {SURVEY.slowest:.1f} s; peak memory {peak} MiB"
    )
