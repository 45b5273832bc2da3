"""The vocabulary of a merged model, and its tokenizer's files where tokens were added to it.

Tokens that a user added are matched before a tokenizer cuts words, so they can be added to any.
Pieces that a tokenizer learned can be added where it takes the longest piece that fits (WordPiece,
WordLevel); BPE would need their merges, and Unigram their scores, so there a union is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taskgrove.errors import TaskgroveError, did_you_mean, listed
from taskgrove.merging.checkpoint import json_of
from taskgrove.merging.words.tokens import ADDED, FAST, SIZE, Tokens, write_json

GROWING = ("WordPiece", "WordLevel")  # tokenizers that can be given more pieces
CHOICES = ("union", "base")


@dataclass(frozen=True)
class Vocabulary:
    """Of the result: its rows, and what is new in it."""

    size: int
    pieces: Mapping[str, int] = field(default_factory=dict)
    added: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # with their new ids

    def write(self, folder: Path) -> None:
        """Changes the base's tokenizer and config, which lie in the folder already."""
        if not (self.pieces or self.added):
            return
        facts = json_of(folder / FAST)
        if self.pieces:
            facts["model"]["vocab"] |= self.pieces
        facts["added_tokens"] = [*facts.get("added_tokens", []), *self.added.values()]
        write_json(folder / FAST, facts)
        _rewrite(folder / "tokenizer_config.json", "added_tokens_decoder", self._decoder())
        _rewrite(folder / ADDED, None, {token: each["id"] for token, each in self.added.items()})
        if self.pieces and (folder / "vocab.txt").is_file():
            with (folder / "vocab.txt").open("a", encoding="utf-8") as file:
                file.writelines(f"{piece}\n" for piece in self.pieces)
        config = json_of(folder / "config.json")
        part = config if SIZE in config else config["text_config"]
        part[SIZE] = self.size
        write_json(folder / "config.json", config)

    def _decoder(self) -> dict[str, Any]:
        return {
            str(each["id"]): {key: value for key, value in each.items() if key != "id"}
            for each in self.added.values()
        }


def extended(tokens: Sequence[Tokens], choice: str) -> tuple[dict[str, int], Vocabulary]:
    """{token: row} of the result, whose first rows are the first model's, and what is new."""
    if choice not in CHOICES:
        hint = did_you_mean(choice, CHOICES)
        raise TaskgroveError(f"vocabulary is {choice}; expected one of {listed(CHOICES)}.{hint}")
    first = tokens[0]
    ids = dict(first.ids)
    new: dict[str, Tokens] = {}  # the first model that has it
    for of in tokens[1:]:
        for token in sorted(of.ids, key=of.ids.__getitem__):
            if token not in ids:
                new.setdefault(token, of)
    if choice == "base" or not new:
        return ids, Vocabulary(first.size)
    pieces = [token for token, of in new.items() if token not in of.added]
    others = [token for token in new if token not in pieces]
    _can_grow(first, new, pieces)
    start = max(ids.values(), default=-1) + 1
    rows = {token: n for n, token in enumerate([*pieces, *others], start=start)}
    added = {t: {**new[t].added[t], "id": rows[t]} for t in others}
    size = max(first.size, start + len(rows))
    return {**ids, **rows}, Vocabulary(size, {t: rows[t] for t in pieces}, added)


def _can_grow(first: Tokens, new: Mapping[str, Tokens], pieces: Sequence[str]) -> None:
    """Refuses a union that the first model's tokenizer cannot hold."""
    instead = "; use vocabulary: base, which keeps the base's tokens."
    if first.file.name != FAST:
        raise TaskgroveError(
            f"{first.folder} has no {FAST}, to which the {len(new)} new tokens"
            f" ({listed(new, 3)}) could be added: save its tokenizer as a fast one{instead}"
        )
    other = next((of for of in new.values() if of.kind != first.kind), None)
    if other is not None:
        raise TaskgroveError(
            f"the tokenizers of {first.folder} ({first.kind}) and {other.folder} ({other.kind}) are"
            f" of different kinds, so they have no union{instead}"
        )
    outside = [token for token in first.added if first.ids.get(token, 0) >= _pieces(first)]
    if pieces and (first.kind not in GROWING or outside):
        why = (
            f"its own added tokens ({listed(outside, 3)}) follow its pieces"
            if first.kind in GROWING
            else f"a {first.kind} tokenizer cannot take pieces that another one learned"
        )
        raise TaskgroveError(
            f"{first.folder} cannot take the {len(pieces)} new pieces ({listed(pieces, 3)}):"
            f" {why}{instead}"
        )
    if first.lost or sorted(first.ids.values()) != list(range(len(first.ids))):
        raise TaskgroveError(
            f"the tokens of {first.folder} leave rows out or have none, so no token can be added"
            f" after them{instead}"
        )


def _pieces(tokens: Tokens) -> int:
    """How many tokens the tokenizer's own vocabulary has."""
    return len(json_of(tokens.file)["model"]["vocab"])


def _rewrite(file: Path, key: str | None, more: Mapping[str, Any]) -> None:
    """Adds entries to a JSON file that exists and has the key."""
    if not file.is_file():
        return
    facts = json_of(file)
    if key is None:
        write_json(file, {**facts, **more})
    elif key in facts:
        write_json(file, {**facts, key: {**facts[key], **more}})
