"""Card: the files beside the weights: those of the base, a model card, and the recipe.

The card says what was merged and how, with a digest of each input's numbers (XXH3-128 over names,
dtypes, shapes and numbers; the same however the model is sharded), so that anyone can check that
they have the same inputs.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import xxhash

from taskgrove import __version__
from taskgrove.merging.blocks import BLOCK
from taskgrove.merging.files.adapter import folder_of
from taskgrove.merging.files.dtypes import TORCH
from taskgrove.merging.models import Model
from taskgrove.merging.plan import Plan

CARRIED = (".json", ".txt", ".model", ".jinja", ".py", ".tiktoken", ".vocab", ".spm")
RECORD = "merge.json"


def finish(plan: Plan, digests: Mapping[str, Sequence[str]], part: Path, name: str) -> None:
    """Writes them into the folder."""
    source = folder_of(Path(plan.recipe.base or plan.recipe.tuned[0]))
    if source.is_dir():
        carry(source, part, plan.recipe.dtype)
    if plan.vocabulary is not None:
        plan.vocabulary.write(part)
    facts = record(plan, digests)
    (part / RECORD).write_text(json.dumps(facts, indent=2) + "\n", "utf-8")
    (part / "README.md").write_text(card(facts, name), "utf-8")


def carry(source: Path, part: Path, dtype: str | None) -> None:
    """Config, tokenizer, generation and code files; sentence-transformers' sub-folders too."""
    for path in sorted(source.rglob("*")):
        place = path.relative_to(source)
        hidden = any(step.startswith(".") for step in place.parts)
        weights = path.name.endswith(".index.json") or path.name == RECORD
        if path.is_file() and path.suffix in CARRIED and not hidden and not weights:
            (part / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, part / place)
    config = part / "config.json"
    if dtype is not None and config.is_file():
        facts = json.loads(config.read_text("utf-8"))
        kind = TORCH[{"fp32": "F32", "bf16": "BF16", "fp16": "F16", "fp64": "F64"}[dtype]]
        facts |= {key: kind for key in ("dtype", "torch_dtype") if key in facts}
        config.write_text(json.dumps(facts, indent=2) + "\n", "utf-8")


def record(plan: Plan, digests: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What was merged, as JSON."""
    models = [m for m in (plan.reading.base, *plan.reading.tuned) if m is not None]
    return {
        "taskgrove": __version__,
        "recipe": asdict(plan.recipe),
        "parameters": {name: asdict(each) for name, each in plan.parameters.items()}
        if _vary(plan)
        else asdict(next(iter(plan.parameters.values()))),
        "inputs": [
            {"model": model.label, "digest": _digest(model, digests, n)}
            for n, model in enumerate(models)
        ]
        + [
            {"model": f"{kind} {model.label}", "digest": _whole(model)}
            for kind, beside in plan.reading.beside.items()
            for model in beside
        ],
        "copied": list(plan.copied),
    }


def card(facts: Mapping[str, Any], name: str) -> str:
    """README.md: a model card with the metadata that hubs read."""
    recipe = facts["recipe"]
    tuned = "\n".join(f"  - {model}" for model in recipe["tuned"])
    base = f"base_model: {recipe['base']}\n" if recipe["base"] else ""
    rows = "\n".join(f"| {i['model']} | `{i['digest']}` |" for i in facts["inputs"])
    shown = (
        json.dumps(recipe["parameters"], ensure_ascii=False) if recipe["parameters"] else "defaults"
    )
    return f"""---
library_name: transformers
tags: [merge, taskgrove]
{base}---
# {name}

Merged by taskgrove {facts["taskgrove"]} with `{recipe["method"]}` (parameters: {shown}) from

{tuned}

| input | digest (XXH3-128) |
| --- | --- |
{rows}

`{RECORD}` holds the recipe; `taskgrove merge {RECORD} --out FOLDER` makes this model again.
"""


def _vary(plan: Plan) -> bool:
    return len(set(map(repr, plan.parameters.values()))) > 1


def _whole(model: Model) -> str:
    """The digest of a folder that is not merged but read beside a model: Fisher, Gram."""
    total = xxhash.xxh3_128()
    for name in sorted(model.entries):
        entry = model.entries[name]
        numbers = xxhash.xxh3_128()
        for start in range(0, entry.size, BLOCK):
            stop = min(start + BLOCK, entry.size)
            room = memoryview(bytearray((stop - start) * (entry.bytes // entry.size)))
            numbers.update(model.read(name, start, stop, room).data.cast("B"))
        total.update(f"{name} {entry.dtype} {entry.shape} {numbers.hexdigest()}\n".encode())
    return total.hexdigest()


def _digest(model: Model, digests: Mapping[str, Sequence[str]], n: int) -> str:
    total = xxhash.xxh3_128()
    for name in sorted(name for name, found in digests.items() if found):
        entry = model.entries[name]
        total.update(f"{name} {entry.dtype} {entry.shape} {digests[name][n]}\n".encode())
    return total.hexdigest()
