"""A stock multimodal LLM: packed tokens and images in, hidden states out; and greedy writing of answers.

Packed sequences (see `processor.py`) need no special model: a 4-D attention mask lets each branch see the prefix and
itself only, and positions start again in each branch.
"""

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, DynamicCache, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from cores_core.config import LanguageConfig, VisionConfig
from cores_core.model.processor import PADDING, PREFIX, Batch


class Mllm(nn.Module):
    """A LLaVA-style model. D is the width of its hidden states."""

    def __init__(self, llava: LlavaForConditionalGeneration) -> None:
        super().__init__()
        self.llava = llava

    @property
    def width(self) -> int:
        """D, the width of a hidden state."""
        return int(self.llava.config.text_config.hidden_size)

    def forward(self, batch: Batch) -> Tensor:
        """Last-layer hidden states (after the final norm), (B, T, D)."""
        output = self.llava.model(
            input_ids=batch.input_ids,
            pixel_values=batch.mllm_pixels.to(self.llava.dtype),
            attention_mask=self._attention(batch.branches, batch.branches, causal=True),
            position_ids=batch.positions,
            use_cache=False,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden.to(batch.input_ids.device)  # which is elsewhere if the layers are spread over devices

    def logits(self, hidden: Tensor) -> Tensor:
        """Vocabulary logits of hidden states (..., D); nobody can write an image."""
        scores: Tensor = self.llava.lm_head(hidden).to(hidden.device)
        images = torch.arange(scores.shape[-1], device=scores.device) == self.llava.config.image_token_id
        return scores.masked_fill(images, torch.finfo(scores.dtype).min)

    @torch.no_grad()
    def generate(self, batch: Batch, end_id: int, limit: int) -> list[list[int]]:
        """Write the answers of one image's open turns greedily, all together, the prefix read once.

        Args:
            batch: one image whose turns have no answer yet.
            end_id: the token that ends an answer.
            limit: the most tokens an answer may have.

        Returns:
            For each turn its ids, with the end token if it was written.
        """
        cache = DynamicCache(config=self.llava.config.text_config)
        seen, turns = batch.branches, batch.counts[0]
        output = self.llava.model(
            input_ids=batch.input_ids,
            pixel_values=batch.mllm_pixels.to(self.llava.dtype),
            attention_mask=self._attention(seen, seen, causal=True),
            position_ids=batch.positions,
            cache=cache,
            use_cache=True,
        )
        numbers = torch.arange(1, turns + 1, device=seen.device)[None]  # (1, N) branch of each new token
        last = torch.stack([(seen[0] == number).nonzero().max() for number in numbers[0]])
        hidden, positions = output.last_hidden_state.to(seen.device)[:, last], batch.positions[:, last]
        answers: list[list[int]] = [[] for _ in range(turns)]
        for _ in range(limit):
            tokens = self.logits(hidden).argmax(dim=-1)  # (1, N)
            for answer, token in zip(answers, tokens[0].tolist(), strict=True):
                if not answer or answer[-1] != end_id:
                    answer.append(token)
            if all(answer[-1] == end_id for answer in answers):
                break
            seen, positions = torch.cat([seen, numbers], dim=1), positions + 1
            hidden = self.llava.model(
                input_ids=tokens,
                attention_mask=self._attention(numbers, seen, causal=False),
                position_ids=positions,
                cache=cache,
                use_cache=True,
            ).last_hidden_state.to(seen.device)
        return answers

    def _attention(self, queries: Tensor, keys: Tensor, causal: bool) -> Tensor:
        """Additive mask (B, 1, Tq, Tk): a token sees the prefix and its own branch, and with `causal` nothing later."""
        same = (keys[:, None] == queries[:, :, None]) | ((keys == PREFIX)[:, None] & (queries != PADDING)[:, :, None])
        if causal:
            same = same & torch.ones_like(same[0]).tril()
        dtype = self.llava.dtype
        return torch.where(same[:, None], torch.zeros((), dtype=dtype, device=keys.device), torch.finfo(dtype).min)


def build_mllm(language: LanguageConfig, vision: VisionConfig, image_token_id: int) -> Mllm:
    """Build a LLaVA with random weights from its sizes: a Llama, a CLIP vision tower, a projector.

    A projector of one layer is one of two whose second does nothing: its weights must be the identity.
    """
    text = LlamaConfig(
        hidden_size=language.width,
        num_hidden_layers=language.layers,
        num_attention_heads=language.heads,
        num_key_value_heads=language.key_heads or language.heads,
        intermediate_size=language.mlp,
        vocab_size=language.vocabulary,
        max_position_embeddings=language.positions,
        rms_norm_eps=language.norm_epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": language.rope_theta},
        initializer_range=language.width**-0.5,
    )
    tower = CLIPVisionConfig(
        hidden_size=vision.width,
        intermediate_size=vision.mlp or 4 * vision.width,
        num_hidden_layers=vision.layers,
        num_attention_heads=vision.heads,
        image_size=vision.image_size,
        patch_size=vision.patch_size,
    )
    config = LlavaConfig(
        text_config=text,
        vision_config=tower,
        image_token_id=image_token_id,
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
        vision_feature_layer=vision.read_layer,
        projector_hidden_act="gelu" if vision.projector_layers == 2 else "linear",
        tie_word_embeddings=False,
    )
    return Mllm(LlavaForConditionalGeneration(config))
