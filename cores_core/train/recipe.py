"""The paper's training, and the hooks by which another recipe changes it.

A recipe says what each step reads, how samples become a batch, which losses it has, by which optimisers and at which
rate it learns. `Recipe` and `Objective` are the paper's (CoReS, arXiv:2404.05673, appendix A): every step is alike,
the losses are those of the model's output, AdamW with a warm-up and a linear decay. Another recipe overrides what
differs (train/scratch/).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cores_core.config import Config, TrainConfig
from cores_core.data.mixture import SampleOptions
from cores_core.data.store import Store
from cores_core.model.cores import ChainOutput, CoresModel
from cores_core.model.losses import Counts, Losses, compute_losses
from cores_core.model.processor import Batch, Processor, Tokens
from cores_core.sample import Sample

Rows = list[Tokens]
"""Token rows of one image, as `Processor.tokenize` returns them."""


@dataclass(frozen=True)
class StepImages:
    """The images of one step, of all processes together.

    Attributes:
        first: position of the first in the stream of samples. count: how many.
        queries: most questions for each.
        at_once: images of a batch; None for all that a process has in one batch.
    """

    first: int
    count: int
    queries: int
    at_once: int | None = None


class Objective(nn.Module):
    """The paper's losses. Those of another recipe may have parameters, which train beside the model.

    Its tensors, if there are any, are saved in checkpoints as `objective.safetensors`.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    def forward(self, model: CoresModel, batch: Batch, step: int, counts: Counts) -> Losses:
        """Run the model on one batch and compute its losses.

        Args:
            step: number of the step, from 0.
            counts: divisors for the whole step, of which the batch is a part.
        """
        return self.chain_losses(model, model(batch), batch, counts)

    def chain_losses(self, model: CoresModel, output: ChainOutput, batch: Batch, counts: Counts) -> Losses:
        """The paper's losses of a whole forward."""
        supervision = self.config.chain.c1_supervision
        return compute_losses(output, batch, model.segmenter, self.config.loss, counts, supervision)

    def about(self) -> dict[str, Any]:
        """Facts for `checkpoint.json`."""
        return {}

    def restore(self, checkpoint: Path, about: Mapping[str, Any]) -> None:
        """Take the tensors of the checkpoint that a run starts from or continues, if they fit.

        Args:
            about: facts of that checkpoint.
        """


@dataclass(frozen=True)
class Recipe:
    """The paper's training. Holds settings only, so that it can be copied to data loading processes."""

    config: Config

    @property
    def optimizer(self) -> str:
        """Name of the optimiser; DeepSpeed trains with `adamw` alone."""
        return "adamw"

    @property
    def prefers_deepspeed(self) -> bool:
        """Whether several processes train on DeepSpeed if the settings leave the choice open."""
        return True

    @property
    def fewest_images(self) -> int:
        """Images of the step with the fewest; each process needs one."""
        return self.config.train.global_batch_size

    def sample_options(self) -> SampleOptions:
        """How images become samples."""
        train = self.config.train
        return SampleOptions(
            queries=train.queries_per_image,
            max_image_size=train.max_image_size,
            random_flip=train.random_flip,
            explanatory=self.config.mixture.explanatory,
            no_target=self.config.mixture.no_target,
            keep=train.cache_images,
            with_key=train.embedding_cache is not None,
        )

    def images_of(self, step: int) -> StepImages:
        """What a step (from 0) reads."""
        train, count = self.config.train, self.config.train.global_batch_size
        return StepImages(step * count, count, train.queries_per_image, train.micro_batch_size)

    def collate(self, processor: Processor, step: int, samples: Sequence[Sample], rows: Sequence[Rows]) -> Batch:
        """Make a batch of B images for a step."""
        return processor.collate_tokenized(samples, rows)

    def build_objective(self, model: CoresModel, stores: Sequence[Store]) -> Objective:
        """The losses for a model and its training data; random tensors come from torch's global generator."""
        return Objective(self.config)

    def build_optimizers(self, module: nn.Module, fused: bool = False) -> list[torch.optim.Optimizer]:
        """Optimisers over everything in `module` that trains, with their peak learning rates.

        Args:
            fused: run AdamW as one kernel, for parameters on CUDA.
        """
        return [build_adamw([{"params": trainable(module)}], self.config.train, fused)]

    def learning_rate_factor(self, step: int) -> float:
        """Factor on all learning rates in a step (from 0)."""
        return warmup_decay(step, self.config.train.steps, self.config.train)


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """All parameters that train, in the module's order."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def build_adamw(groups: list[dict[str, Any]], train: TrainConfig, fused: bool = False) -> torch.optim.AdamW:
    """AdamW with the settings of a training on torch's parameter groups, each of which may have a rate of its own."""
    return torch.optim.AdamW(
        groups, lr=train.learning_rate, betas=train.betas, weight_decay=train.weight_decay, fused=fused or None
    )


def warmup_decay(step: int, steps: int, train: TrainConfig, peak: float = 1.0) -> float:
    """Learning rate factor: linear warm-up to `peak`, constant, then linear decay to 0 in the last `lr_decay_fraction`.

    Args:
        step: from 0. steps: number of steps of the training, or of one of its phases.
    """
    if step < train.warmup_steps:
        return peak * (step + 1) / train.warmup_steps
    decay = train.lr_decay_fraction * (steps - train.warmup_steps)
    return peak * min(1.0, max(0.0, (steps - step) / max(decay, 1)))
