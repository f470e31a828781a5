"""A stand-in for pretraining: named prototypes that pixels, prompts and masks learn to agree on.

The paper starts from a pretrained SAM and a pretrained MLLM. A model that starts from random weights has neither, and
the mask losses alone teach it slowly, because the text side and the image side must find each other first. Here each
category of the data has one prototype vector of width C. Cross entropy draws SAM's image embedding at a pixel to the
prototype of what is shown there, and the prompts of the text chain to the prototype of what is asked for. Before there
is any text to read, SAM is pretrained with the prototypes themselves as its prompts; then the MLLM learns to give them.
The prototypes are used in training only; they are no part of the model.
Deviation: not in the paper. Off by default (`loss.concept: 0`); presets that build a model from scratch turn it on.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from cores_core.data.store import Store
from cores_core.model.cores import ChainOutput, TextOutput
from cores_core.model.processor import Batch
from cores_core.model.segmenter import DECODER_SCALE

KINDS = ("part", "object")
SHARPNESS = 4.0
"""Factor on squared distances between prompts and prototypes, which are some units, in the cross entropy."""


class ConceptHead(nn.Module):
    """K prototypes of width C, one for the background of each kind of category, and a look inside each cell."""

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
        self.detail = nn.ConvTranspose2d(width, width, kernel_size=DECODER_SCALE, stride=DECODER_SCALE)

    def forward(self, output: ChainOutput, batch: Batch) -> Tensor:
        """The pixel loss and the prompt loss of a whole forward; a scalar."""
        return self.prompt_loss(output.text, batch) + self.pixel_loss(output.features[-1], batch)

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
        """Cross entropy of (B, C, h, w) embeddings with what the scenes show.

        Summed over both kinds of category and both resolutions, the embedding's own and the decoder's; a scalar.
        """
        targets = torch.stack([self._coverage(batch, image) for image in range(len(batch.things))])
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
        maps = batch.thing_maps[image]
        covered = maps.new_zeros((len(self.index), *maps.shape[1:]), dtype=torch.float32)
        covered[[self.index[name] for name, _ in batch.things[image]]] = maps / 255
        return covered

    def _asked(self, batch: Batch) -> Tensor:
        return torch.tensor([self.index[name] for name in batch.categories], device=self.prototypes.device)


def collect_categories(stores: list[Store]) -> dict[str, str]:
    """Name and kind of every category in the stores, in alphabetical order."""
    return dict(sorted(item for store in stores for item in store.categories().items()))


def _shares(coverage: Tensor) -> Tensor:
    """From (B, K, h, w) to (B, 1 + K, h, w) with the background in front, summing to 1."""
    background = (1 - coverage.sum(1, keepdim=True)).clamp(min=0)
    shares = torch.cat([background, coverage], dim=1)
    return shares / shares.sum(1, keepdim=True)
