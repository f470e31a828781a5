"""A stock multimodal LLM: hidden states of packed sequences, and greedy decoding.

Packed sequences (see `processor.py`) need no change of the model: a 4-D attention mask lets each branch attend to the
prefix and itself, and positions restart in each branch. Differences between model families are in `Family`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache, PreTrainedModel

from cores_core.model.families.table import Family
from cores_core.model.processor import PADDING, PREFIX, Batch
from cores_core.model.visibility import Places, additive_mask
from cores_core.model.weights.transformers_io import tied_names

VisionOutput = Any
"""Outputs of a vision tower in transformers' terms; its `pooler_output` are the projected features of each image."""


class PrefixCache:
    """Keys and values of an image's prefix, kept from the first pass that reads it for later questions about it.

    For one packed row; `length` is the number of prefix tokens kept, 0 before the first pass.
    """

    def __init__(self) -> None:
        self._layers: list[tuple[Tensor, Tensor]] = []
        self.length = 0

    @property
    def nbytes(self) -> int:
        """Memory of what is kept; that of the whole first pass, of whose keys and values it is a view."""
        return sum(tensor.untyped_storage().nbytes() for layer in self._layers for tensor in layer)

    def begin(self) -> DynamicCache:
        """A cache for one pass, which starts with what is kept."""
        return DynamicCache(self._layers or None)

    def keep(self, cache: DynamicCache, length: int) -> None:
        """Keep the first `length` tokens of a cache, if nothing was kept before."""
        if not self._layers:
            self._layers = [(layer.keys[..., :length, :], layer.values[..., :length, :]) for layer in cache.layers]
            self.length = length


