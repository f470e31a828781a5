"""Tensor names of the releases (mapped both ways) and of the hub (only read), and those of `CoresModel`."""

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
"""Pairs of prefixes: in the releases, in `CoresModel.state_dict()`. The first that fits counts."""
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
"""Pairs of prefixes: of a LLaVA in the layouts of several transformers versions, in `CoresModel.state_dict()`.

The first that fits counts."""
_DERIVED = re.compile(r"\.rotary_emb\.inv_freq$|\.position_ids$|^model\.visual_model\.pixel_(mean|std)$")


def renamed_keys(state: Any) -> Any:
    """Convert an optimiser state of nested dicts, as checkpoints before format 3 have it: `mllm.llava.` in keys."""
    if isinstance(state, dict):
        return {
            key.replace("mllm.llava.", "mllm.net.") if isinstance(key, str) else key: renamed_keys(value)
            for key, value in state.items()
        }
    return state


def is_derived(released: str) -> bool:
    """Whether a released tensor is redundant, because its values follow from the config."""
    return _DERIVED.search(released) is not None


def our_name(released: str) -> str:
    """Map the name of a released tensor to that in `CoresModel`; unknown names are returned unchanged."""
    return _rename(released, _PREFIXES)


def our_hub_name(name: str) -> str:
    """Map the name of a hub LLaVA's tensor to that in `CoresModel`; unknown names are returned unchanged."""
    return _rename(name, _HUB_PREFIXES)


def released_name(ours: str, projector_layers: int) -> str:
    """Map the name of a tensor of `CoresModel` to that in the releases. One-layer projectors have no layer number."""
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
