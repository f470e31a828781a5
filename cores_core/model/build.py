"""Build models and processors from a config, with random weights; and train the tokenizer of a model from scratch."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedConfig, PreTrainedTokenizerFast

from cores_core import prompts
from cores_core.config import Config
from cores_core.model.cores import CoresModel
from cores_core.model.families.chat import ChatPrompts
from cores_core.model.families.hub import HubMllm, build_hub_mllm
from cores_core.model.families.llava import build_llava
from cores_core.model.families.llava_prompts import LlavaPrompts, Square
from cores_core.model.families.table import FAMILIES
from cores_core.model.mllm import Mllm
from cores_core.model.processor import MllmPrompts, Processor
from cores_core.model.sams.hub import build_hub_sam, hub_frame, hub_prompt_width
from cores_core.model.sams.sam1 import build_sam1
from cores_core.model.segmenter import Frame, Segmenter
from cores_core.model.tokenizer import Tokenizer, token_id
from cores_core.model.weights.tensors import Tensors
from cores_core.prompts import PromptFormat
from cores_core.sample import Query


@dataclass(frozen=True)
class Parts:
    """Everything a model is built from.

    Attributes:
        config: settings; the sizes of models from the hub are in `mllm` and `sam` instead.
        weights: state dict of the `CoresModel`, or a subset of it.
        about: entries for checkpoint.json.
        mllm: config and processor of a multimodal LLM of one of the `FAMILIES`; None for a LLaVA sized by `config`.
        sam: config of a SAM of transformers; None for a segment-anything model sized by `config`.
    """

    config: Config
    tokenizer: Tokenizer
    weights: Tensors
    about: Mapping[str, Any] = field(default_factory=dict)
    mllm: HubMllm | None = None
    sam: PreTrainedConfig | None = None

    @property
    def mllm_width(self) -> int:
        """D, the width of the MLLM's hidden states."""
        return self.config.language.hidden_size if self.mllm is None else self.mllm.config.get_text_config().hidden_size

    @property
    def prompt_width(self) -> int:
        """C, the width of SAM's prompt embeddings."""
        return self.config.sam.prompt_embed_dim if self.sam is None else hub_prompt_width(self.sam)


def with_vocabulary(parts: Parts, rows: int) -> Parts:
    """Set the vocabulary size of the parts' config to `rows`, the number of rows of the token embedding."""
    if parts.mllm is None:
        language = replace(parts.config.language, vocab_size=rows)
        return replace(parts, config=replace(parts.config, language=language))
    config = copy.deepcopy(parts.mllm.config)
    config.get_text_config().vocab_size = rows
    return replace(parts, mllm=replace(parts.mllm, config=config))


def build_model(parts: Parts, processor: Processor) -> CoresModel:
    """Build a model with random weights from torch's global generator: seed it first."""
    refiner = parts.config.chain.refiner
    return CoresModel(build_mllm(parts), build_segmenter(parts), processor.chain_ids, refiner)


def build_mllm(parts: Parts) -> Mllm:
    """Build the multimodal LLM with random weights."""
    if parts.mllm is not None:
        return build_hub_mllm(parts.mllm.config)
    return build_llava(parts.config.language, parts.config.vision, token_id(parts.tokenizer, prompts.IMAGE))


def build_segmenter(parts: Parts) -> Segmenter:
    """Build the SAM with random weights."""
    return build_sam1(parts.config.sam) if parts.sam is None else build_hub_sam(parts.sam)


def build_processor(parts: Parts) -> Processor:
    """Build the processor: prompts for the MLLM in the config's format, and images in the frame of the SAM."""
    config, sam = parts.config, parts.config.sam
    frame = Frame(sam.image_size, sam.image_size // sam.patch_size) if parts.sam is None else hub_frame(parts.sam)
    if parts.mllm is None:
        vision = config.vision
        square = Square(vision.image_size, (vision.image_size // vision.patch_size) ** 2, vision.fit)
        mllm: MllmPrompts = LlavaPrompts(
            parts.tokenizer, config.prompt, square, config.language.max_position_embeddings
        )
    else:
        family, hub = FAMILIES[parts.mllm.config.model_type], parts.mllm
        longest = hub.config.get_text_config().max_position_embeddings
        mllm = ChatPrompts(hub.processor, family, config.prompt, longest, config.vision.max_tokens)
    return Processor(mllm, config.prompt, frame)


def build_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on questions and prompt templates.

    Args:
        texts: questions of a data set.
        vocabulary: maximum number of tokens; fewer if the texts need fewer.
    """
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(prompts.SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=prompts.UNKNOWN,
        pad_token=prompts.UNKNOWN,
        bos_token=prompts.BEGIN,
        eos_token=prompts.END,
        clean_up_tokenization_spaces=False,
    )


def _corpus(texts: Iterable[str]) -> Iterable[str]:
    for text in texts:
        yield f" {text}"
    for prompt in (PromptFormat(stages=1, context="none"), PromptFormat(stages=2, context="fixed")):
        for is_sentence in (True, False):
            turn = prompts.render_turn(Query("it", is_sentence), prompt)
            question, answer = prompts.render_question(turn, prompt), prompts.render_answer(turn, prompt)
            yield from [prompts.render_prefix(prompt), question, answer] * 50
