"""What tests of training share: jobs in folders of their own."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cores_core.config import Config, ScratchConfig
from cores_core.train.start import TrainJob


@pytest.fixture
def new_job(tiny_config: Config, partworld_root: Path, tmp_path: Path) -> Callable[..., TrainJob]:
    """Make a job in a folder of one's own, with settings of `train` changed."""

    def make(name: str = "run", scratch: ScratchConfig | None = None, **train: Any) -> TrainJob:
        changed = replace(tiny_config.train, **train)
        config = replace(tiny_config, train=changed, scratch=scratch or tiny_config.scratch)
        return TrainJob(config, partworld_root, tmp_path / name, torch.device("cpu"))

    return make
