"""A stock multimodal LLM: hidden states of packed sequences, and greedy decoding.

Packed sequences (see `processor.py`) need no change of the model: a 4-D attention mask lets each branch attend to the
prefix and itself, and positions restart in each branch. Differences between model families are in `Family`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from cores_core.model.families.table import Family
from cores_core.model.processor import PADDING, PREFIX, Batch
from cores_core.model.visibility import Places, additive_mask
from cores_core.model.weights.transformers_io import tied_names

VisionOutput = Any
"""Outputs of a vision tower in transformers' terms; its `pooler_output` are the projected features of each image."""


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

    def forward(self, batch: Batch, vision_output: VisionOutput | None = None) -> Tensor:
        """Hidden states of the last layer, after the final norm, (R, T, D).

        `vision_output` is that of `encode_vision` if already known.
        """
        places = Places(batch.sequence_ids, batch.position_ids, self._is_image(batch.input_ids))
        hidden = self._read(batch, self._attention(places, places), self._positions(batch), vision_output=vision_output)
        return hidden.to(batch.input_ids.device)  # the last layer may be on another device (device_map="auto")

    def logits(self, hidden: Tensor) -> Tensor:
        """Vocabulary logits (..., V) of hidden states (..., D), with the image placeholder token masked out."""
        scores: Tensor = self.net.lm_head(hidden).to(hidden.device)
        images = torch.arange(scores.shape[-1], device=scores.device) == self.net.config.image_token_id
        return scores.masked_fill(images, torch.finfo(scores.dtype).min)

    @torch.no_grad()
    def generate(
        self, batch: Batch, end_id: int, limit: int, vision_output: VisionOutput | None = None
    ) -> list[list[int]]:
        """Greedily decode the answers of all open turns of one row in parallel, sharing the prefix.

        Args:
            batch: one image in one row, whose turns have no answer yet.
            end_id: id of the token that ends an answer.
            limit: maximum number of tokens per answer.
            vision_output: of `encode_vision` if already known.

        Returns:
            The ids of each turn, including the end token if it was generated.
        """
        cache = DynamicCache() if self.family.packs else DynamicCache(config=self.text_config)
        seen = Places(batch.sequence_ids, batch.position_ids, self._is_image(batch.input_ids))
        position_ids = self._positions(batch)
        hidden = self._read(batch, self._attention(seen, seen), position_ids, cache, vision_output)
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
            hidden = self.net.model(
                input_ids=tokens,
                attention_mask=self._attention(new, seen),
                position_ids=position_ids,
                cache=cache,
                use_cache=True,
            ).last_hidden_state.to(numbers.device)
        return answers

    def _vision(self, batch: Batch) -> dict[str, Tensor]:
        return {n: t.to(self.net.dtype) if t.is_floating_point() else t for n, t in batch.vision.items()}

    def _read(
        self,
        batch: Batch,
        mask: Any,
        position_ids: Tensor,
        cache: DynamicCache | None = None,
        vision_output: VisionOutput | None = None,
    ) -> Tensor:
        if self.family.merges_images:
            inputs: dict[str, Any] = {"inputs_embeds": self._merge_images(batch, vision_output)}
        elif vision_output is None:
            inputs = {"input_ids": batch.input_ids, **self._vision(batch)}
        else:
            inputs = {"input_ids": batch.input_ids, "mm_encoder_outputs": {"image": vision_output}}
        output = self.net.model(
            attention_mask=mask, position_ids=position_ids, cache=cache, use_cache=cache is not None, **inputs
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

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
