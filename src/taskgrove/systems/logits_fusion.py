"""logits_fusion: a large model with small models' skills, while it decodes (see composing/).

On your own models: `taskgrove generate logits-fusion --large L --small S --experts E1 E2 ...`.

The experiment: real text of four kinds and a fifth, Cython, that no expert has seen (see
suites/text_kinds). A large and a small model are trained once on prose with a little of each kind.
Each seed draws documents; experts are the small model, tuned on one kind; the ceiling is the large
one, tuned on it. Known kind: its expert alone; unknown and unseen kind: all experts at once.
Validation chooses static alphas; the rest was fixed on documents that no seed draws.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from torch import Tensor

from taskgrove.composing.dynamic_alpha import Rule
from taskgrove.composing.scored_text import Text, best_static, read_text, windows
from taskgrove.measuring.claim import Claim, Statement, paired
from taskgrove.suites.text_models import WINDOW, bytes_of, pretrained, train
from taskgrove.suites.text_splits import draw, mixture
from taskgrove.systems.system import Found, System

KINDS, UNSEEN = ("python", "headers", "yaml", "docs"), "cython"
STATIC = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.2, 1.4, 1.7, 2.0)
PROXY = Rule(alpha=1.0)
ONE = {"proxy_tuning": PROXY, "dynamic": Rule()}
SEVERAL = {
    "all_ones": PROXY, "uniform": Rule(alpha=1 / len(KINDS)), "dynamic": Rule("random"),
    "dynamic_axes": Rule("axes"), "axes_no_centre": Rule("axes", centroid=False),
    "joint_ours": Rule("joint"),
}  # fmt: skip
READ = (  # what else is compared
    ("known", "dynamic", "small_expert"), ("known", "dynamic", "static"),
    ("unknown", "dynamic", "static"), ("unknown", "joint_ours", "uniform"),
    ("unknown", "joint_ours", "static"), ("unseen", "dynamic", "large_base"),
    ("unseen", "dynamic", "static"), ("unseen", "joint_ours", "static"),
)  # fmt: skip
Table = dict[str, list[float]]


@dataclass(frozen=True)
class Size:
    """How large the experiment is: steps of training; characters of a kind; tokens."""

    base: int = 1000
    expert: int = 150
    ceiling: int = 60
    train: int = 300_000
    validation: int = 6_000
    test: int = 12_000


FULL, QUICK = Size(), Size(3, 2, 1, 9_000, 260, 390)


@cache
def base(quick: bool) -> tuple[Any, Any, Any]:
    """Tokenizer, large and small base model."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    size = QUICK if quick else FULL
    folder = pretrained(mixture(KINDS, most=3 if quick else None), size.base)
    large, small = (LlamaForCausalLM.from_pretrained(folder / name) for name in ("large", "small"))
    return AutoTokenizer.from_pretrained(folder / "large"), large, small


def tuned(model: Any, data: Tensor, steps: int, seed: int) -> Any:
    """A copy of the model, trained on."""
    return train(deepcopy(model), data, steps, 2e-3, abs(seed))


def run(arm: str, seed: int, quick: bool) -> Found:
    """What an arm finds: {known, unknown: {kind: {arm: score}}, ...}; see `fused`, `ceiling`."""
    return (fused if arm == "fused" else ceiling)(seed, quick)


def ceiling(seed: int, quick: bool) -> Found:
    """The large model tuned on each kind."""
    size, (tokenizer, large, _) = QUICK if quick else FULL, base(quick)
    found: Found = {}
    for kind in KINDS:
        texts = draw(kind, tokenizer, seed, size.test, size.validation, size.train)
        model = tuned(large, texts["train"], size.ceiling, seed)
        text = read_text(windows(texts["test"], WINDOW), bytes_of(tokenizer), model, large, [large])
        found[kind] = {"tuned": text.score(text.large)}
    return found


def fused(seed: int, quick: bool) -> Found:
    """Everything that is made of the base models and of the small experts."""
    size, (tokenizer, large, small) = QUICK if quick else FULL, base(quick)
    drawn = {
        kind: draw(kind, tokenizer, seed, size.test, size.validation, size.train)
        for kind in (*KINDS, UNSEEN)
    }
    experts = [tuned(small, drawn[kind]["train"], size.expert, seed) for kind in KINDS]

    def text(kind: str, name: str) -> Text:
        rows = windows(drawn[kind][name], WINDOW)
        return read_text(rows, bytes_of(tokenizer), large, small, experts)

    test = {kind: text(kind, "test") for kind in (*KINDS, UNSEEN)}
    validation = {kind: text(kind, "validation") for kind in KINDS}
    chosen = {kind: best_static([validation[kind]], [n], STATIC) for n, kind in enumerate(KINDS)}
    common = best_static(list(validation.values()), [None] * len(KINDS), STATIC)
    several = SEVERAL | {"static": Rule(alpha=common)}
    return {
        "known": {
            kind: test[kind].alone(n)
            | {name: test[kind].fused(rule, n) for name, rule in ONE.items()}
            | {"static": test[kind].fused(Rule(alpha=chosen[kind]), n)}
            for n, kind in enumerate(KINDS)
        },
        "unknown": {
            kind: text.alone() | {name: text.fused(rule) for name, rule in several.items()}
            for kind, text in test.items()
        },
        "by_alpha": {
            kind: [test[kind].fused(Rule(alpha=alpha), n)["bits"] for alpha in STATIC]
            for n, kind in enumerate(KINDS)
        },
        "chosen": chosen | {"unknown": common},
    }


