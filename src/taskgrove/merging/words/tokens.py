"""Tokens of a model folder: which row of the embedding each token has, read from its tokenizer.

tokenizer.json                          of fast tokenizers: the model's vocabulary, added tokens
vocab.json or vocab.txt                 of older ones, with added_tokens.json
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskgrove.errors import TaskgroveError
from taskgrove.merging.checkpoint import config_of, json_of

FAST, ADDED = "tokenizer.json", "added_tokens.json"
SIZE = "vocab_size"


@dataclass(frozen=True)
class Tokens:
    """What a folder says of its tokens."""

    folder: Path
    file: Path  # where the vocabulary is
    ids: Mapping[str, int]  # row of each token that has one
    added: Mapping[str, Mapping[str, Any]]  # token: what tokenizer.json says of an added one
    kind: str  # BPE, WordPiece, WordLevel, Unigram; or the file's name
    size: int  # rows of the embedding
    lost: tuple[str, ...]  # tokens beyond them


def tokens_of(folder: Path, size: int | None = None) -> Tokens:
    """Reads them; `size` where the embedding has other rows than config.json says."""
    size = vocab_size(folder) if size is None else size
    if (folder / FAST).is_file():
        file, (ids, added, kind) = folder / FAST, _fast(folder / FAST)
    elif found := [folder / f for f in ("vocab.json", "vocab.txt") if (folder / f).is_file()]:
        file, added, kind = found[0], {}, found[0].name
        ids = _json_ids(file) if file.suffix == ".json" else _lines(file)
        if (folder / ADDED).is_file():
            ids |= _json_ids(folder / ADDED)
    else:
        raise TaskgroveError(
            f"{folder} has no {FAST}, vocab.json or vocab.txt, so its tokens are not known: save"
            " its tokenizer there, as a fast one."
        )
    lost = tuple(token for token, n in ids.items() if n >= size)
    rows = {token: n for token, n in ids.items() if n < size}
    return Tokens(folder, file, rows, added, kind, size, lost)


def vocab_size(folder: Path) -> int:
    """Of config.json, or of its part for text."""
    config = config_of(folder)
    size = config.get(SIZE, dict(config.get("text_config") or {}).get(SIZE))
    if type(size) is not int or size < 1:
        raise TaskgroveError(
            f'{folder / "config.json"} has no "{SIZE}"; expected the number of rows of its'
            " embedding: vocabularies cannot be aligned without it."
        )
    return size


def _fast(file: Path) -> tuple[dict[str, int], dict[str, Mapping[str, Any]], str]:
    facts = json_of(file)
    try:
        vocab = facts["model"]["vocab"]
        if isinstance(vocab, list):  # Unigram: [token, score], in order of rows
            vocab = {token: n for n, (token, _) in enumerate(vocab)}
        added = {each["content"]: each for each in facts.get("added_tokens", [])}
        ids = {**vocab, **{token: each["id"] for token, each in added.items()}}
        return ids, added, _kind(facts["model"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise TaskgroveError(
            f'{file} has no "model" with a "vocab"; save the tokenizer again with transformers.'
        ) from None


def _kind(model: Mapping[str, Any]) -> str:
    """Older files do not name it."""
    if "type" in model:
        return str(model["type"])
    if isinstance(model["vocab"], list):
        return "Unigram"
    return "BPE" if "merges" in model else "WordPiece"


def _json_ids(file: Path) -> dict[str, int]:
    facts = json_of(file)
    if not all(type(n) is int for n in facts.values()):
        raise TaskgroveError(f"{file} does not map tokens to numbers; save the tokenizer again.")
    return facts


def _lines(file: Path) -> dict[str, int]:
    text = file.read_text("utf-8")
    return {line: n for n, line in enumerate(text.removesuffix("\n").split("\n"))}


def write_json(file: Path, facts: object) -> None:
    """As tokenizers write their files: readable, in UTF-8."""
    file.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", "utf-8")
