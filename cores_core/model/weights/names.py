"""What the releases and the hub call their tensors, and what we call them: one table each, read in both directions."""

import re
from typing import Any

LANGUAGE = "mllm.net.model.language_model."
TOWER = "mllm.net.model.vision_tower."
FIRST_LAYER, SECOND_LAYER = (f"mllm.net.model.multi_modal_projector.linear_{number}." for number in (1, 2))
EMBEDDING, HEAD = f"{LANGUAGE}embed_tokens.weight", "mllm.net.lm_head.weight"

_PREFIXES = (
    ("model.layers.", f"{LANGUAGE}layers."),
    ("model.norm.", f"{LANGUAGE}norm."),
    ("model.embed_tokens.", f"{LANGUAGE}embed_tokens."),
    ("lm_head.", "mllm.net.lm_head."),
    ("model.vision_tower.vision_tower.vision_model.", TOWER),
    ("model.mm_projector.0.", FIRST_LAYER),
    ("model.mm_projector.2.", SECOND_LAYER),
    ("model.mm_projector.", FIRST_LAYER),
    ("model.visual_model.", "segmenter."),
    ("model.text_hidden_fcs.0.", "projection."),
    ("transformer_cross_attention_layers.multihead_attn.", "refiner.attention."),
    ("transformer_cross_attention_layers.norm.", "refiner.norm."),
)
"""Prefix in the releases, prefix in `CoresModel.state_dict()`."""
_HUB_PREFIXES = (
    ("language_model.model.", LANGUAGE),
    ("language_model.lm_head.", "mllm.net.lm_head."),
    ("vision_tower.vision_model.", TOWER),
    ("vision_tower.", TOWER),
    ("multi_modal_projector.", "mllm.net.model.multi_modal_projector."),
    ("model.vision_tower.vision_model.", TOWER),
    ("model.", "mllm.net.model."),
    ("lm_head.", "mllm.net.lm_head."),
)
"""Prefix of a LLaVA on the hub, in the layouts that transformers has written over the years; and in ours."""
_DERIVED = re.compile(r"\.rotary_emb\.inv_freq$|\.position_ids$|^model\.visual_model\.pixel_(mean|std)$")


def renamed_keys(state: Any) -> Any:
    """An optimiser's state of checkpoint format 2 by today's names: a multimodal LLM was called `llava` there."""
    if isinstance(state, dict):
        return {
            key.replace("mllm.llava.", "mllm.net.") if isinstance(key, str) else key: renamed_keys(value)
            for key, value in state.items()
        }
    return state


def is_derived(released: str) -> bool:
    """Whether some releases store this tensor although it follows from the config."""
    return _DERIVED.search(released) is not None


def our_name(released: str) -> str:
    """Our name of a released tensor; the same name if it is none of the known ones."""
    return _rename(released, _PREFIXES)


def our_hub_name(name: str) -> str:
    """Our name of a tensor of a LLaVA in the hub's format; the same name if it is none of the known ones."""
    return _rename(name, _HUB_PREFIXES)


def released_name(ours: str, projector_layers: int) -> str:
    """The releases' name of one of our tensors; a projector of one layer has no number."""
    if projector_layers == 1 and ours.startswith(FIRST_LAYER):
        return f"model.mm_projector.{ours.removeprefix(FIRST_LAYER)}"
    for theirs, prefix in _PREFIXES:
        if ours.startswith(prefix):
            return f"{theirs}{ours.removeprefix(prefix)}"
    return ours


def _rename(name: str, prefixes: tuple[tuple[str, str], ...]) -> str:
    for theirs, ours in prefixes:
        if name.startswith(theirs):
            return f"{ours}{name.removeprefix(theirs)}"
    return name
