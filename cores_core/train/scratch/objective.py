"""Losses of the training from random weights: prototypes that pixels, prompts and masks learn to agree on.

Each category of the data has one prototype, a vector of SAM's prompt width C. Cross entropy pulls SAM's image embedding
at a pixel to the prototype of what is shown there, and the MLLM's prompts to the prototype of what is asked for. In the
first phase the prototypes themselves are SAM's prompts. They are used in training only and are no part of the model.
Deviation: not in the paper.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cores_core.config import Config
from cores_core.data.store import Store
from cores_core.errors import CheckpointError
from cores_core.model.checkpoint import load_objective
from cores_core.model.cores import CoresModel, TextOutput
from cores_core.model.losses import Counts, Losses, mask_losses, text_loss
from cores_core.model.processor import Batch
from cores_core.model.segmenter import DECODER_SCALE
from cores_core.train.recipe import Objective

KINDS = ("part", "object")
SHARPNESS = 4.0
"""Factor on squared distances between prompts and prototypes, which are some units, in the cross entropy."""
LOSS_NAME = "concept"
"""Name of the prototype loss in `metrics.jsonl` and on the board, kept from the first runs."""


class ScratchObjective(Objective):
    """The losses of the three phases, with K prototypes of width C and one for the background of each kind.

    Batches hold in `extras`: `asked`, N category names of the masks; `shown`, for each image the names of its K_b
    annotated categories; `coverage`, for each image (K_b, 4h, 4w) uint8 how much of each decoder pixel they cover.
    """

    def __init__(self, config: Config, categories: Mapping[str, str], width: int) -> None:
        """Begin at random.

        Args:
            categories: name and kind ("part" or "object") of each of the K categories.
            width: C.
        """
        super().__init__(config)
        self.index = {name: number for number, name in enumerate(categories)}
        kinds = list(categories.values())
        self.members = {kind: [i for i, other in enumerate(kinds) if other == kind] for kind in KINDS}
        self.prototypes = nn.Parameter(torch.randn(len(categories), width) / width**0.5)
        self.backgrounds = nn.Parameter(torch.randn(len(KINDS), width) / width**0.5)
        self.detail = nn.ConvTranspose2d(width, width, kernel_size=DECODER_SCALE, stride=DECODER_SCALE)

    def forward(self, model: CoresModel, batch: Batch, step: int, counts: Counts) -> Losses:
        """The losses of the phase that a step is in; what a phase does not train has a loss of 0."""
        scratch = self.config.scratch
        if step < scratch.sam_steps:
            return self._sam_losses(model, batch, counts)
        if step < scratch.sam_steps + scratch.align_steps:
            return self._text_losses(model, batch, counts)
        output = model(batch)
        prototype = self.prompt_loss(output.text, batch) + self.pixel_loss(output.features[-1], batch)
        return self._with_prototype(self.chain_losses(model, output, batch, counts), prototype, counts)

    def about(self) -> dict[str, Any]:
        """The names of the prototypes, in order."""
        return {"categories": list(self.index)}

    def restore(self, checkpoint: Path, about: Mapping[str, Any]) -> None:
        """Take the prototypes of a checkpoint with the same categories.

        Raises:
            CheckpointError: it should have prototypes, and has none.
        """
        if about.get("categories") != list(self.index):
            return
        tensors = load_objective(checkpoint)
        if not tensors:
            raise CheckpointError(f"the prototypes are missing in: {checkpoint}", hint="copy the whole folder again")
        self.load_state_dict(tensors)

    def _sam_losses(self, model: CoresModel, batch: Batch, counts: Counts) -> Losses:
        weights = self.config.loss
        features = model.segmenter.encode(batch.sam_pixels)
        prompts = (self.prompts(batch),) * len(model.chain_ids)
        masks = model.segment(features, prompts, batch.image_index)[-1]
        bce, dice = mask_losses(masks, batch, model.segmenter, counts.masks)
        total = weights.mask * (weights.bce * bce + weights.dice * dice)
        losses = Losses(total, torch.zeros_like(total), bce, dice)
        return self._with_prototype(losses, self.pixel_loss(features[-1], batch), counts)

    def _text_losses(self, model: CoresModel, batch: Batch, counts: Counts) -> Losses:
        output = model.reason(batch)
        loss = text_loss(output, counts.tokens)
        none = torch.zeros_like(loss)
        losses = Losses(self.config.loss.text * loss, loss, none, none)
        return self._with_prototype(losses, self.prompt_loss(output, batch), counts)

    def _with_prototype(self, losses: Losses, prototype: Tensor, counts: Counts) -> Losses:
        """Add the prototype loss, a mean over the batches of a step."""
        prototype = prototype / counts.batches
        total = losses.total + self.config.scratch.prototype_loss * prototype
        return replace(losses, total=total, extras={LOSS_NAME: prototype})

    def prompt_loss(self, text: TextOutput, batch: Batch) -> Tensor:
        """How far the prompts are from the prototypes of what is asked for, which stay where they are.

        Cross entropy among all categories by nearness, and squared distance, averaged over the chain; a scalar.
        """
        prototypes, asked = self.prototypes.detach(), self._asked(batch)
        total = prototypes.new_zeros(())
        for prompts in text.prompts:
            distances = (prompts[:, None] - prototypes).square().sum(2)
            total = total + functional.cross_entropy(-SHARPNESS * distances, asked)
            total = total + distances.gather(1, asked[:, None]).mean()
        return total / len(text.prompts)

    def prompts(self, batch: Batch) -> Tensor:
        """(N, C) the prototypes of what is asked for: prompts for a SAM that has no language model yet."""
        return self.prototypes[self._asked(batch)]

    def pixel_loss(self, image_embeddings: Tensor, batch: Batch) -> Tensor:
        """Cross entropy of (B, C, h, w) embeddings with what the images show.

        Summed over both kinds of category and both resolutions, the embedding's own and the decoder's; a scalar.
        """
        targets = torch.stack([self._coverage(batch, image) for image in range(len(batch.counts))])
        views = (
            (image_embeddings, functional.avg_pool2d(targets, DECODER_SCALE)),
            (self.detail(image_embeddings), targets),
        )
        total = image_embeddings.new_zeros(())
        for embeddings, coverage in views:
            for number, kind in enumerate(KINDS):
                prototypes = torch.cat([self.backgrounds[number : number + 1], self.prototypes[self.members[kind]]])
                logits = torch.einsum("bchw,kc->bkhw", embeddings, prototypes)
                total = total + functional.cross_entropy(logits, _shares(coverage[:, self.members[kind]]))
        return total

    def _coverage(self, batch: Batch, image: int) -> Tensor:
        """(K, 4h, 4w): how much of each fine cell each category covers, 0 to 1."""
        maps = batch.extras["coverage"][image]
        covered: Tensor = maps.new_zeros((len(self.index), *maps.shape[1:]), dtype=torch.float32)
        covered[[self.index[name] for name in batch.extras["shown"][image]]] = maps / 255
        return covered

    def _asked(self, batch: Batch) -> Tensor:
        """(N,) numbers of the categories that the masks show."""
        return torch.tensor([self.index[name] for name in batch.extras["asked"]], device=self.prototypes.device)


def collect_categories(stores: Sequence[Store]) -> dict[str, str]:
    """Name and kind of every category in the stores, in alphabetical order."""
    return dict(sorted(item for store in stores for item in store.categories().items()))


def _shares(coverage: Tensor) -> Tensor:
    """From (B, K, h, w) to (B, 1 + K, h, w) with the background in front, summing to 1."""
    background = (1 - coverage.sum(1, keepdim=True)).clamp(min=0)
    shares = torch.cat([background, coverage], dim=1)
    return shares / shares.sum(1, keepdim=True)
