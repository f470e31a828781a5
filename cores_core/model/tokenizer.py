"""Load tokenizers; and the tokenizer of the releases: sentencepiece with the rules of transformers 4.31 ("legacy").

Newer versions of transformers apply other rules, which give other ids.

Text is split at added tokens (`[SEG]`) and special tokens (`</s>`). Whitespace next to added tokens is removed, next
to special tokens it is kept. Each piece is encoded separately and therefore begins with its own leading-space piece.
Ids of added tokens come from `added_tokens.json`.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from sentencepiece import SentencePieceProcessor
from transformers import PreTrainedTokenizerFast

from cores_core import prompts
from cores_core.errors import CheckpointError, DataError, reason_of
from cores_core.files import read_json
from cores_core.model.weights.transformers_io import reading
from cores_core.sample import Turn

MODEL_FILE, ADDED_FILE, FAST_FILE = "tokenizer.model", "added_tokens.json", "tokenizer.json"


class Tokenizer(Protocol):
    """Tokenizer methods used by a processor. Implemented by transformers' tokenizers and `SentencePieceTokenizer`."""

    def convert_tokens_to_ids(self, token: str) -> int:
        """The id of a token."""

    def convert_ids_to_tokens(self, index: int) -> str:
        """The token of an id."""

    def encode(self, text: str, add_special_tokens: bool = ...) -> list[int]:
        """Text to ids."""

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = ...) -> str:
        """Ids to text."""

    def add_tokens(self, tokens: Sequence[str], special_tokens: bool = ...) -> int:
        """Add tokens with the next free ids; returns their number."""

    def get_added_vocab(self) -> dict[str, int]:
        """Ids of the added tokens, at which text is split before tokenization; includes special tokens."""

    def save_pretrained(self, folder: Path) -> Any:
        """Save the tokenizer's files."""


class SentencePieceTokenizer:
    """The tokenizer of the LLaVA, LISA and CoReS releases, see the module's docstring."""

    def __init__(self, folder: Path) -> None:
        """Read `tokenizer.model`, and `added_tokens.json` if present, from a folder.

        Raises:
            CheckpointError: a file is missing or damaged.
        """
        added, self._added = folder / ADDED_FILE, dict[str, int]()
        try:
            self._model = (folder / MODEL_FILE).read_bytes()
            self._pieces = SentencePieceProcessor(model_proto=self._model)
            if added.exists():
                self._added = read_json(added)
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"cannot read the tokenizer: {folder} ({reason_of(error)})") from error
        self._special = {
            prompts.UNKNOWN: self._pieces.unk_id(),
            prompts.BEGIN: self._pieces.bos_id(),
            prompts.END: self._pieces.eos_id(),
        }
        self._index()

    def _index(self) -> None:
        self._ids = {**self._special, **self._added}
        self._tokens = {index: token for token, index in self._ids.items()}
        self._split = re.compile(f"({'|'.join(map(re.escape, self._ids))})")

    def add_tokens(self, tokens: Sequence[str], special_tokens: bool = True) -> int:
        """Add tokens with the next free ids; returns their number. `special_tokens` is ignored."""
        first = max(self._pieces.get_piece_size(), *(index + 1 for index in self._ids.values()))
        self._added |= {token: first + number for number, token in enumerate(tokens)}
        self._index()
        return len(tokens)

    def get_added_vocab(self) -> dict[str, int]:
        """Ids of the added and special tokens."""
        return dict(self._ids)

    def __contains__(self, token: str) -> bool:
        """Whether this is one of the added or special tokens."""
        return token in self._ids

    def convert_tokens_to_ids(self, token: str) -> int:
        """Id of an added or special token or of a piece; the unknown token's id for any other text."""
        return self._ids.get(token, self._pieces.piece_to_id(token))

    def convert_ids_to_tokens(self, index: int) -> str:
        """The token of an id."""
        return self._tokens.get(index) or str(self._pieces.id_to_piece(index))

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Text to ids; `add_special_tokens` prepends the begin token.

        Leading and trailing whitespace is removed, as it is next to added tokens.
        """
        ids = [self._ids[prompts.BEGIN]] if add_special_tokens else []
        parts = ["", *self._split.split(text), ""]  # text, token, text, ...; the ends strip like added tokens
        for before, part, after in zip(parts, parts[1:], parts[2:], strict=False):
            if part in self._ids:
                ids.append(self._ids[part])
                continue
            part = part if before in self._special else part.lstrip()
            part = part if after in self._special else part.rstrip()
            if part:
                ids += self._pieces.encode(part)
        return ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Ids to text; added and special tokens follow a space, or are skipped with `skip_special_tokens`."""
        text = ""
        for is_token, run in groupby(ids, key=self._tokens.__contains__):
            if not is_token:
                text += self._pieces.decode(list(run))
            elif not skip_special_tokens:
                text += "".join(f" {self._tokens[index]}" for index in run)
        return text.strip()

    def save_pretrained(self, folder: Path, without: Sequence[str] = ()) -> None:
        """Write the files that `__init__` reads, without some of the added tokens; later ones move up."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MODEL_FILE).write_bytes(self._model)
        left_out = [self._added[token] for token in without if token in self._added]
        added = {
            token: index - sum(other < index for other in left_out)
            for token, index in self._added.items()
            if token not in without
        }
        (folder / ADDED_FILE).write_text(json.dumps(added, indent=2) + "\n", encoding="utf-8")


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load a tokenizer of transformers (`tokenizer.json`), or one of the releases (`tokenizer.model`).

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    if (folder / MODEL_FILE).is_file() and not (folder / FAST_FILE).is_file():
        return SentencePieceTokenizer(folder)
    with reading("the tokenizer", folder):
        tokenizer: Tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        tokenizer.get_added_vocab()  # fails if a part of its files is missing
    return tokenizer


def knows(tokenizer: Tokenizer, token: str) -> bool:
    """Whether a tokenizer has this token. Checked in both directions, since missing tokens map to the unknown id."""
    index = tokenizer.convert_tokens_to_ids(token)
    return index is not None and tokenizer.convert_ids_to_tokens(index) == token


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a special token.

    Raises:
        DataError: the tokenizer does not have it.
    """
    if not knows(tokenizer, token):
        raise DataError(f"the tokenizer has no token {token}")
    return int(tokenizer.convert_tokens_to_ids(token))


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Text to ids, without begin and end tokens."""
    return list(tokenizer.encode(text, add_special_tokens=False))


def break_up_turn(turn: Turn, special: Sequence[str], chain: Sequence[str]) -> Turn:
    """Escape special tokens in the texts of a turn, so that users cannot insert them.

    Args:
        special: tokens to escape everywhere. chain: tokens to escape in questions but not in answers.
    """
    return replace(
        turn,
        question=prompts.break_up(turn.question, (*special, *chain)),
        answer=prompts.break_up(turn.answer, special),
        history=tuple(break_up_turn(said, special, chain) for said in turn.history),
    )
