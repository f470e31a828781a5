"""Read a folder in the format of the released LISA and CoReS weights: sizes, tokenizer, tensors with our names.

The format is an original LLaVA whose files also hold SAM, projection and refiner, with the chain tokens in
`added_tokens.json`. SAM's sizes are inferred from the shapes of its tensors.
Source: the releases of LISA and CoReS.
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from cores_core import prompts
from cores_core.config import ChainConfig, Config
from cores_core.errors import CheckpointError
from cores_core.model.build import Parts
from cores_core.model.families.llava import (
    CONFIG_FILE,
    add_identity,
    is_original,
    load_json,
    original_sizes,
    read_original,
)
from cores_core.model.sams.sam1 import sam_sizes
from cores_core.model.tokenizer import MODEL_FILE, SentencePieceTokenizer
from cores_core.model.weights.vocabulary import add_image_token
from cores_core.prompts import PromptFormat


def is_released(folder: Path) -> bool:
    """Whether a folder has the files of released weights."""
    return (folder / MODEL_FILE).is_file() and is_original(folder)


def read_released(folder: Path, shapes_only: bool = False) -> Parts:
    """Read released weights.

    Raises:
        CheckpointError: a file is missing or damaged, or the tokenizer lacks a chain token.
    """
    tree, tokenizer = load_json(folder / CONFIG_FILE), SentencePieceTokenizer(folder)
    if prompts.SEG not in tokenizer:
        hint = f"train it: cores train --preset cores-7b --mllm {folder}; or give a LISA or CoReS release"
        raise CheckpointError(f"not trained to segment: {folder} (no token {prompts.SEG})", hint=hint)
    weights = read_original(folder, tree, shapes_only)
    language, vision = original_sizes(folder, tree, weights)
    refiner = "refiner.norm.weight" in weights
    steps: Literal[1, 2] = 2 if refiner or prompts.REFERENCE_SPELLING[prompts.LOC] in tokenizer else 1
    for token in (*PromptFormat(steps, wording="released").chain, prompts.IMAGE_START, prompts.IMAGE_END):
        if token not in tokenizer:
            raise CheckpointError(f"the tokenizer has no token {token}: {folder}", hint="is this LISA or CoReS?")
    config = Config(
        language=replace(language, vocab_size=add_image_token(tokenizer, weights)),
        vision=vision,
        sam=sam_sizes(weights),
        chain=ChainConfig(stages=steps, refiner=refiner),
        context="fixed" if steps == 2 else "none",
        wording="released",
    )
    return Parts(config, tokenizer, add_identity(weights), about={"released": True})
