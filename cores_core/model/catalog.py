"""Models by name: the embedded one, released weights on the hub, and presets, whose weights one trains.

Sources: LISA's web page (names of the released weights, training on val), the CoReS paper (scores). No hub id of
CoReS's own weights is known; its scores stand with the presets that follow it. The conversation of the released weights
is the default of LISA's chat.py.
Parameters and memory follow from published sizes (`weights/stand_in.py`), not from the files on the hub.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from cores_core.errors import CheckpointError
from cores_core.model.weights.hub import CachedModel, cached_model, cached_models
from cores_core.settings import list_presets, load_config

Kind = Literal["embedded", "released", "preset"]
Local = Literal["embedded", "cached", "partly cached", ""]
_SEE_PAGE = "see its page"
_CLIP = "openai/clip-vit-large-patch14"
_NO_WEIGHTS = "no weights are published: train it"


@dataclass(frozen=True)
class KnownModel:
    """A model with what is known about it. Texts are empty and numbers None where nothing is known.

    Attributes:
        hub_id: its weights, for a preset those of its multimodal LLM before training; None if they are not on the hub.
        needs: hub ids of further models that its files refer to.
        parameters: of the whole model.
        memory: bytes for predicting with it in bfloat16; the embedded model in float32.
        prompts: chain, in-context example, wording and conversation.
        scores: published ones, with benchmark and protocol.
        trained_on_val: whether ReasonSeg val was in its training data.
    """

    name: str
    kind: Kind
    hub_id: str | None = None
    needs: tuple[str, ...] = ()
    licence: str = ""
    parameters: int | None = None
    memory: int | None = None
    prompts: str = ""
    scores: str = ""
    trained_on_val: bool | None = None
    note: str = ""


_PROTOCOL = "protocol teacher_forced, first text of each image"
_V1 = KnownModel(
    name="lisa-7b-v1",
    kind="released",
    hub_id="xinlai/LISA-7B-v1",
    needs=(_CLIP,),
    licence=_SEE_PAGE,
    parameters=7_721_536_816,
    memory=15_889_516_224,
    prompts="1 stage, context none, wording released, conversation llava_v1",
    trained_on_val=True,
    note="trained on ReasonSeg train and val: its val scores are contaminated",
)
_V1_13B = replace(
    _V1,
    name="lisa-13b-llama2-v1",
    hub_id="xinlai/LISA-13B-llama2-v1",
    parameters=14_019_183_920,
    memory=28_504_211_136,
)
RELEASED: Mapping[str, KnownModel] = MappingProxyType(
    {
        model.name: model
        for model in (
            _V1,
            replace(_V1, name="lisa-7b-v1-explanatory", hub_id="xinlai/LISA-7B-v1-explanatory"),
            _V1_13B,
            replace(_V1_13B, name="lisa-13b-llama2-v1-explanatory", hub_id="xinlai/LISA-13B-llama2-v1-explanatory"),
        )
    }
)
"""Released weights that `--model` takes by name."""
TINY = KnownModel(
    name="tiny",
    kind="embedded",
    licence="Apache-2.0",
    parameters=3_782_760,
    memory=31_056_288,
    prompts="2 stages, context fixed, wording cores, conversation llava_v1",
    scores="PartWorld test gIoU 65.9 (protocol generate, wordings never trained on)",
    trained_on_val=False,
    note="ships with cores; knows drawn PartWorld scenes only",
)
_PRESET_SIZES: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "cores-13b": (14_020_379_440, 28_778_251_968),
        "cores-7b": (7_721_800_496, 15_890_570_944),
        "cores-7b-llava1.5": (7_722_611_504, 15_931_940_544),
        "cores-internvl3.5-4b": (4_956_889_537, 10_088_118_244),
        "cores-internvl3.5-8b": (8_763_337_153, 17_722_250_212),
        "cores-qwen2.5vl-7b": (8_523_121_601, 17_233_691_620),
        "cores-qwen3vl-2b": (2_349_441_473, 4_868_240_356),
        "cores-qwen3vl-4b": (4_662_216_129, 9_498_771_428),
        "cores-qwen3vl-8b": (9_002_142_385, 18_199_860_676),
        "cores-smolvlm2-2.2b": (2_468_694_321, 5_106_746_052),
        "cores-smolvlm2-500m": (725_839_425, 1_613_931_620),
        "lisa-7b": (7_721_536_816, 15_889_516_224),
    }
)
"""Parameters, and bytes for predicting in bfloat16."""
_PAPER_SCORES: Mapping[str, str] = MappingProxyType(
    {
        "cores-7b": f"the paper's CoReS-7B: ReasonSeg val gIoU 59.4, cIoU 62.1; test gIoU 52.4 ({_PROTOCOL})",
        "cores-13b": "the paper's CoReS-LLaVA1.5-13B: ReasonSeg val gIoU 68.1, cIoU 68.2; test gIoU 65.5 "
        f"({_PROTOCOL})",
        "lisa-7b": f"LISA-7B in the CoReS paper: ReasonSeg val gIoU 52.9, cIoU 54.0 ({_PROTOCOL})",
    }
)


def known_models() -> dict[str, KnownModel]:
    """All models by name: embedded, released, presets that begin with a published multimodal LLM."""
    presets = (_describe_preset(name) for name in list_presets() if name in _PRESET_SIZES)
    return {TINY.name: TINY, **RELEASED, **{model.name: model for model in presets}}


def find_known(name: str) -> KnownModel:
    """A model of `known_models` by its name, in any case, or by its hub id.

    Raises:
        CheckpointError: there is none.
    """
    known = known_models()
    by_id = {model.hub_id: model for model in RELEASED.values()}
    found = known.get(name.lower()) or by_id.get(name)
    if found is None:
        raise CheckpointError(f"unknown model: {name}", hint=f"known models: {', '.join(known)}")
    return found


def resolve_name(source: str) -> str:
    """The hub id of released weights given by their name in the catalogue; any other source unchanged.

    Raises:
        CheckpointError: the name is that of a preset, which has no weights.
    """
    released = RELEASED.get(source.lower())
    if released is not None:
        return str(released.hub_id)
    if source.lower() in _PRESET_SIZES:
        hint = f"train it: cores train --preset {source.lower()}; or give one of: {TINY.name}, {', '.join(RELEASED)}"
        raise CheckpointError(f"a preset, for which no weights are published: {source}", hint=hint)
    return source


def find_local(model: KnownModel, cached: Mapping[str, CachedModel]) -> Local:
    """How much of a model is on this machine, given `cached_models()`."""
    if model.kind == "embedded":
        return "embedded"
    if model.hub_id is None or model.hub_id not in cached:
        return ""
    return "cached" if cached_model(model.hub_id) is not None else "partly cached"


def describe_known(model: KnownModel) -> dict[str, str]:
    """What is known about a model, as name and text."""
    cached = cached_models()
    local: str = find_local(model, cached)
    if model.hub_id in cached:
        here = cached[model.hub_id]
        local += f": {here.size / 2**30:.2f} GiB, revision {', '.join(here.revisions)}"
    on_val = {True: "yes", False: "no", None: "not known"}[model.trained_on_val]
    base = "hub id of its base" if model.kind == "preset" else "hub id"
    facts = {
        "kind": model.kind,
        base: model.hub_id or "",
        "also needs": ", ".join(model.needs),
        "licence": model.licence,
        "parameters": f"{model.parameters:,}" if model.parameters else "",
        "memory": f"{model.memory / 2**30:.2f} GiB to predict" if model.memory else "",
        "prompts": model.prompts,
        "published scores": model.scores or "none known",
        "trained on ReasonSeg val": on_val,
        "on this machine": local or "no",
        "note": model.note,
    }
    return {name: text for name, text in facts.items() if text}


def _describe_preset(name: str) -> KnownModel:
    config = load_config(name)
    mllm = str(config.base.mllm)
    parameters, memory = _PRESET_SIZES[name]
    conversation = config.conversation if "llava" in mllm.lower() else "template"
    return KnownModel(
        name=name,
        kind="preset",
        hub_id=mllm if "/" in mllm else None,
        licence=f"its base: {_SEE_PAGE}",
        parameters=parameters,
        memory=memory,
        prompts=f"{config.chain.stages} stage{'s' if config.chain.stages > 1 else ''}, context {config.context}, "
        f"wording {config.wording}, conversation {conversation}",
        scores=_PAPER_SCORES.get(name, ""),
        trained_on_val=False,
        note=f"{_NO_WEIGHTS} with cores train --preset {name}",
    )
