"""From a config to a model and its processor, with random weights; and the tokenizer a scratch-built model needs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from cores_core import prompts
from cores_core.config import Config
from cores_core.model.cores import CoresModel
from cores_core.model.mllm import build_mllm
from cores_core.model.processor import ImageFormat, Processor, Tokenizer
from cores_core.model.segmenter import build_segmenter
from cores_core.model.tensors import Tensors
from cores_core.prompts import PromptFormat
from cores_core.sample import Query


@dataclass(frozen=True)
class Parts:
    """What a model is put together from; `weights` are the state of the `CoresModel` of `config`, or a part of it."""

    config: Config
    tokenizer: Tokenizer
    weights: Tensors
    about: Mapping[str, Any] = field(default_factory=dict)


def build_model(config: Config, processor: Processor) -> CoresModel:
    """Build the model of a config. Its weights come from torch's global generator: seed it first."""
    mllm = build_mllm(config.language, config.vision, processor.token_id(prompts.IMAGE))
    return CoresModel(mllm, build_segmenter(config.sam), processor.chain_ids, refiner=config.chain.refiner)


def build_processor(config: Config, tokenizer: Tokenizer) -> Processor:
    """Join a tokenizer with the prompt format and image sizes of a config."""
    images = ImageFormat(
        mllm_size=config.vision.image_size,
        mllm_tokens=(config.vision.image_size // config.vision.patch_size) ** 2,
        mllm_fit=config.vision.fit,
        sam_size=config.sam.image_size,
        sam_grid=config.sam.image_size // config.sam.patch_size,
    )
    return Processor(tokenizer, config.prompt, images, max_tokens=config.language.positions)


def build_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on questions and on the prompts around them.

    Args:
        texts: questions as a data set words them.
        vocabulary: the most tokens it may have; fewer where the texts do not need them.
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
    for prompt in (PromptFormat(steps=1, context="none"), PromptFormat(steps=2, context="fixed")):
        for is_sentence in (True, False):
            turn = prompts.render_turn(Query("it", is_sentence), prompt)
            question, answer = prompts.render_question(turn, prompt), prompts.render_answer(turn, prompt)
            yield from [prompts.render_prefix(prompt), question, answer] * 50
