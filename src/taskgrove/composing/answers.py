"""Answers to a file of prompts: JSON lines with alpha and seconds, and a page that shows alpha."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from transformers import GenerationConfig, set_seed

from taskgrove.composing.fused_lm import Answer, FusedLM
from taskgrove.composing.token_page import page
from taskgrove.errors import TaskgroveError
from taskgrove.tasks.cache import written_aside
from taskgrove.tasks.json_lines import json_rows


@dataclass(frozen=True)
class Cost:
    """Of all answers: tokens and seconds of generation."""

    prompts: int
    tokens: int
    seconds: float


def read_prompts(path: Path, column: str = "prompt") -> list[str]:
    """The prompts of a JSONL file."""
    found = []
    for number, row in enumerate(json_rows(path), 1):
        if not isinstance(row.get(column), str) or not row[column]:
            has = ", ".join(row) or "nothing"
            raise TaskgroveError(
                f'{path.name}, row {number} has no text in "{column}" (it has: {has}); expected'
                f' {{"{column}": "..."}} in each row.'
            )
        found.append(row[column])
    if not found:
        raise TaskgroveError(f"{path.name} has no rows; expected a prompt a line.")
    return found


def options(
    max_new_tokens: int, temperature: float, top_p: float, beams: int, tokenizer: Any
) -> GenerationConfig:
    """How to generate; temperature 0 is greedy."""
    for name, value, low, high in (
        ("--max-new-tokens", max_new_tokens, 1, 1 << 31),
        ("--temperature", temperature, 0, 100),
        ("--top-p", top_p, 1e-9, 1),
        ("--beams", beams, 1, 1000),
    ):
        if not low <= value <= high:
            raise TaskgroveError(f"{name} is {value}; expected {low} to {high}.")
    ends = tokenizer.eos_token_id
    pad = tokenizer.pad_token_id
    given: dict[str, Any] = {"pad_token_id": pad if pad is not None else ends or 0}
    if temperature > 0:
        given |= {"temperature": temperature, "top_p": top_p}
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=temperature > 0,
        num_beams=beams,
        eos_token_id=ends,
        **given,
    )


def answer_file(
    fused: FusedLM,
    prompts: Sequence[str],
    out: Path,
    names: Sequence[str],
    chosen: GenerationConfig,
    batch_size: int = 8,
    seed: int = 0,
) -> Cost:
    """Writes `out` and the page beside it, `out` with the ending .html; `names`: the experts'."""
    set_seed(seed)
    answers: list[Answer] = []
    spent: list[float] = []
    with written_aside(out) as aside, aside.open("w", encoding="utf-8") as lines:
        for part, batch, seconds in _batches(fused, prompts, chosen, batch_size):
            tokens = sum(len(answer.tokens) for answer in batch)
            for prompt, answer in zip(part, batch, strict=True):
                row = _row(prompt, answer, names, fused.tokenizer)
                row["seconds_a_token"] = round(seconds / max(1, tokens), 6)  # in its batch
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
            answers += batch
            spent.append(seconds)
    with written_aside(out.with_suffix(".html")) as aside:
        aside.write_text(page(prompts, answers, names, fused.tokenizer), "utf-8")
    return Cost(len(prompts), sum(len(answer.tokens) for answer in answers), sum(spent))


def _batches(
    fused: FusedLM, prompts: Sequence[str], chosen: GenerationConfig, size: int
) -> Iterator[tuple[Sequence[str], list[Answer], float]]:
    for start in range(0, len(prompts), size):
        part, begun = prompts[start : start + size], perf_counter()
        batch = fused.generate(part, chosen)
        yield part, batch, perf_counter() - begun


def _row(prompt: str, answer: Answer, names: Sequence[str], tokenizer: Any) -> dict[str, Any]:
    alpha = answer.alpha.double().numpy().round(4)
    return {
        "prompt": prompt,
        "output": answer.text,
        "tokens": tokenizer.convert_ids_to_tokens(answer.tokens),
        "alpha": {name: alpha[:, n].tolist() for n, name in enumerate(names)},
        "mean_alpha": dict(zip(names, alpha.mean(0).round(4).tolist(), strict=True)),
    }
