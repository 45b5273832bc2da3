"""modular_vision: experts with a router a task, trained on data sets that share no picture.

On your own data: `taskgrove train experts --tasks tasks.yaml --out model` (copies of a trunk's
blocks as experts, see sharing/upcycle); in your own loop `MixtureOfExperts`, `prune`, `extend`.

The experiment: a small vision transformer (systems/modular) learns digits, letters of fonts, emoji
groups and clip art folders, a batch of one task at a time, as many steps a task in all arms. `mi`
and `balance` are the same mixture under the mutual information or the Switch loss; `dense` has
equal active products; `single` is one dense model a task. Then, for each task, experts that hold
less than 5 % of the gates' mass on validation rows are dropped, and Greek letters, 10 shots, are
learned as a fifth task. Both losses have the weight of their papers; `mi_10x` is told beside.
Nothing was tuned but the size of the whole, on validation rows of seed 100, which is not among the
seeds. Differs from the paper: classification only, 28 x 28 pixels.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter

import torch
from torch import Tensor, nn

from taskgrove.measuring.claim import Claim, Statement, paired
from taskgrove.systems.modular.expert_vit import ExpertVit, with_new_task
from taskgrove.systems.modular.heterogeneous import accuracy, masses, new_model, pruned, train
from taskgrove.systems.modular.vision_tasks import TASKS, Data, data, greek
from taskgrove.systems.system import Found, System

STEPS, NEW_STEPS, QUICK = 200, 100, 1  # a task
LOSSES = {  # a mixture's weight: of Mod-Squad, ten times as much, of Switch
    "mi": ("mutual_information", 0.005),
    "mi_10x": ("mutual_information", 0.05),
    "balance": ("switch_balance", 0.01),
}
ARMS = ("single", "dense", *LOSSES)
KEEP = (0.5, 0.8, 0.95, 0.99)  # of the gates' mass
PAIRS = (("digits", "letters"), ("digits", "fluent"))  # both characters; not


def run(arm: str, seed: int, quick: bool) -> Found:
    """{test, validation: {task: %}, and for experts: kept, pruned, mass, overlap, greek}."""
    start, (parts, classes) = perf_counter(), data(seed, quick)
    steps, sizes = QUICK if quick else STEPS, list(classes.values())
    first = {n: parts[task]["train"] for n, task in enumerate(TASKS)}
    if arm == "single":
        models = [new_model(sizes, seed, experts=False) for _ in TASKS]
        for n, model in enumerate(models):
            train(model, {n: first[n]}, steps, seed)
    else:
        models = [new_model(sizes, seed, experts=arm in LOSSES)] * len(TASKS)
        train(models[0], first, steps, seed, *LOSSES.get(arm, ("none", 0.0)))
    found: Found = {
        split: {t: accuracy(models[n], parts[t][split], n) for n, t in enumerate(TASKS)}
        for split in ("validation", "test")
    }
    if arm in LOSSES:
        found |= _modular(models[0], parts)
    if arm == "mi":
        found["greek"] = _greek(models[0], parts, seed, quick)
    return {**found, "seconds": perf_counter() - start}


def _modular(model: ExpertVit, parts: Data) -> Found:
    """What each task needs of the model; `overlap`: the mass that two tasks' gates have in common,
    a mean over the mixtures."""
    mass = {t: masses(model, parts[t]["validation"], n) for n, t in enumerate(TASKS)}
    shrunk = {
        str(keep): {t: pruned(model, mass[t], parts[t]["test"], n, keep)
                    for n, t in enumerate(TASKS)}
        for keep in KEEP
    }  # fmt: skip

    def common(a: str, b: str) -> float:
        return torch.stack(
            [torch.minimum(x, y).sum() for x, y in zip(mass[a], mass[b], strict=True)]
        ).mean().item()  # fmt: skip

    return {
        "pruned": {keep: {t: pair[1] for t, pair in each.items()} for keep, each in shrunk.items()},
        "kept": {keep: {t: pair[0] for t, pair in each.items()} for keep, each in shrunk.items()},
        "mass": {t: [m.tolist() for m in each] for t, each in mass.items()},
        "overlap": {f"{a}-{b}": common(a, b) for a, b in PAIRS},
    }


def _greek(model: ExpertVit, parts: Data, seed: int, quick: bool) -> Found:
    """A fifth task by new routers, by new routers and two experts a mixture, or from a start that
    knows nothing; test accuracy, parameters, and whether old outputs are the same bits."""
    few, test = greek(seed, quick)
    steps, task, found = QUICK if quick else NEW_STEPS, len(TASKS), {}
    ways: dict[str, Callable[[ExpertVit], list[nn.Parameter]]] = {
        "router": lambda new: with_new_task(new, 24, 0),
        "router_experts": lambda new: with_new_task(new, 24, 2),
        "all": lambda new: _all(new),
    }
    seen = [parts[t]["test"][0][:32] for t in TASKS]
    for name, way in ways.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            new = copy.deepcopy(model)
            own = way(new)
        before = _outputs(model, seen)
        train(new, {task: few}, steps, seed, own=own)
        same = all(torch.equal(a, b) for a, b in zip(before, _outputs(new, seen), strict=True))
        size = sum(p.numel() for p in own)
        found[name] = {"test": accuracy(new, test, task), "trained": size, "old_same_bits": same}
    fresh = new_model([24], seed, experts=False)
    train(fresh, {0: few}, steps, seed)
    size = sum(p.numel() for p in fresh.parameters())
    return {**found, "scratch": {"test": accuracy(fresh, test, 0), "trained": size}}


def _all(model: ExpertVit) -> list[nn.Parameter]:
    with_new_task(model, 24, 0)
    return list(model.requires_grad_().parameters())


@torch.no_grad()
def _outputs(model: ExpertVit, seen: list[Tensor]) -> list[Tensor]:
    return [model(x, n)[0] for n, x in enumerate(seen)]


def conclude(found: Mapping[str, list[Found]], seeds: Sequence[int]) -> Claim:
    """The statements, from what each arm and seed found."""
    single = found["single"]
    scores = {
        "relative gain": {arm: [_gain(p, s) for p, s in zip(parts, single, strict=True)]
                          for arm, parts in found.items() if arm != "single"},
        "accuracy": {arm: [_mean(part["test"]) for part in parts] for arm, parts in found.items()},
    }  # fmt: skip

    def each(arm: str, what: Callable[[Found], float]) -> list[float]:
        return [what(part) for part in found[arm]]

    def fewer(arm: str, keep: str = "0.95") -> list[float]:
        return each(arm, lambda part: _mean(part["kept"][keep]))

    def lost(part: Found) -> float:
        return _mean(part["pruned"]["0.95"]) - _mean(part["test"])

    mi, balance = "mi", "balance"
    gain, kept = scores["relative gain"], (fewer(balance), fewer(mi))
    related, other = ("-".join(pair) for pair in PAIRS)
    over = each(mi, lambda p: 100 * (p["overlap"][related] - p["overlap"][other]))
    fixed = ("router", "router_experts")
    same = each(mi, lambda p: 50.0 * sum(p["greek"][w]["old_same_bits"] for w in fixed))
    statements = [
        Statement("mi keeps 20 points fewer experts than balance at 95 % of the gates' mass",
                  paired([kept[0]], [kept[1]]), 20.0),
        Statement("pruned to them, mi loses at most 1 point", each(mi, lost), 0.0, 1.0),
        Statement("mi is not below dense by 1 % of the single models",
                  paired([gain[mi]], [gain["dense"]]), 0.0, 1.0),
        Statement("mi is above balance", paired([gain[mi]], [gain[balance]]), decides=False),
        Statement("mi_10x keeps 20 points fewer experts than balance",
                  paired([kept[0]], [fewer("mi_10x")]), 20.0, decides=False),
        Statement("pruned to 95 %, mi_10x loses at most 1 point", each("mi_10x", lost), 0.0, 1.0,
                  decides=False),
        Statement("mi_10x is not below dense by 1 %", paired([gain["mi_10x"]], [gain["dense"]]),
                  0.0, 1.0, decides=False),
        Statement("mi is above single models", gain[mi], decides=False),
        Statement("pruned to 95 %, balance loses at most 1 point", each(balance, lost), 0.0, 1.0,
                  decides=False),
        Statement("digits and letters share more mass than digits and emoji, points", over,
                  decides=False),
        Statement("Greek by routers alone is above training from scratch",
                  each(mi, lambda p: p["greek"]["router"]["test"] - p["greek"]["scratch"]["test"]),
                  decides=False),
        Statement("Greek by new experts is above routers alone",
                  each(mi, lambda p: p["greek"]["router_experts"]["test"]
                       - p["greek"]["router"]["test"]), decides=False),
    ]  # fmt: skip
    curves = {
        f"{what} by share of the gates' mass kept": {
            arm: {keep: [_mean(part[key][keep]) for part in found[arm]] for keep in map(str, KEEP)}
            for arm in LOSSES
        }
        for what, key in (("experts kept, %", "kept"), ("accuracy after pruning", "pruned"))
    }
    notes = [f"old outputs after extension are the same bits in {sum(same) / len(same):.0f} %"
             " of the cases (frozen experts)"]  # fmt: skip
    for way in ("router", "router_experts", "all", "scratch"):
        parts = [part["greek"][way] for part in found[mi]]
        test = sum(p["test"] for p in parts) / len(parts)
        notes.append(f"Greek, {way}: {test:.1f} % with {parts[0]['trained']} trained parameters")
    return Claim("modular_vision", "relative gain over single models, %; test accuracy, %",
                 list(seeds), scores, statements, curves, dict(found), notes)  # fmt: skip


def _mean(values: Mapping[str, float]) -> float:
    return sum(values.values()) / len(values)


def _gain(part: Found, single: Found) -> float:
    """Mean over the tasks of the relative gain over their single models, %."""
    pairs = [(part["test"][task], single["test"][task]) for task in TASKS]
    return sum(100 * (ours - theirs) / theirs for ours, theirs in pairs) / len(pairs)


SYSTEM = System(
    slug="modular_vision",
    title="An Efficient General-Purpose Modular Vision Model via Multi-Task Heterogeneous Training,"
    " Chen et al.",
    year=2023,
    link="https://arxiv.org/abs/2306.17165",
    folders=("sharing", "measuring", "systems/modular"),
    about="One vision transformer with experts in attention and feed-forward layers learns from"
    " data sets that share no picture, with a router a task. A mutual information loss makes each"
    " task prefer few experts while all are used. A task's part can be cut out, and new tasks added"
    " without a change to old ones.",
    expected="The mutual information keeps many fewer experts a task than a balance loss at equal"
    " accuracy, and is as accurate as a dense model of equal active size.",
    seconds=1500,
    command="taskgrove reproduce modular_vision",
    arms=ARMS,
    run=run,
    conclude=conclude,
    seeds=3,
)
