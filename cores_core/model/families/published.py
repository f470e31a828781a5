"""Sizes of published multimodal LLMs and SAMs, and processors for them without a download.

Used by `cores train --plan` without weights or network, and by tests to build tiny models of the same families. Source
of the numbers: the head of published.yaml.
Deviation: a stand-in processor has a small byte-level BPE tokenizer with the family's special tokens. Its ids are not
the published ones, texts have more tokens, and it adds no begin token itself (some chat templates write one).
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

import tokenizers
import transformers
import yaml
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerFast, ProcessorMixin

from cores_core import prompts
from cores_core.errors import ConfigError
from cores_core.prompts import PromptFormat
from cores_core.sample import Query

_VOCABULARY = 2000
"""Maximum vocabulary of a stand-in tokenizer; the built-in texts need fewer tokens."""
_SPARE = 8
"""Rows of an embedding smaller than `_VOCABULARY` that the tokenizer does not use; the chain tokens get them."""


@dataclass(frozen=True)
class _Family:
    """Classes and arguments of a family's processor, see published.yaml.

    Attributes:
        processor, image, video: class name and arguments of the processor, its image and its video processor.
        roles: tokens by the tokenizer's arguments (`eos_token`, ...); named: by its further attributes.
        tokens: special tokens besides these. ids: token whose id is set at a path of the config, by path.
        template: chat template (jinja). image_tokens: least and most tokens of an image, of the Qwen families.
    """

    processor: Mapping[str, Any]
    image: Mapping[str, Any]
    roles: Mapping[str, str]
    tokens: tuple[str, ...]
    ids: Mapping[str, str]
    template: str
    video: Mapping[str, Any] | None = None
    named: Mapping[str, str] = field(default_factory=dict)
    image_tokens: tuple[int, int] | None = None

    @property
    def specials(self) -> list[str]:
        """All special tokens, in the order of their ids."""
        return list(dict.fromkeys((*self.roles.values(), *self.named.values(), *self.tokens)))


@dataclass(frozen=True)
class _Sizes:
    """Arguments of the image, joint and video processors that are derived from a model's config."""

    image: Mapping[str, Any]
    processor: Mapping[str, Any] = field(default_factory=dict)
    video: Mapping[str, Any] = field(default_factory=dict)


def published_models() -> tuple[str, ...]:
    """Hub ids of the multimodal LLMs whose sizes ship with the package."""
    return tuple(_tables()["models"])


def published_sams() -> tuple[str, ...]:
    """Hub ids of the SAMs of transformers whose sizes ship with the package."""
    return tuple(_tables()["sams"])


def published_config(name: str) -> PreTrainedConfig:
    """The full-size config of a published multimodal LLM or SAM.

    Raises:
        ConfigError: published.yaml has no model of this name.
    """
    known = {**_tables()["models"], **_tables()["sams"]}
    if name not in known:
        raise ConfigError(f"no published sizes for the model: {name}", hint=f"known: {', '.join(known)}")
    return AutoConfig.for_model(known[name]["family"], **copy.deepcopy(known[name]["config"]))


def stand_in_processor(config: PreTrainedConfig) -> ProcessorMixin:
    """Build the processor of a config's family, with a small tokenizer trained on the built-in prompts.

    Image sizes and numbers of image tokens follow from the config, for the Qwen families also from published.yaml.

    Args:
        config: changed in place: token ids (image, padding, end) are set to those of the new tokenizer.

    Raises:
        ConfigError: the family is unknown, or its special tokens do not fit into the embedding.
    """
    families = _tables()["families"]
    if config.model_type not in families:
        raise ConfigError(
            f"no processor is known for the family: {config.model_type}", hint=f"known: {', '.join(families)}"
        )
    family = _family(config.model_type)
    sizes = _SIZES[config.model_type](config, family)
    tokenizer = _tokenizer(family, config.get_text_config().vocab_size)
    _set_ids(config, family, tokenizer)
    parts = {"image_processor": _build(family.image, sizes.image), "tokenizer": tokenizer}
    if family.video is not None:
        parts["video_processor"] = _build(family.video, sizes.video)
    return _build(family.processor, {**sizes.processor, **parts, "chat_template": family.template})


@cache
def _tables() -> Mapping[str, Mapping[str, Any]]:
    text = (resources.files("cores_core.model.families") / "published.yaml").read_text(encoding="utf-8")
    return MappingProxyType(yaml.safe_load(text))


def _family(model_type: str) -> _Family:
    row = dict(_tables()["families"][model_type])
    return _Family(**{**row, "tokens": tuple(_flat(row["tokens"]))})


def _flat(tokens: list[Any]) -> Iterator[str]:
    for token in tokens:
        yield from _flat(token) if isinstance(token, list) else (token,)


