"""A tiny LISA in the format of the released weights: sentencepiece tokenizer, one chain token, CLIP of its own."""

import io
import json
from dataclasses import replace
from pathlib import Path

from sentencepiece import SentencePieceTrainer

from cores_core import prompts
from cores_core.config import ChainConfig, Config
from cores_core.model.build import Parts, build_model, build_processor
from cores_core.model.checkpoint import Checkpoint
from cores_core.model.tokenizer import ADDED_FILE, MODEL_FILE, SentencePieceTokenizer
from cores_core.model.weights.export import TOWER_FOLDER, export_released
from cores_core.prompts import PromptFormat
from cores_core.runtime import seed_everything

_TEXTS = ("Which part of the fish steers it?", "Sure, it is [SEG].", "What is the large thing in this image?")


def save_lisa(folder: Path, tower: Path, tower_name: str, sizes: Config) -> None:
    """Write a LISA with random weights as it is released: the CLIP, named in the config, is in another folder.

    Args:
        tower: where the CLIP is written.
        tower_name: the name of the CLIP in the config, on the hub a hub id.
        sizes: sizes of its parts; chain and prompts are those of LISA.
    """
    config = replace(
        sizes,
        vision=replace(sizes.vision, fit="crop", feature_layer=-2),
        chain=ChainConfig(stages=1, refiner=False),
        context="none",
        wording="released",
    )
    tokenizer = _tokenizer(folder.with_name("tokenizer"), config.prompt)
    rows = 1 + max(tokenizer.get_added_vocab().values())
    parts = Parts(replace(config, language=replace(config.language, vocab_size=rows)), tokenizer, {})
    seed_everything(5)
    processor = build_processor(parts)
    export_released(Checkpoint(build_model(parts, processor).eval(), processor, parts.config, about={}), folder)
    (folder / TOWER_FOLDER).rename(tower)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mm_vision_tower": tower_name}))


def _tokenizer(folder: Path, prompt: PromptFormat) -> SentencePieceTokenizer:
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(_TEXTS),
        model_writer=model,
        model_type="bpe",
        vocab_size=320,
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    folder.mkdir(parents=True)
    (folder / MODEL_FILE).write_bytes(model.getvalue())
    (folder / ADDED_FILE).write_text("{}")
    tokenizer = SentencePieceTokenizer(folder)
    tokenizer.add_tokens((*prompt.chain, prompts.IMAGE_START, prompts.IMAGE_END, prompts.IMAGE))
    return tokenizer