class Mllm(nn.Module):
    """A multimodal LLM of transformers with hidden size D and vocabulary size V."""

    def __init__(self, net: PreTrainedModel, family: Family) -> None:
        super().__init__()
        self.net = net
        self.family = family

    @property
    def width(self) -> int:
        """D, the hidden size."""
        return int(self.text_config.hidden_size)

    @property
    def kind(self) -> str:
        """`model_type` of its transformers config."""
        return str(self.net.config.model_type)

    @property
    def text_config(self) -> Any:
        """The transformers config of the language model."""
        return self.net.config.get_text_config()

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """Submodules by user-facing name; a head tied to the embedding is left out."""
        inner, family = self.net.model, self.family
        parts = {"language model": getattr(inner, family.language)}
        if not self.is_tied:
            parts["vocabulary head"] = self.net.lm_head
        parts["vision tower"] = getattr(inner, family.vision)
        if family.projector is not None:
            parts["projector"] = getattr(inner, family.projector)
        return parts

    @property
    def is_tied(self) -> bool:
        """Whether vocabulary head and token embedding share their weights."""
        return bool(tied_names(self.net))

    @torch.no_grad()
    def encode_vision(self, batch: Batch) -> VisionOutput:
        """Outputs of the vision tower and the projector for the images of a batch, without gradients."""
        return self.net.model.get_image_features(**self._vision(batch), return_dict=True)

    def forward(
        self, batch: Batch, vision_output: VisionOutput | None = None, prefix: PrefixCache | None = None
    ) -> Tensor:
        """Hidden states of the last layer, after the final norm, (R, T, D).

        Args:
            vision_output: that of `encode_vision` if already known.
            prefix: of the one row of a packed batch: used if it is filled, else filled. With a filled one, the hidden
                states of the prefix are zeros.
        """
        if prefix is not None:
            hidden = self._read_row(batch, prefix.begin(), prefix)
        else:
            places = self._places(batch)
            inputs = self._inputs(batch, vision_output)
            hidden = self._read(inputs, self._attention(places, places), self._positions(batch))
        return hidden.to(batch.input_ids.device)  # the last layer may be on another device (device_map="auto")

    def logits(self, hidden: Tensor) -> Tensor:
        """Vocabulary logits (..., V) of hidden states (..., D), with the image placeholder token masked out."""
        scores: Tensor = self.net.lm_head(hidden).to(hidden.device)
        scores[..., self.net.config.image_token_id] = torch.finfo(scores.dtype).min
        return scores

    @torch.no_grad()
    def generate(self, batch: Batch, end_id: int, limit: int, prefix: PrefixCache | None = None) -> list[list[int]]:
        """Greedily decode the answers of all open turns of one row in parallel, sharing the prefix.

        Args:
            batch: one image in one row, whose turns have no answer yet.
            end_id: id of the token that ends an answer.
            limit: maximum number of tokens per answer.
            prefix: of a packed row, as for `forward`.

        Returns:
            The ids of each turn, including the end token if it was generated.
        """
        prefix = prefix or PrefixCache()
        cache = prefix.begin() if self.family.packs else DynamicCache(config=self.text_config)
        seen, position_ids = self._places(batch), self._positions(batch)
        hidden = self._read_row(batch, cache, prefix)
        sequence_ids = torch.unique(seen.sequence_ids[0])  # in ascending order
        numbers = sequence_ids[sequence_ids > PREFIX][None]  # (1, N) branch of each new token
        last = torch.stack([(seen.sequence_ids[0] == number).nonzero().max() for number in numbers[0]])
        new = Places(numbers, seen.order[:, last], torch.zeros_like(numbers, dtype=torch.bool))
        hidden, position_ids = hidden.to(numbers.device)[:, last], position_ids[..., last]
        answers: list[list[int]] = [[] for _ in last]
        for _ in range(limit):
            tokens = self.logits(hidden).argmax(dim=-1)  # (1, N)
            for answer, token in zip(answers, tokens[0].tolist(), strict=True):
                if not answer or answer[-1] != end_id:
                    answer.append(token)
            if all(answer[-1] == end_id for answer in answers):
                break
            new, position_ids = new._replace(order=new.order + 1), position_ids + 1
            seen = seen.followed_by(new)
            hidden = self._read({"input_ids": tokens}, self._attention(new, seen), position_ids, cache)
            hidden = hidden.to(numbers.device)
        return answers

    def _vision(self, batch: Batch) -> dict[str, Tensor]:
        return {n: t.to(self.net.dtype) if t.is_floating_point() else t for n, t in batch.vision.items()}

    def _read_row(self, batch: Batch, cache: DynamicCache, prefix: PrefixCache) -> Tensor:
        """Hidden states of one row, (1, T, D), adding its tokens to `cache`, which has the kept ones of `prefix`."""
        start, seen = prefix.length, self._places(batch)
        inputs = {"input_ids": batch.input_ids[:, start:]} if start else self._inputs(batch, None)
        new = Places(*(tensor[:, start:] for tensor in seen))
        hidden = self._read(inputs, self._attention(new, seen), self._positions(batch)[..., start:], cache)
        if self.family.packs:
            prefix.keep(cache, int((batch.sequence_ids == PREFIX).sum()))
        return functional.pad(hidden, (0, 0, start, 0))

    def _read(
        self, inputs: Mapping[str, Any], mask: Any, position_ids: Tensor, cache: DynamicCache | None = None
    ) -> Tensor:
        output = self.net.model(
            attention_mask=mask, position_ids=position_ids, cache=cache, use_cache=cache is not None, **inputs
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def _inputs(self, batch: Batch, vision_output: VisionOutput | None) -> dict[str, Any]:
        """Arguments of the model for the tokens and images of a batch."""
        if self.family.merges_images:
            return {"inputs_embeds": self._merge_images(batch, vision_output)}
        return {"input_ids": batch.input_ids, **self._vision(batch)}

    def _places(self, batch: Batch) -> Places:
        return Places(batch.sequence_ids, batch.position_ids, self._is_image(batch.input_ids))

    def _merge_images(self, batch: Batch, vision_output: VisionOutput | None) -> Tensor:
        """Embeddings of the tokens, (R, T, D), with the image features in place of the image tokens.

        As the model's own forward, but without its check on the host that there are as many tokens as features, for
        which a GPU must finish all work first: the prompts have that number by construction.
        """
        if vision_output is None:
            vision_output = self.net.model.get_image_features(**self._vision(batch), return_dict=True)
        embedded: Tensor = self.net.get_input_embeddings()(batch.input_ids)
        features = torch.cat(tuple(vision_output.pooler_output)).to(embedded.device, embedded.dtype)
        is_image = self._is_image(batch.input_ids)[..., None].to(embedded.device)
        return embedded.masked_scatter(is_image, features)

    def _is_image(self, input_ids: Tensor) -> Tensor:
        return input_ids.eq(self.net.config.image_token_id)

    def _positions(self, batch: Batch) -> Tensor:
        """Rotary position ids: (R, T), or (3, R, T) for M-RoPE.

        With M-RoPE an image advances the position by its longer side in tokens, so a branch starts at the maximum
        position of the prefix plus 1.
        """
        if not self.family.mrope:
            return batch.position_ids
        position_ids = batch.position_ids.expand(3, -1, -1).clone()
        for row, (ids, sequence_ids) in enumerate(zip(batch.input_ids, batch.sequence_ids, strict=True)):
            prefix = ids[sequence_ids == PREFIX][None]
            grid = batch.vision["image_grid_thw"][row : row + 1]
            found, _ = self.net.model.get_rope_index(prefix, self._is_image(prefix).int(), image_grid_thw=grid)
            length = prefix.shape[1]
            position_ids[:, row, :length] = found[:, 0]
            position_ids[:, row, length:] += found.max() + 1 - length
        self.net.model.rope_deltas = None  # set by get_rope_index; stale state would shift later calls
        return position_ids

    def _attention(self, queries: Places, keys: Places) -> Any:
        """The `attention_mask` argument: one additive mask, or one per layer type for sliding-window models."""
        if not self.family.packs:
            return (keys.sequence_ids != PADDING).long()  # (R, Tk); recurrent models build their own causal mask
        both_ways, dtype = self.family.sees_images_both_ways, self.net.dtype
        whole = additive_mask(queries, keys, both_ways, dtype)
        if "sliding_attention" not in (getattr(self.text_config, "layer_types", None) or ()):
            return whole
        window = additive_mask(queries, keys, both_ways, dtype, window=self.text_config.sliding_window)
        return {"full_attention": whole, "sliding_attention": window}
