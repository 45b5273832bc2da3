"""YAML with the safe loader that refuses a key written twice in one mapping."""

from typing import Any

import yaml

from taskgrove.errors import TaskgroveError


def parse(text: str, file: str) -> Any:
    """The value of a YAML text; `file` is its name in messages."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise TaskgroveError(f"{file} is not valid YAML{place}: {problem}") from None
    except _WrittenTwiceError as twice:
        raise TaskgroveError(f"{file}: {twice}") from None


class _WrittenTwiceError(Exception):
    """The same key twice in one mapping; plain YAML would silently keep the last."""


_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the fast one, where built


class _Loader(_SafeLoader):
    """The safe loader, refusing a key that stands twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key.value, str) or key.value == "<<":
                continue
            if key.value in seen:
                raise _WrittenTwiceError(
                    f'"{key.value}" is written twice (lines {seen[key.value]} and {line}); '
                    "two tasks, and two keys of one task, need different names"
                )
            seen[key.value] = line
        return super().construct_mapping(node, deep)
