"""Rows of text for a learned merge: read once, tokenised once, drawn in rounds.

CSV, JSON lines, Parquet and all else that tasks/readers opens. Labels, if a column of them is
named, are only for the report: they are kept apart from the inputs, which is all a merge is given.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from taskgrove.errors import TaskgroveError, did_you_mean, listed
from taskgrove.merging.learned.rounds import drawn
from taskgrove.tasks.readers import read

JUDGED = 2000  # rows of a task that accuracy is measured on, at most
Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Texts:
    """A task's inputs: token ids, ragged, and what pads them."""

    encoded: dict[str, list[list[int]]]  # input_ids, token_type_ids...
    pad: int
    side: str  # "right" or "left"

    def __len__(self) -> int:
        return len(self.encoded["input_ids"])

    def batch(self, rows: Tensor) -> Inputs:
        """Padded to the longest of the rows."""
        chosen = rows.tolist()
        longest = max(len(self.encoded["input_ids"][row]) for row in chosen)

        def padded(values: list[int], fill: int) -> list[int]:
            room = [fill] * (longest - len(values))
            return values + room if self.side == "right" else room + values

        return {
            name: torch.tensor([padded(v[row], self.pad if name == "input_ids" else 0)
                                for row in chosen])
            for name, v in self.encoded.items()
        }  # fmt: skip

    def draw(self, size: int, seed: int) -> Callable[[int], Inputs]:
        """step -> a batch, a function of the step alone."""
        rows = torch.arange(len(self))
        return lambda step: self.batch(drawn(rows, step, size, seed))


def texts_of(
    file: Path, columns: tuple[str, ...], folder: Path, config: Any, most: int
) -> tuple[Texts, tuple[str, ...]]:
    """The inputs in a file, by the tokenizer of a model folder, and notes."""
    table = read(str(file), dict.fromkeys(columns, "string")).table
    cells = [table.column(column).to_pylist() for column in columns]
    empty = sum(any(not cell for cell in row) for row in zip(*cells, strict=True))
    cells = [[cell or "" for cell in column] for column in cells]
    if not cells[0] or empty == len(cells[0]):
        raise TaskgroveError(f"{file} has no row with a {' and a '.join(columns)}.")
    notes = (f"{file.name}: {empty} rows without text are predicted as empty",) if empty else ()
    return tokenised(cells, folder, config, most), notes


def tokenised(cells: list[list[str]], folder: Path, config: Any, most: int) -> Texts:
    """Columns of texts by the tokenizer of a model folder."""
    tokenizer = _tokenizer(folder)
    most = min(most, getattr(config, "max_position_embeddings", None) or most)
    encoded = dict(tokenizer(*cells, truncation=True, max_length=most, padding=False))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = tokenizer.pad_token_id  # so that classifiers find the last token
    return Texts(encoded, tokenizer.pad_token_id or 0, tokenizer.padding_side)


def labels_of(file: Path, column: str, config: Any) -> Tensor:
    """Class numbers [row] of a model's classes, -1 where there is no label."""
    known = {name: int(n) for name, n in (config.label2id or {}).items()}
    known |= {str(n): n for n in range(config.num_labels) if str(n) not in known}
    return numbered(file, column, known)


def numbered(file: Path, column: str, known: Mapping[str, int]) -> Tensor:
    """The numbers of a column's classes [row], -1 where there is no label."""
    cells = read(str(file), {column: "string"}).table.column(column).to_pylist()
    if unknown := [cell for cell in cells if cell and cell not in known]:
        raise TaskgroveError(
            f'{file}: "{unknown[0]}" in column "{column}" is no class of its model '
            f"(it has: {listed(known)}).{did_you_mean(unknown[0], known)}"
        )
    return torch.tensor([known[cell] if cell else -1 for cell in cells])


@torch.no_grad()
def accuracy(
    predict: Callable[[Inputs], Tensor], texts: Texts, labels: Tensor, batch: int
) -> float | None:
    """Share of right predictions among the labelled rows; None where there are none."""
    rows = (labels >= 0).nonzero()[:JUDGED, 0]
    if not len(rows):
        return None
    right = [
        (predict(texts.batch(some)).argmax(-1).cpu() == labels[some]).sum()
        for some in rows.split(batch)
    ]
    return float(torch.stack(right).sum() / len(rows))


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise TaskgroveError(
            f"{folder} has no tokenizer that can be opened ({reason}); save it beside the model."
        ) from None
