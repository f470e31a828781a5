"""A stand-in for pretraining: named prototypes that pixels and prompts learn to agree on.

The paper starts from a pretrained SAM and a pretrained MLLM. A model that starts from random weights has neither, and
the mask losses alone teach it slowly, because the text side and the image side must find each other first. Here each
category of the data has one prototype vector of width C. Cross entropy draws SAM's image embedding at a pixel to the
prototype of what is shown there, and the last step's prompt to the prototype of what is asked for. The prototypes are
used in training only; they are no part of the model.
Deviation: not in the paper. Off by default (`loss.concept: 0`); presets that build a model from scratch turn it on.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from cores_core.data.store import Store
from cores_core.model.cores import ChainOutput
from cores_core.model.processor import Batch

KINDS = ("part", "object")


class ConceptHead(nn.Module):
    """K prototypes of width C, and one for the background of each kind of category."""

    def __init__(self, categories: dict[str, str], width: int) -> None:
        """Begin at random.

        Args:
            categories: name and kind ("part" or "object") of each of the K categories.
            width: C.
        """
        super().__init__()
        self.index = {name: number for number, name in enumerate(categories)}
        kinds = list(categories.values())
        self.members = {kind: [i for i, other in enumerate(kinds) if other == kind] for kind in KINDS}
        self.prototypes = nn.Parameter(torch.randn(len(categories), width) / width**0.5)
        self.backgrounds = nn.Parameter(torch.randn(len(KINDS), width) / width**0.5)

    def forward(self, output: ChainOutput, batch: Batch) -> Tensor:
        """The pixel loss and the prompt loss of a whole forward; a scalar."""
        asked = torch.tensor([self.index[name] for name in batch.categories], device=output.refined.device)
        prompt_loss = functional.cross_entropy(output.prompts[-1] @ self.prototypes.T, asked)
        return prompt_loss + self.pixel_loss(output.image_embeddings, batch)

    def pixel_loss(self, image_embeddings: Tensor, batch: Batch) -> Tensor:
        """Cross entropy of (B, C, h, w) embeddings with what the scenes show, summed over both kinds; a scalar."""
        total = image_embeddings.new_zeros(())
        for number, kind in enumerate(KINDS):
            prototypes = torch.cat([self.backgrounds[number : number + 1], self.prototypes[self.members[kind]]])
            logits = torch.einsum("bchw,kc->bkhw", image_embeddings, prototypes)
            total = total + functional.cross_entropy(logits, self._pixel_targets(batch, kind, logits))
        return total

    def _pixel_targets(self, batch: Batch, kind: str, logits: Tensor) -> Tensor:
        """(B, 1 + K of this kind, h, w): the share of each grid cell that each category covers, background first."""
        columns = {member: column for column, member in enumerate(self.members[kind], start=1)}
        targets = torch.zeros_like(logits)
        for image, (things, maps) in enumerate(zip(batch.things, batch.thing_maps, strict=True)):
            shares = functional.adaptive_avg_pool2d(maps.to(logits.dtype) / 255, (logits.shape[2], logits.shape[3]))
            for (name, of_kind), share in zip(things, shares, strict=True):
                if of_kind == kind:
                    targets[image, columns[self.index[name]]] = share
        targets[:, 0] = (1 - targets.sum(1)).clamp(min=0)
        return targets / targets.sum(1, keepdim=True)


def collect_categories(stores: list[Store]) -> dict[str, str]:
    """Name and kind of every category in the stores, in alphabetical order."""
    found = {region.category: region.kind for store in stores for record in store for region in record.regions}
    return dict(sorted(found.items()))
