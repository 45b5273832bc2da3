"""How to repeat a run, and what it had to say."""

import json
import shlex
from typing import Any

from taskgrove.measuring.report_parts.wording import (
    count,
    finite,
)

Results = dict[str, Any]


def how_to_repeat(results: Results) -> dict[str, Any]:
    """The command, the exact configuration, and where and with what the numbers were made."""
    config = results.get("config") or {}
    seeds = config.get("seeds", [])
    seeds = seeds if isinstance(seeds, list) else [seeds]
    facts = [
        ("created", results.get("created")),
        ("machine", results.get("machine")),
        ("seeds", ", ".join(map(str, seeds))),
        ("versions", ", ".join(f"{k} {v}" for k, v in (results.get("versions") or {}).items())),
        ("shared start", _start(results.get("start") or {})),
        ("best model", _best(results.get("best") or {})),
    ]
    return {
        "command": _command(results, config, seeds),
        "config": json.dumps(config, indent=2, ensure_ascii=False, default=str),
        "facts": [(key, str(value)) for key, value in facts if value],
        "suite": config["tasks"] if isinstance(config.get("tasks"), str) else "",
        "seeds": len(seeds),
    }


def _command(results: Results, config: dict[str, Any], seeds: list[Any]) -> str:
    given = results.get("command") or config.get("command")
    if given:
        return given if isinstance(given, str) else shlex.join(map(str, given))
    words = ["taskgrove", "compare"]
    if isinstance(config.get("tasks"), str):
        words += ["--tasks", config["tasks"]]
    words += ["--methods", ",".join(results["methods"])]
    return shlex.join(words + (["--seeds", str(len(seeds))] if seeds else []))


def _start(start: dict[str, Any]) -> str:
    passes, seconds = finite(start.get("passes")), finite(start.get("seconds"))
    parts = [f"{count(passes[0])} training passes"] if passes else []
    return ", ".join(parts + ([f"{seconds[0]:,.1f} s"] if seconds else []))


def _best(best: dict[str, Any]) -> str:
    if not best.get("method"):
        return ""
    seed = f", seed {best['seed']}" if best.get("seed") is not None else ""
    return f"{best['method']}{seed}" + (f", in {best['folder']}/" if best.get("folder") else "")


def notes(results: Results) -> list[dict[str, str]]:
    """What the run and its methods had to say."""
    found = [{"name": "", "text": str(note)} for note in results.get("notes") or []]
    for name, method in results["methods"].items():
        found += [{"name": name, "text": str(note)} for note in method.get("notes") or []]
    return found
