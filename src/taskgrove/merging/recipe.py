"""A recipe file: a merge in a few lines of YAML, or JSON as `merge.json` of a merged model is.

method: ties
base: models/base
tuned: [models/law, models/code]
parameters:
  density: 0.2
  scale: [["*.mlp.*", 0.6], ["*", 1.0]]
"""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from taskgrove.errors import TaskgroveError, did_you_mean, listed
from taskgrove.merging.plan import Recipe

KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "method": (str, "a word"),
    "tuned": ((list, tuple), "a list of folders"),
    "base": ((str, type(None)), "a folder"),
    "parameters": (dict, "names and values"),
    "dtype": ((str, type(None)), "fp32, bf16 or fp16"),
    "ignore": ((list, tuple), "a list of patterns"),
    "shard_size": (int, "a number of bytes"),
    "allow_nan": (bool, "true or false"),
    "beside": (dict, "kinds and lists of folders"),
    "vocabulary": ((str, type(None)), "union or base"),
}


def recipe_of(path: Path) -> Recipe:
    """Reads a recipe; unknown keys are errors. Folders are seen from the working directory."""
    facts = _read(path)
    facts = facts.get("recipe", facts)
    names = [field.name for field in fields(Recipe)]
    for key, value in facts.items():
        if key not in names:
            raise TaskgroveError(
                f'{path}: there is no key "{key}"; there are {listed(names, 20)}.'
                f"{did_you_mean(str(key), names)}"
            )
        kind, words = KINDS[key]
        if not isinstance(value, kind):
            raise TaskgroveError(f"{path}: {key} is {value!r}; expected {words}.")
    if missing := [key for key in ("method", "tuned") if key not in facts]:
        raise TaskgroveError(f"{path} lacks {listed(missing)}.")
    lists = {key: tuple(facts[key]) for key in ("tuned", "ignore") if key in facts}
    return Recipe(**{**facts, **lists})


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise TaskgroveError(f"{path} does not exist; expected a recipe (method, base, tuned).")
    text = path.read_text("utf-8")
    try:
        if path.suffix == ".json":
            facts = json.loads(text)
        else:
            from taskgrove.tasks.strict_yaml import parse

            facts = parse(text, str(path))
    except ValueError as error:
        raise TaskgroveError(f"{path} cannot be read: {error}") from None
    if not isinstance(facts, dict):
        raise TaskgroveError(f"{path} holds no keys; expected method, base, tuned, parameters.")
    return facts