def conclude(found: Mapping[str, list[Found]], seeds: Sequence[int]) -> Claim:
    """The statements, from what each arm and seed found."""
    parts = found["fused"]
    known, unknown = _table(parts, "known", KINDS), _table(parts, "unknown", KINDS)
    known["tuned_large"] = _table([{"": c} for c in found["tuned_large"]], "", KINDS)["tuned"]
    groups = {"known": known, "unknown": unknown, "unseen": _table(parts, "unknown", [UNSEEN])}
    base, top = np.array(known["large_base"]), np.array(known["tuned_large"])
    gap = {a: (100 * (base - np.array(b)) / (base - top)).tolist() for a, b in known.items()}
    by_alpha = {
        kind: {str(a): [part["by_alpha"][kind][n] for part in parts] for n, a in enumerate(STATIC)}
        for kind in KINDS
    }
    ahead = float(np.mean(np.array(known["small_base"]) - base))
    shares = ", ".join(f"{arm} {np.mean(share):.0f}" for arm, share in gap.items())
    notes = [f"The large base model is {ahead:.2f} bits a byte below the small one."]
    notes += [f"Gap to the tuned large model that is closed, known kind, %: {shares}."]
    return Claim(
        "logits_fusion", "bits per byte, less is better", list(seeds),
        {f"{name} kind": arms for name, arms in groups.items()},
        _statements(groups, gap["dynamic"], _table(parts, "known", KINDS, "accuracy")),
        {"known kind, by static alpha": by_alpha}, dict(found), notes,
    )  # fmt: skip


def _table(parts: Sequence[Found], group: str, kinds: Sequence[str], what: str = "bits") -> Table:
    """{arm: [seed]}, the mean of the kinds."""
    arms = parts[0][group][kinds[0]]
    return {a: [float(np.mean([p[group][k][a][what] for k in kinds])) for p in parts] for a in arms}


def _statements(groups: Mapping[str, Table], gap: list[float], right: Table) -> list[Statement]:
    def less(group: str, ours: str, theirs: str) -> list[float]:
        return paired([groups[group][theirs]], [groups[group][ours]])

    either = [less(group, "dynamic", "static") for group in ("known", "unknown")]
    return [
        Statement("known kind: dynamic is not worse than proxy tuning, bits a byte",
                  less("known", "dynamic", "proxy_tuning"), 0.0, 0.01),
        Statement("known kind: dynamic closes half of the gap to the tuned large one, %", gap, 50),
        Statement("unknown kind: dynamic is 0.03 bits a byte or more below the uniform sum",
                  less("unknown", "dynamic", "uniform"), 0.03),
        Statement("known and unknown kind: dynamic is below the best static alpha",
                  np.mean(either, 0).tolist()),
        *(
            Statement(f"{pair[0]} kind: {pair[1]} is below {pair[2]}", less(*pair), decides=False)
            for pair in READ
        ),
        Statement("known kind: dynamic is right more often than proxy tuning, % of tokens",
                  paired([right["dynamic"]], [right["proxy_tuning"]]), decides=False),
    ]  # fmt: skip


SYSTEM = System(
    slug="logits_fusion",
    title="On Giant's Shoulders: Effortless Weak to Strong by Dynamic Logits Fusion, Fan et al.",
    year=2024,
    link="https://arxiv.org/abs/2406.15480",
    folders=("composing", "measuring"),
    about="A large model, never trained, decodes with the skills of small tuned ones: what tuning"
    " changed in the small models' logits is added to its own. The weights are chosen at each"
    " token, such that the large model's distribution moves as far, in KL divergence, as the small"
    " one's did. No training of the large model is to be needed.",
    expected="With models this small it does not hold: matching the divergence moves the large one"
    " too far, and a static alpha that validation chooses is better, with one expert and several.",
    seconds=550,
    command="taskgrove reproduce logits_fusion",
    arms=("fused", "tuned_large"),
    run=run,
    conclude=conclude,
)
