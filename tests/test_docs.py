"""The pages in docs/: their Python runs, their links lead somewhere, they name all there is."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from taskgrove.backbones import BACKBONES
from taskgrove.balancing import BALANCERS
from taskgrove.measuring import METRICS
from taskgrove.merging.static.table import STATIC
from taskgrove.methods import DEFAULT, GROUPS
from taskgrove.mixing import RATES
from taskgrove.objectives import OBJECTIVES
from taskgrove.objectives.supervised import LOSSES
from taskgrove.sharing.table import CHOICES
from taskgrove.tasks.schema import KEYS
from taskgrove.training.budget import Budget
from taskgrove.training.options import Options

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
DECISIONS = (
    "tasks", "mixing", "objectives", "sharing", "balancing", "merging", "composing", "measuring",
    "training", "backbones", "parts",
)  # fmt: skip
NAMES = {
    "training": {*DEFAULT, *GROUPS, *(field.name for field in dataclasses.fields(Options))},
    "balancing": set(BALANCERS),
    "merging": {*STATIC, "adamerging", "atlas", "self_positioning", "rebasin"},
    "mixing": set(RATES),
    "parts": set(CHOICES),
    "backbones": {*BACKBONES, "minilm"},
    "measuring": set(METRICS),
    "objectives": {*OBJECTIVES, *LOSSES},
    "tasks": {*KEYS["top"], *KEYS["task"], *KEYS["split"], *KEYS["data"]},
}
FENCE = re.compile(r"^```(\w*)$")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def text_of(page: str) -> str:
    return (ROOT / "docs" / f"{page}.md").read_text("utf-8")


def python_of(text: str) -> str:
    """The page with everything but its python blocks blanked: a traceback names the page's line."""
    language, lines = None, []
    for line in text.splitlines():
        fence = FENCE.match(line)
        if fence:
            language = fence[1] if language is None else None
        lines.append("" if fence or language != "python" else line)
    return "\n".join(lines) + "\n"


def run(page: str, folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(compile(python_of(text_of(page)), f"{page}.md", "exec"), {"__name__": "__main__"})


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The folder in which the blocks of measuring.md ran."""
    folder = tmp_path_factory.mktemp("measuring")
    run("measuring", folder)
    return folder


def test_there_is_a_page_for_each_decision():
    assert {page.stem for page in PAGES} == set(DECISIONS)


@pytest.mark.parametrize("page", [page for page in DECISIONS if page != "measuring"])
def test_the_python_of_a_page_runs(page, tmp_path):
    run(page, tmp_path)


def test_the_page_on_measuring_names_every_field_of_results(measured):
    results = json.loads((measured / "runs" / "small" / "results.json").read_text("utf-8"))
    method = results["methods"]["joint"]
    fields = {*results, *results["start"], *results["best"], *results["tasks"]["side"], *method}
    fields |= {*method["tasks"]["side"], *method["curves"][0], *method["curves"][0]["points"][0]}
    assert {field for field in fields if field not in words("measuring")} == set()


@pytest.mark.parametrize("page", NAMES)
def test_a_page_names_all_choices(page):
    assert NAMES[page] - words(page) == set()


def test_the_page_on_training_names_the_units_of_a_budget():
    assert all(f"{field.name}=" in text_of("training") for field in dataclasses.fields(Budget))


@pytest.mark.parametrize("file", [ROOT / "README.md", *PAGES], ids=lambda file: file.name)
def test_relative_links_exist(file):
    links = [link.split("#")[0] for link in LINK.findall(file.read_text("utf-8"))]
    relative = [link for link in links if link and not re.match(r"[a-z]+:", link)]
    assert [link for link in relative if not (file.parent / link).exists()] == []


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_a_page_is_narrow_and_short(file):
    lines = file.read_text("utf-8").splitlines()
    assert [number for number, line in enumerate(lines, 1) if len(line) > 110] == []
    assert len(lines) <= 120
    assert "".join(lines).count("```") % 2 == 0


def words(page: str) -> set[str]:
    """What stands in backticks outside of code blocks, piece by piece: `tasks.T.test` is three."""
    prose = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    return {word for code in re.findall(r"`([^`]+)`", prose) for word in re.findall(r"\w+", code)}
