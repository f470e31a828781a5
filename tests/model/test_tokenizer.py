"""The releases' rule from text to ids, on all conversations that were recorded."""

import json
from pathlib import Path
from typing import Any

import pytest

from cores_core import prompts
from cores_core.errors import CheckpointError
from cores_core.model.tokenizer import SentencePieceTokenizer

RECORDED_IMAGE = -200


@pytest.fixture(scope="module")
def tokenizer(shared: Path) -> SentencePieceTokenizer:
    tokenizer = SentencePieceTokenizer(shared / "golden/cores_mask/model")
    tokenizer.add_tokens([prompts.IMAGE])
    return tokenizer


def test_recorded_conversations_have_the_ids_of_the_release(shared: Path, tokenizer: SentencePieceTokenizer) -> None:
    cases: dict[str, Any] = json.loads((shared / "golden/data/collate_cores.json").read_text())["cases"]
    checked = 0
    for name, case in cases.items():
        if "error" in case:
            continue
        for text, expected, mask in zip(case["prompts_out"], case["input_ids"], case["attention_masks"], strict=True):
            wanted = [index for index, seen in zip(expected, mask, strict=True) if seen]
            wanted = [tokenizer.convert_tokens_to_ids(prompts.IMAGE) if i == RECORDED_IMAGE else i for i in wanted]
            ours = tokenizer.encode(text, add_special_tokens=True)
            assert ours[: len(wanted)] == wanted, name  # the longest were cut in training
            assert len(ours) == len(wanted) or name == "llava_v1/very_long/train"
            checked += 1
    assert checked >= 10


def test_added_tokens_make_the_round_trip(tokenizer: SentencePieceTokenizer) -> None:
    for token in ("[SEG_SEMA]", "[SEG]", prompts.IMAGE_START, prompts.IMAGE, prompts.BEGIN, prompts.END):
        assert token in tokenizer
        assert tokenizer.convert_ids_to_tokens(tokenizer.convert_tokens_to_ids(token)) == token
    assert "[LOC]" not in tokenizer


def test_decoding_reads_like_text(tokenizer: SentencePieceTokenizer) -> None:
    ids = tokenizer.encode("It appears on [SEG_SEMA]. It is [SEG].")
    assert tokenizer.decode(ids) == "It appears on [SEG_SEMA]. It is [SEG]."
    assert tokenizer.decode(ids, skip_special_tokens=True) == "It appears on. It is."


def test_blanks_beside_added_tokens_vanish(tokenizer: SentencePieceTokenizer) -> None:
    assert tokenizer.encode("the dog \n [SEG] \n .") == tokenizer.encode("the dog[SEG].")
    assert tokenizer.encode("  ") == []


def test_missing_files_are_one_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="tokenizer"):
        SentencePieceTokenizer(tmp_path)
