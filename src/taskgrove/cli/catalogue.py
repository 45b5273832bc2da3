"""What there is, read from the files' text: to list names must not cost the import of torch.

Each folder has one explicit table, so a name leads to its row, the row to the file it was imported
from, and there stands its sentence. Tests compare all that is read here with what imports say.
"""

import ast
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import taskgrove

ROOT = Path(taskgrove.__file__).parent


def methods() -> dict[str, dict[str, str]]:
    """{group: {method: sentence}}."""
    return {
        "baselines": _methods("BASELINES"),
        "balancing, on one shared trunk": _methods("BALANCING"),
        "merging of the single models": _methods("MERGING"),
        "parts of each task's own on one trunk": _methods("SHARING"),
    }


def backbones() -> dict[str, str]:
    """{backbone: the first line of its file}."""
    rows = _rows("backbones", "BACKBONES") | {"minilm": ast.Name("minilm")}
    return {name: _title(_home("backbones", node)[0]) for name, node in rows.items()}


def suites() -> dict[str, str]:
    """{suite: sentence}."""
    calls = [n for n in ast.walk(_tree("suites")) if isinstance(n, ast.Call)]
    made = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "Suite"]
    return dict([ast.literal_eval(word) for word in call.args[:2]] for call in made)


def systems(claims: Path) -> dict[str, str]:
    """{system: title, year, verdict}."""
    found = {}
    for name, node in _rows("systems", "SYSTEMS").items():
        call = _home("systems", node)[1]
        assert isinstance(call, ast.Call)
        plain = {k.arg: k.value for k in call.keywords if k.arg in ("title", "year", "command")}
        facts = {key: ast.literal_eval(value) for key, value in plain.items()}
        verdict = standing(name, claims, facts["command"])
        found[name] = f"{facts['title']} {facts['year']}: {verdict}"
    return found


def standing(slug: str, claims: Path, command: str) -> str:
    """The verdict that `CLAIMS/SLUG.json` holds, and when it was found."""
    path = claims / f"{slug}.json"
    if not path.exists():
        return f"not tried here ({command})"
    try:
        facts = json.loads(path.read_text("utf-8"))
        return f"{facts['verdict']} ({len(facts['seeds'])} seeds, {facts['created'][:10]})"
    except (ValueError, KeyError, TypeError, OSError):
        return f"{path} cannot be read ({command} writes it again)"


def _methods(table: str) -> dict[str, str]:
    """{method: its sentence}, of rows that are written out or made of another table's."""
    found = {}
    for part in _values("methods", table):
        if isinstance(part, ast.DictComp):  # {name: ... for name, row in TABLE.items() if ...}
            loop = part.generators[0]
            names = [n.id for n in ast.walk(loop.iter) if isinstance(n, ast.Name)]
            home = _owner("methods", names[0])
            without = [n.id for test in loop.ifs for n in ast.walk(test) if isinstance(n, ast.Name)]
            out = {key for name in without for key in _set(name)}
            rows = _rows(home, names[0]).items()
            found |= {key: _about(*_home(home, row)) for key, row in rows if key not in out}
        elif isinstance(part, ast.Dict):
            keys = [ast.literal_eval(key) for key in part.keys if key is not None]
            rows_ = zip(keys, part.values, strict=True)
            found |= {key: _about(*_home("methods", row)) for key, row in rows_}
    return found


def _set(name: str) -> set[str]:
    """The names in a set of methods/__init__, if it is one."""
    try:
        parts = _values("methods", name)
    except KeyError:
        return set()
    return {key for part in parts if isinstance(part, ast.Set) for key in ast.literal_eval(part)}


def _owner(module: str, name: str) -> str:
    """The module that makes what a package hands on."""
    while name in _imported(module):
        module = _imported(module)[name]
    return module


def _about(module: str, made: ast.AST) -> str:
    """The sentence of `Thing("...", ...)`, `Thing(about="...")` or a class with `about = "..."`."""
    if isinstance(made, ast.ClassDef):
        own = [n for n in made.body if isinstance(n, ast.AnnAssign)]
        given = {n.target.id: n.value for n in own if isinstance(n.target, ast.Name)}
    else:
        assert isinstance(made, ast.Call)
        named = {k.arg: k.value for k in made.keywords}
        texts = [arg for arg in made.args if isinstance(arg, ast.Constant)]
        given = dict(zip(["about"], texts, strict=False)) | named
        if "about" not in given:  # an instance of a class that has it
            return _about(*_home(module, made.func))
    sentence = given["about"]
    assert sentence is not None
    return ast.literal_eval(sentence)


def _rows(module: str, table: str) -> dict[str, ast.expr]:
    """The keys and values that are written out in a table."""
    shown = [node for node in _values(module, table) if isinstance(node, ast.Dict)]
    pairs = [pair for node in shown for pair in zip(node.keys, node.values, strict=True)]
    return {ast.literal_eval(key): value for key, value in pairs if key is not None}


def _values(module: str, name: str) -> list[ast.AST]:
    """The parts of what is assigned to a name, in order."""
    for node in _tree(module).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(t, ast.Name) and t.id == name for t in targets):
            return list(_parts(getattr(node, "value", None)))
    raise KeyError(f"{name} in {module}")


def _parts(value: ast.AST | None) -> Iterator[ast.AST]:
    """The operands of `|`, or the value itself."""
    if isinstance(value, ast.BinOp):
        yield from _parts(value.left)
        yield from _parts(value.right)
    elif value is not None:
        yield value


def _home(module: str, node: ast.AST) -> tuple[str, ast.AST]:
    """The module where a row's value is made, and the expression or class that makes it."""
    if isinstance(node, ast.Attribute):  # mean.CHOICE, of a module that was imported
        assert isinstance(node.value, ast.Name)
        home = _imported(module)[node.value.id]
        return home, _values(home, node.attr)[0]
    if isinstance(node, ast.Name):
        home = _imported(module)[node.id]
        made = (n for n in _tree(home).body if getattr(n, "name", None) == node.id)
        return home, next(made)
    return module, node


def _imported(module: str) -> dict[str, str]:
    """{name: the module that it is, or that it is from}, of ours."""
    found = {}
    for node in _tree(module).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("taskgrove."):
            source = (node.module or "").removeprefix("taskgrove.")
            for each in node.names:
                inner = f"{source}.{each.name}"
                found[each.asname or each.name] = inner if _file(inner).exists() else source
    return found


def _title(module: str) -> str:
    return (ast.get_docstring(_tree(module)) or "").splitlines()[0]


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_file(module).read_text("utf-8"))


def _file(module: str) -> Path:
    place = ROOT.joinpath(*module.split("."))
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
