"""Run the real command line in this process, and give it a model and a picture."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cores_cli.app import main
from cores_core.model.checkpoint import Checkpoint, save_checkpoint


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    stdout: str
    stderr: str


Cli = Callable[..., Outcome]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Call `cores` with arguments; anything but a clean exit is a bug and is raised."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Outcome(int(exit_info.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def model_folder(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved checkpoint with random weights."""
    folder = tmp_path_factory.mktemp("model") / "random"
    save_checkpoint(folder, checkpoint)
    return folder


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A noisy 60 x 40 JPEG."""
    path = tmp_path / "in" / "picture.jpg"
    path.parent.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path
