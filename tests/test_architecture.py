"""The arrows of the design point one way, the tables match the files, and help is quick to load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import taskgrove

ROOT = Path(taskgrove.__file__).parent
EIGHT = {
    "tasks", "mixing", "objectives", "sharing", "balancing", "merging", "composing", "measuring",
}  # fmt: skip
MAY_IMPORT = {
    **{folder: EIGHT | {"backbones"} for folder in EIGHT},
    "backbones": {"tasks"},
    "tasks": set(),
    "suites": {"tasks"},
    "training": EIGHT | {"backbones"},
    "methods": EIGHT | {"backbones", "training"},
    "systems": EIGHT | {"backbones", "training", "methods", "suites"},
}


def imports(path):
    """The taskgrove folders that a file imports."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("taskgrove."):
            yield node.module.split(".")[1]
        if isinstance(node, ast.Import):
            yield from (
                name.name.split(".")[1] for name in node.names if name.name.startswith("taskgrove.")
            )


@pytest.mark.parametrize("folder", sorted(MAY_IMPORT))
def test_arrows_point_one_way(folder):
    allowed = MAY_IMPORT[folder] | {folder, "errors", "shapes"}
    found = {
        (path.name, target) for path in (ROOT / folder).rglob("*.py") for target in imports(path)
    }
    assert {(name, target) for name, target in found if target not in allowed} == set()


def test_no_file_is_a_drawer():
    names = {path.stem for path in ROOT.rglob("*.py")}
    assert not names & {"utils", "helpers", "common", "misc", "manager", "base"}


def test_help_needs_no_heavy_import():
    code = "import taskgrove.cli, sys; print([m for m in ('torch','transformers','pyarrow','numpy',"
    code += "'datasets','matplotlib','sklearn','pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
