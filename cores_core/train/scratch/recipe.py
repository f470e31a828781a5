"""Training from random weights in three phases: SAM alone, the MLLM alone, the whole model.

The paper starts from a pretrained SAM and a pretrained MLLM. A model that starts from random weights has neither, and
the mask losses alone teach it slowly, because text side and image side must find each other first. Prototypes of the
categories stand in for the missing half (`objective.py`): the first phase trains SAM with the prototypes as prompts,
the second the MLLM to give these prompts, the third everything. Muon (`muon.py`) takes fewer steps than AdamW.
Deviation: not in the paper. The embedded model was trained so; settings: `scratch`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from cores_core.config import ScratchConfig, TrainConfig
from cores_core.data.mixture import SampleOptions
from cores_core.data.store import Store
from cores_core.masks import resize_mask
from cores_core.model.cores import CoresModel
from cores_core.model.processor import Batch, Processor
from cores_core.model.segmenter import Frame
from cores_core.sample import Query, Sample
from cores_core.train.recipe import Objective, Recipe, Rows, StepImages, build_adamw, trainable, warmup_decay
from cores_core.train.scratch.muon import Muon, hidden_matrices
from cores_core.train.scratch.objective import ScratchObjective, collect_categories


class ScratchRecipe(Recipe):
    """What differs from the paper's training; each of the settings in `scratch` works without the others."""

    @property
    def optimizer(self) -> str:
        """`muon` or `adamw`."""
        return self.config.scratch.optimizer

    @property
    def prefers_deepspeed(self) -> bool:
        """Muon and prototypes train on plain PyTorch."""
        return self.optimizer == "adamw" and not self.config.scratch.prototype_loss

    @property
    def fewest_images(self) -> int:
        """Images of a step in the phase with the fewest."""
        scratch, images = self.config.scratch, self.config.train.global_batch_size
        return min(images, scratch.sam_images) if scratch.sam_steps else images

    def sample_options(self) -> SampleOptions:
        """With all annotations for the prototypes, and with dropped words."""
        scratch = self.config.scratch
        return replace(
            super().sample_options(),
            with_annotations=scratch.prototype_loss > 0,
            augment_query=DropWords(scratch.word_dropout) if scratch.word_dropout else None,
        )

    def images_of(self, step: int) -> StepImages:
        """In the first phase `sam_images` in one batch; later steps read the images after those of the first phase."""
        scratch = self.config.scratch
        if step < scratch.sam_steps:
            return StepImages(step * scratch.sam_images, scratch.sam_images, scratch.sam_queries)
        later = super().images_of(step - scratch.sam_steps)
        return replace(later, first=scratch.sam_steps * scratch.sam_images + later.first)

    def collate(self, processor: Processor, step: int, samples: Sequence[Sample], rows: Sequence[Rows]) -> Batch:
        """Add what the prototypes need (see `ScratchObjective`); the first phase reads no text."""
        is_text = step >= self.config.scratch.sam_steps
        batch = super().collate(processor, step, samples, rows) if is_text else processor.collate_images(samples)
        if not self.config.scratch.prototype_loss:
            return batch
        sized = [(sample, size.resized_hw) for sample, size in zip(samples, batch.sizes, strict=True)]
        extras = {
            "asked": tuple(category for sample in samples for category in sample.categories),
            "shown": tuple(tuple(entry.category for entry in sample.annotations) for sample in samples),
            "coverage": tuple(coverage_maps(sample, hw, processor.frame) for sample, hw in sized),
        }
        return replace(batch, extras=extras)

    def build_objective(self, model: CoresModel, stores: Sequence[Store]) -> Objective:
        """With a prototype for each category of the data."""
        if not self.config.scratch.prototype_loss:
            return super().build_objective(model, stores)
        return ScratchObjective(self.config, collect_categories(stores), model.segmenter.width)

    def build_optimizers(self, module: nn.Module, fused: bool = False) -> list[torch.optim.Optimizer]:
        """AdamW, with a rate of its own for embedding tables, and Muon."""
        train, scratch = self.config.train, self.config.scratch
        matrices = hidden_matrices(module) if scratch.optimizer == "muon" else []
        taken = {id(parameter) for parameter in matrices}
        rest = [parameter for parameter in trainable(module) if id(parameter) not in taken]
        tables = {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Embedding)}
        groups = [
            {"params": [p for p in rest if id(p) not in tables], "lr": train.learning_rate},
            {"params": [p for p in rest if id(p) in tables], "lr": train.learning_rate * scratch.embedding_lr_scale},
        ]
        groups = [group for group in groups if group["params"]]
        optimizers: list[torch.optim.Optimizer] = [build_adamw(groups, train, fused)]
        if matrices:
            optimizers.append(Muon(matrices, lr=scratch.muon_learning_rate, weight_decay=train.weight_decay))
        return optimizers

    def learning_rate_factor(self, step: int) -> float:
        """Each phase rises and falls by itself; the third reaches `joint_lr_scale`."""
        return phase_factor(step, self.config.train, self.config.scratch)


def phase_factor(step: int, train: TrainConfig, scratch: ScratchConfig) -> float:
    """Factor on the learning rate of a step (from 0)."""
    bounds = (0, scratch.sam_steps, scratch.sam_steps + scratch.align_steps, train.steps)
    phase = max(number for number in range(3) if bounds[number] <= step)
    peak = scratch.joint_lr_scale if phase == 2 else 1.0
    return warmup_decay(step - bounds[phase], bounds[phase + 1] - bounds[phase], train, peak)


def fixed_settings(scratch: ScratchConfig) -> dict[str, object]:
    """Settings that the saved optimiser state of a run depends on, by name."""
    return {"scratch.optimizer": scratch.optimizer, "scratch.prototype_loss": scratch.prototype_loss > 0}


@dataclass(frozen=True)
class DropWords:
    """Leaves out each word of a query with probability `share`, so that the model relies on no single word."""

    share: float

    def __call__(self, query: Query, rng: np.random.Generator) -> Query:
        """A query that lost all its words keeps them all."""
        words = query.text.split()
        kept = [word for word, value in zip(words, rng.random(len(words)), strict=True) if value >= self.share]
        return replace(query, text=" ".join(kept or words))


def coverage_maps(sample: Sample, resized_hw: tuple[int, int], frame: Frame) -> Tensor:
    """Coverage of each decoder pixel by each of K annotations, (K, s, s) uint8 from 0 to 255."""
    side = frame.mask_side
    maps = np.zeros((len(sample.annotations), side, side), dtype=np.uint8)
    for number, entry in enumerate(sample.annotations):
        square = np.zeros((frame.side, frame.side), dtype=np.uint8)
        square[: resized_hw[0], : resized_hw[1]] = resize_mask(entry.mask.astype(np.uint8) * np.uint8(255), resized_hw)
        maps[number] = resize_mask(square, (side, side))
    return torch.from_numpy(maps)