def _build(row: Mapping[str, Any], sizes: Mapping[str, Any]) -> Any:
    arguments = {name: value for name, value in row.items() if name != "class"}
    return getattr(transformers, row["class"])(**{**copy.deepcopy(arguments), **sizes})


def _tokenizer(family: _Family, embedded: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer whose ids, with those of the chain tokens, fit into an embedding of `embedded` rows."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    vocabulary = min(_VOCABULARY, embedded - _SPARE)
    if vocabulary < len(alphabet) + len(family.specials):
        raise ConfigError(
            f"`vocab_size` is too small for a byte-level tokenizer with this family's special tokens: {embedded}",
            hint=f"at least {len(alphabet) + len(family.specials) + _SPARE}",
        )
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=family.specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        extra_special_tokens=dict(family.named),
        clean_up_tokenization_spaces=False,
        **family.roles,
    )


def _texts() -> Iterator[str]:
    """Training texts of the tokenizer: role names and built-in prompts, often enough to outweigh the examples."""
    yield from ["system\n", "user\n", "assistant\n", "model\n", "System: ", "User: ", "Assistant: "] * 50
    for question, answer in prompts.EXAMPLES:
        yield from (question, answer)
    for prompt in (PromptFormat(stages=1, context="none"), PromptFormat(stages=2, context="fixed")):
        for is_sentence in (True, False):
            turn = prompts.render_turn(Query("it", is_sentence), prompt)
            yield from [prompt.system(), turn.question, turn.answer, f" {turn.answer}"] * 50


def _set_ids(config: PreTrainedConfig, family: _Family, tokenizer: PreTrainedTokenizerFast) -> None:
    for path, token in family.ids.items():
        *parents, name = path.split(".")
        owner = config
        for parent in parents:
            owner = getattr(owner, parent)
        setattr(owner, name, tokenizer.convert_tokens_to_ids(token))


def _qwen_sizes(config: PreTrainedConfig, family: _Family) -> _Sizes:
    vision = config.vision_config
    patches = {
        "patch_size": vision.patch_size,
        "merge_size": vision.spatial_merge_size,
        "temporal_patch_size": vision.temporal_patch_size,
    }
    assert family.image_tokens is not None
    fewest, most = (tokens * (vision.patch_size * vision.spatial_merge_size) ** 2 for tokens in family.image_tokens)
    return _Sizes({**patches, "size": {"shortest_edge": fewest, "longest_edge": most}}, video=patches)


def _internvl_sizes(config: PreTrainedConfig, _: _Family) -> _Sizes:
    vision = config.vision_config
    size = {"height": vision.image_size[0], "width": vision.image_size[1]}
    patches = (vision.image_size[0] // vision.patch_size[0]) * (vision.image_size[1] // vision.patch_size[1])
    return _Sizes({"size": size}, {"image_seq_length": round(patches * config.downsample_ratio**2)}, {"size": size})


def _idefics3_sizes(config: PreTrainedConfig, family: _Family) -> _Sizes:
    """SmolVLM and Idefics3: tiles of the vision tower's input size, at most four along the longer side."""
    tile = {"longest_edge": config.vision_config.image_size}
    image = {"size": {"longest_edge": 4 * config.vision_config.image_size}, "max_image_size": tile}
    tokens = (config.vision_config.image_size // config.vision_config.patch_size // config.scale_factor) ** 2
    video: dict[str, Any] = {}
    if family.video is not None:
        video = {"size": tile, "video_sampling": {**family.video["video_sampling"], "video_size": tile}}
    return _Sizes(image, {"image_seq_len": tokens}, video)


def _onevision_sizes(config: PreTrainedConfig, _: _Family) -> _Sizes:
    side = config.vision_config.image_size
    size = {"height": side, "width": side}
    processor = {
        "num_image_tokens": (side // config.vision_config.patch_size) ** 2,
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
    }
    return _Sizes({"size": size, "image_grid_pinpoints": config.image_grid_pinpoints}, processor, {"size": size})


def _gemma3_sizes(config: PreTrainedConfig, _: _Family) -> _Sizes:
    size = {"height": config.vision_config.image_size, "width": config.vision_config.image_size}
    return _Sizes({"size": size}, {"image_seq_length": config.mm_tokens_per_image})


_SIZES: Mapping[str, Callable[[PreTrainedConfig, _Family], _Sizes]] = MappingProxyType(
    {
        "qwen2_vl": _qwen_sizes,
        "qwen2_5_vl": _qwen_sizes,
        "qwen3_vl": _qwen_sizes,
        "qwen3_5": _qwen_sizes,
        "internvl": _internvl_sizes,
        "smolvlm": _idefics3_sizes,
        "idefics3": _idefics3_sizes,
        "llava_onevision": _onevision_sizes,
        "gemma3": _gemma3_sizes,
    }
)
