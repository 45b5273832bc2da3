"""docs/balancing/: each page is what its method's file says, and its lines work."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from taskgrove.balancing import BALANCERS
from taskgrove.balancing.choice import Setup

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs" / "balancing"


def load_tool():
    path = ROOT / "tools" / "build_balancing_pages.py"
    spec = importlib.util.spec_from_file_location("build_balancing_pages", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = load_tool()


def text_of(name):
    return (PAGES / f"{name}.md").read_text("utf-8")


def without_figures(text):
    return re.sub(rf"^{tool.MEASURED}\n.*?(?=^## )", "", text, flags=re.MULTILINE | re.DOTALL)


def figures(text):
    """Rows of the section of figures."""
    section = re.search(rf"^{tool.MEASURED}\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    return re.findall(r"^\| \w+ \| \d.*$", section[1], re.MULTILINE) if section else []


def test_there_is_a_page_for_each_method():
    assert {path.stem for path in PAGES.glob("*")} == set(BALANCERS)


@pytest.mark.parametrize("name", BALANCERS)
def test_a_page_is_what_the_tool_writes(name):
    """A study that goes on may have figures that a page has not yet, but a page has none of old."""
    old, new = text_of(name), tool.page(name)
    told = "run python tools/build_balancing_pages.py"
    assert without_figures(old) == without_figures(new), told
    assert set(figures(old)) <= set(figures(new)), told


@pytest.mark.parametrize("name", BALANCERS)
def test_a_page_has_all_parts_and_its_links_lead_somewhere(name):
    text = text_of(name)
    for part in ("# ", "**Cost:**", "**Use it when**", "**Tuned sums do as well", "**Differs from"):
        assert part in text
    assert text.startswith("# ")
    assert len(re.findall(r"^```", text, re.MULTILINE)) % 2 == 0
    links = re.findall(r"\]\((?!https:)([^)]+)\)", text.split("## The source\n")[0])
    assert links
    assert [link for link in links if not (PAGES / link).exists()] == []


@pytest.mark.parametrize("name", BALANCERS)
def test_the_lines_for_a_loop_of_ones_own_work(name):
    torch.manual_seed(0)
    trunk, heads = nn.Linear(4, 8), nn.ModuleList(nn.Linear(8, 1) for _ in range(3))
    x = torch.randn(6, 4)

    def losses_of():
        z = trunk(x).tanh()
        return [head(z).square().mean() for head in heads]

    parameters = [*trunk.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters)
    given = {"trunk": trunk, "optimiser": optimiser, "torch": torch, "losses_of": losses_of}
    block = re.search(rf"{tool.HEAD}\n\n```python\n(.*?)^```", text_of(name), re.M | re.S)
    exec(block[1], given | {"losses": losses_of()})
    assert all(p.grad is not None and p.grad.any() for p in parameters)
    known = sum(len(group["params"]) for group in optimiser.param_groups)
    balancer = BALANCERS[name].make(Setup(tasks=3))
    learned = list(balancer.parameters()) if isinstance(balancer, nn.Module) else []
    assert known == len(parameters) + len(learned)


def study(seeds, **scores):
    runs = {
        f"{arm}/seed {seed}": {"goodness": score, "rate": 0.002, "setting": ""}
        for arm, of in scores.items()
        for seed, score in zip(seeds, of, strict=False)
    }
    return {"suite": "toy", "steps": 7, "seeds": seeds, "trials": 4, "runs": runs}


def test_figures_are_the_studys(tmp_path, monkeypatch):
    kept = study([0, 1, 2], static=[0.5, 0.6, 0.7], mgda=[0.51, 0.63, 0.72], nash=[0.5])
    (tmp_path / "study-balancing-toy.json").write_text(json.dumps(kept))
    monkeypatch.setattr(tool, "RESULTS", tmp_path)
    # gaps 1, 3, 2: mean 2, deviation 1, t(0.975, 2) = 4.303, half 4.303 / sqrt(3)
    assert figures(tool.page("mgda")) == ["| toy | 7 | 3 | 62.00 | +2.00 +- 2.48 | rate 0.002 |"]
    assert figures(tool.page("fixed")) == ["| toy | 7 | 3 | 60.00 | this is them | rate 0.002 |"]
    assert tool.MEASURED not in tool.page("nash")  # not all seeds yet
    assert tool.MEASURED not in tool.page("upgrad")


def test_no_study_no_section(tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "RESULTS", tmp_path)
    assert all(tool.MEASURED not in tool.page(name) for name in BALANCERS)


def test_check_tells_what_is_stale(tmp_path, monkeypatch, capsys):
    pages = tmp_path / "docs" / "balancing"
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(tool, "PAGES", pages)
    pages.mkdir(parents=True)
    monkeypatch.setattr("sys.argv", ["build"])
    assert tool.main() == 0
    monkeypatch.setattr("sys.argv", ["build", "--check"])
    assert tool.main() == 0
    (pages / "mgda.md").write_text("old")
    (pages / "gone.md").write_text("a method that is no more")
    capsys.readouterr()
    assert tool.main() == 1
    told = "not up to date: docs/balancing/mgda.md\nnot up to date: docs/balancing/gone.md\n"
    assert capsys.readouterr().out == told
    assert (pages / "mgda.md").read_text() == "old"


def test_the_table_of_all_methods_says_what_each_needs():
    text = (PAGES.parent / "balancing.md").read_text("utf-8")
    rows = re.findall(r"^\| \[`(\w+)`\]\(balancing/(\w+)\.md\) \| (\w+) \|", text, re.MULTILINE)
    declared = [(name, name, choice.needs) for name, choice in BALANCERS.items()]
    assert sorted(rows) == sorted(declared)
