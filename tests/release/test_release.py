"""What is released: a wheel that works away from the repository, a documentation site without warnings, a citation."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from datetime import date
from pathlib import Path

import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("cores_core", "cores_cli")
LARGEST = 12 * 2**20
"""Bytes of the wheel, most of which are the embedded weights."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the repository, by the installed setuptools."""
    source, target = (tmp_path_factory.mktemp(name) for name in ("source", "wheel"))
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", target, source)
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    (built,) = target.glob("*.whl")
    return built


def test_the_wheel_has_every_file_of_the_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if name.split("/")[0] in PACKAGES}
    expected = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert found == expected
    assert wheel.stat().st_size < LARGEST


def test_the_wheel_works_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    install = (sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel)
    subprocess.run(list(map(str, install)), check=True, capture_output=True)
    shutil.copy(ROOT / "examples/images/fish.jpg", work)
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}

    def run(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    places = run("-c", "import cores_core, cores_cli; print(cores_core.__file__, cores_cli.__file__)").split()
    assert all(place.startswith(str(site)) for place in places)
    assert "prepare-data" in run("-m", "cores_cli.app", "--help")
    run("-m", "cores_cli.app", "predict", "fish.jpg", "Which part steers the fish?", "--output", "out")
    with Image.open(next((work / "out").glob("*mask*.png"))) as mask:
        assert mask.getbbox() is not None
    assert "MMR" in run("-m", "cores_cli.app", "eval", "--help")


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="needs the extra `docs`")
def test_the_documentation_is_built_without_warnings(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    listed = {page for entry in pages for page in entry.values()}
    assert listed == {path.name for path in (ROOT / "docs").glob("*.md")}
    assert "score_masks" in (tmp_path / "api/index.html").read_text(encoding="utf-8")


def test_package_citation_and_changelog_have_the_same_version() -> None:
    first, *released = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert first == "[Unreleased]"
    versions = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)", heading) for heading in released]
    assert all(versions)
    numbers, dates = zip(*(version.groups() for version in versions if version), strict=True)
    assert list(numbers) == sorted(set(numbers), key=lambda text: [*map(int, text.split("."))], reverse=True)
    assert list(dates) == sorted(dates, reverse=True)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["date-released"]) == (numbers[0], date.fromisoformat(dates[0]))


def test_the_citation_has_the_version_and_licence_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert {"cff-version", "message", "title", "authors", "preferred-citation"} <= set(citation)
