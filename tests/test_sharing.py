"""Parts of each task's own on one trunk: properties that all ways to share have, and errors."""

import copy
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import taskgrove
from command_line import call, works
from reference.grouped_rows import grouped_rows
from taskgrove.backbones import Vit
from taskgrove.errors import TaskgroveError
from taskgrove.methods.start import new_model
from taskgrove.methods.workplace import fitting
from taskgrove.sharing.folder import load
from taskgrove.sharing.grouped import WAYS, grouped, way_of
from taskgrove.sharing.lora import LoRA, teams
from taskgrove.sharing.model import MultiTaskModel
from taskgrove.sharing.route import Route, routed, rows_of_tasks
from taskgrove.sharing.sharing import Sharing
from taskgrove.sharing.table import CHOICES, from_json, read_rules, to_json
from taskgrove.suites import locate
from taskgrove.tasks.inputs import Inputs
from taskgrove.tasks.task import Task
from taskgrove.training.fit import fit
from taskgrove.training.slots import SlotAdamW
from tiny_language_models import tiny_model, tiny_tokenizer

quick = settings(max_examples=40, deadline=None)
TASKS = ["a", "b", "c"]
LAYERS = [("model.layers.*", LoRA(rank=4))]


# --- the grouped product -----------------------------------------------------------------------


def drawn_route(sizes, groups, seed):
    """A route of entries sorted by groups of these sizes, at drawn places of the weights."""
    numbers = torch.randperm(groups, generator=torch.Generator().manual_seed(seed))
    starts = [sum(sizes[:n]) for n in range(len(sizes) + 1)]
    return Route((), torch.arange(sum(sizes)), tuple(starts), tuple(numbers[: len(sizes)].tolist()))


@quick
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=4), st.sampled_from([(), (1,), (3,)]),
    st.integers(1, 5), st.integers(1, 4), st.integers(0, 99),
)  # fmt: skip
def test_grouped_is_its_twin(sizes, tokens, dim, out, seed):
    torch.manual_seed(seed)
    route = drawn_route(sizes, 5, seed)
    double = {"dtype": torch.float64, "requires_grad": True}
    x = torch.randn(sum(sizes), *tokens, dim, **double)
    W, b = torch.randn(5, out, dim, **double), torch.randn(5, out, **double)
    expected = grouped_rows(x, W, route, b)
    signal = torch.randn_like(expected)
    for way in [None, "gather", "wide", "loop", *(["even"] if route.even else [])]:
        y = grouped(x, W, route, b, way)
        torch.testing.assert_close(y, expected)
        if len(x):
            wanted = torch.autograd.grad(expected, (x, W, b), signal, retain_graph=True)
            found = torch.autograd.grad(y, (x, W, b), signal, retain_graph=True)
            torch.testing.assert_close(found, wanted)
    if len(x):  # several signals at once, as balancing methods send them
        back = lambda g: torch.autograd.grad(  # noqa: E731
            grouped(x, W, route, b, "loop"), (x, W), g, retain_graph=True
        )
        both = torch.vmap(back)(torch.stack([signal, 2 * signal]))
        torch.testing.assert_close(both[1][1], 2 * wanted[1])


@pytest.mark.parametrize("way", [w for w in WAYS if w != "one"])
def test_half_precision_is_near(way):
    torch.manual_seed(0)
    route = drawn_route([4, 4, 4], 5, 0)
    x, W = torch.randn(12, 16), torch.randn(5, 8, 16)
    exact = grouped(x, W, route, way="gather")
    half = grouped(x.bfloat16(), W.bfloat16(), route, way=way)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, atol=0.1, rtol=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        cast = grouped(x, W, route, way=way)
    torch.testing.assert_close(cast.float(), exact, atol=0.1, rtol=0.05)


def test_each_shape_takes_its_way():
    even, uneven, one = (drawn_route(s, 5, 0) for s in ([3, 3], [1, 5], [6]))
    assert way_of(torch.zeros(6, 9), torch.zeros(5, 90, 9), even) == "even"
    assert way_of(torch.zeros(6, 9), torch.zeros(5, 90, 9), one) == "one"
    assert way_of(torch.zeros(6, 9), torch.zeros(5, 2, 9), uneven) == "wide"
    assert way_of(torch.zeros(6, 99, 300), torch.zeros(40, 8, 300), uneven) == "gather"
    assert way_of(torch.zeros(6, 300), torch.zeros(5, 900, 300), uneven) == "loop"


@quick
@given(st.integers(1, 6), st.integers(1, 3), st.integers(1, 4), st.integers(0, 99))
def test_token_routes_spread_and_combine(positions, choices, count, seed):
    torch.manual_seed(seed)
    groups = torch.randint(count, (positions, choices))
    weights = torch.rand(positions, choices, dtype=torch.float64, requires_grad=True)
    route = routed(groups, count, weights)
    x = torch.randn(positions, 3, dtype=torch.float64)
    W = torch.randn(count, 2, 3, dtype=torch.float64)
    y = route.combine(grouped(route.spread(x), W, route), positions)
    wanted = torch.einsum("pc,pcod,pd->po", weights, W[groups], x)
    torch.testing.assert_close(y, wanted)
    (found,) = torch.autograd.grad(y.sum(), weights, retain_graph=True)
    torch.testing.assert_close(found, torch.autograd.grad(wanted.sum(), weights)[0])


def test_a_group_that_is_not_there_is_refused():
    with pytest.raises(TaskgroveError, match="no group -1"):
        routed(torch.tensor([[-1]]), 3)
    with pytest.raises(TaskgroveError, match="no group 3"):
        routed(torch.tensor([[3]]), 3)


# --- every way to share ------------------------------------------------------------------------


def small_trunk():
    torch.manual_seed(0)
    trunk = Vit(16, 2, 2).eval()
    return trunk.requires_grad_(False)


def images(count=6):
    return {"image": torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))}


def of_sizes(*sizes, numbers=None):
    starts = tuple(sum(sizes[:n]) for n in range(len(sizes) + 1))
    return Route((), torch.arange(sum(sizes)), starts, numbers)


def moved(sharing, seed=2):
    """Every parameter drawn anew, so that parts do something."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in sharing.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return sharing


def run(trunk, sharing, route, inputs=None):
    with sharing.using(route):
        return trunk(images() if inputs is None else inputs)


every = pytest.mark.parametrize("name", list(CHOICES))


@every
def test_the_start_is_the_base_bit_for_bit_and_detaching_gives_it_back(name):
    trunk = small_trunk()
    before, modules = trunk(images()), dict(trunk.named_modules())
    weights = copy.deepcopy(trunk.state_dict())
    sharing = Sharing(trunk, [("*", CHOICES[name]())], TASKS)
    if CHOICES[name].starts_at_base:
        assert torch.equal(run(trunk, sharing, of_sizes(1, 2, 3)), before)
    moved(sharing)
    assert not torch.equal(run(trunk, sharing, of_sizes(1, 2, 3)), before)
    assert torch.equal(trunk(images()), before)  # without a route
    sharing.detach()
    assert dict(trunk.named_modules()) == modules
    assert torch.equal(trunk(images()), before)
    found = trunk.state_dict()
    assert list(found) == list(weights)
    assert all(torch.equal(found[n], w) for n, w in weights.items())


@every
def test_a_mixed_batch_is_each_task_alone_in_any_order(name):
    trunk = small_trunk()
    sharing = moved(Sharing(trunk, [("*", CHOICES[name]())], TASKS)).eval()
    inputs = images()["image"]
    mixed = run(trunk, sharing, of_sizes(1, 2, 3))
    even = run(trunk, sharing, of_sizes(2, 2, 2))
    apart = [
        run(trunk, sharing, of_sizes(stop - start, numbers=(n,)), {"image": inputs[start:stop]})
        for n, (start, stop) in enumerate([(0, 1), (1, 3), (3, 6)])
    ]
    torch.testing.assert_close(mixed, torch.cat(apart), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(mixed[:1], even[:1], atol=2e-5, rtol=1e-4)
    order = torch.tensor([3, 5, 4, 0])
    turned = run(trunk, sharing, of_sizes(3, 1, numbers=(2, 0)), {"image": inputs[order]})
    torch.testing.assert_close(turned, mixed[order], atol=2e-5, rtol=1e-4)


@every
def test_absent_tasks_get_no_gradient_and_no_motion(name):
    trunk = small_trunk()
    sharing = moved(Sharing(trunk, [("*", CHOICES[name]())], TASKS))
    stacked = sharing.stacked()
    if not stacked:
        pytest.skip("no task has a slice of its own")
    optimiser = SlotAdamW(
        [{"params": list(stacked.values()), "slots": True}], lr=0.1, weight_decay=0.5
    )
    for numbers in [(0, 1, 2), (0, 2), (0, 2)]:  # momentum first, then without task 1
        before = {n: p.detach().clone() for n, p in stacked.items()}
        sizes = (2,) * len(numbers)
        out = run(trunk, sharing, of_sizes(*sizes, numbers=numbers), images(sum(sizes)))
        (out.square().sum() + sum(p.square().sum() * 0 for p in stacked.values())).backward()
        gradients = {n: p.grad for n, p in stacked.items()}
        optimiser.present = numbers
        optimiser.step()
        for n, parameter in stacked.items():
            if 1 not in numbers:
                assert not gradients[n][1].any()
                assert torch.equal(parameter[1], before[n][1])
            parameter.grad = None
    assert any((p[0] != before[n][0]).any() for n, p in stacked.items())


@every
def test_a_new_task_leaves_the_others_bit_for_bit(name):
    trunk = small_trunk()
    sharing = moved(Sharing(trunk, [("*", CHOICES[name]())], TASKS)).eval()
    before = run(trunk, sharing, of_sizes(1, 2, 3))
    for n in range(3):
        sharing.add(f"new {n}")
    assert torch.equal(run(trunk, sharing, of_sizes(1, 2, 3)), before)
    assert all(len(p) == 6 for p in sharing.stacked().values() if len(p) != 1)
    run(trunk, sharing, of_sizes(1, 5, numbers=(0, 5)))
    with pytest.raises(TaskgroveError, match='a task "a" already'):
        sharing.add("a")


@every
def test_saved_is_loaded(name, tmp_path):
    tasks = [Task(t, 0, t, "classes", ("x", "y"), 0.0, 1.0, "accuracy", 1.0) for t in TASKS]
    inputs = dict.fromkeys(TASKS, Inputs(image="picture"))
    model = MultiTaskModel(tasks, [small_trunk()], dict.fromkeys(TASKS, 0), inputs)
    moved(model.share([("*", CHOICES[name]())]))
    route = of_sizes(1, 2, 3)
    route = Route(tuple(TASKS), route.rows, route.starts)
    model.eval().save(tmp_path / "model")
    with torch.no_grad():
        wanted = model(images(), route)
        found = load(tmp_path / "model")(images(), route)
    assert all(torch.equal(found[t], wanted[t]) for t in TASKS)


@every
def test_half_precision_runs(name):
    trunk = small_trunk()
    sharing = moved(Sharing(trunk, [("*", CHOICES[name]())], TASKS)).eval()
    exact = run(trunk, sharing, of_sizes(1, 2, 3))
    with torch.autocast("cpu", torch.bfloat16):
        half = run(trunk, sharing, of_sizes(1, 2, 3))
    half.float().square().sum().backward()
    torch.testing.assert_close(half.float(), exact, atol=0.3, rtol=0.3)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2"])
def test_causal_models_write_for_several_tasks_at_once(kind):
    tokens = tiny_tokenizer()
    model = tiny_model(kind, len(tokens), seed=0, width=16).requires_grad_(False)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    sharing = moved(Sharing(model, [("*.h.*", LoRA(4))] if kind == "gpt2" else LAYERS, TASKS))
    ids = torch.tensor([[5, 6, 7], [8, 9, 10], [5, 6, 7]])
    asked = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}

    def written(ids, route):
        with torch.no_grad(), sharing.using(route):
            return model.generate(ids, attention_mask=torch.ones_like(ids), **asked)

    mixed = written(ids, of_sizes(1, 1, 1))
    apart = [written(ids[n : n + 1], of_sizes(1, numbers=(n,))) for n in range(3)]
    assert torch.equal(mixed, torch.cat(apart))
    assert not torch.equal(mixed[0], mixed[2])  # the same prompt, another task
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


# --- rules -------------------------------------------------------------------------------------


def test_the_first_pattern_that_matches_wins():
    trunk = small_trunk()
    sharing = Sharing(trunk, [("blocks.0.*", LoRA(rank=2)), ("*", LoRA(rank=4))], TASKS)
    assert {A.shape[1] for A in sharing.parts[0].A} == {2}
    assert {A.shape[1] for A in sharing.parts[1].A} == {4}
    assert len(sharing.parts[0].B) == len(sharing.parts[1].B) == 4


def test_layers_that_read_one_input_go_down_together():
    trunk = torch.nn.ModuleDict({n: torch.nn.Linear(4, 4) for n in ("q_proj", "v_proj", "o_proj")})
    assert teams(trunk, list(trunk)) == [["q_proj", "v_proj"], ["o_proj"]]


class Two(torch.nn.Module):
    """Siblings by name, whose inputs are the same or not."""

    def __init__(self):
        super().__init__()
        self.q_proj, self.k_proj = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)

    def forward(self, x, other=None):
        return self.q_proj(x) * self.k_proj(x if other is None else other)


def test_siblings_with_other_inputs_stay_right():
    torch.manual_seed(0)
    trunk, x = Two().requires_grad_(False), torch.randn(6, 4)
    sharing = moved(Sharing(trunk, [("*", LoRA(rank=2))], TASKS))
    with sharing.using(of_sizes(1, 2, 3)):
        together, apart = trunk(x), trunk(x, x.clone())
    torch.testing.assert_close(together, apart)


class Unused(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.other = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)

    def forward(self, x):
        return self.used(x)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ([("nothing.*", LoRA())], 'pattern "nothing.*" leaves no module'),
        ([("*", LoRA(2)), ("used", LoRA(2))], "taken by rules before it"),
        ([("*", LoRA(5))], "LoRA(rank=5"),
        ([("*", LoRA(0))], "rank 0 does not fit"),
        ([], "no rule"),
    ],
)
def test_rules_that_cannot_be_are_one_sentence(rules, words):
    with pytest.raises(TaskgroveError, match=re.escape(words)):
        Sharing(Unused(), rules, TASKS)


def test_a_module_that_never_runs_is_named():
    trunk = Unused()
    sharing = Sharing(trunk, [("*", LoRA(2))], TASKS)
    with pytest.raises(TaskgroveError, match='never called "other"'), sharing.using(of_sizes(3)):
        trunk(torch.randn(3, 4))


def test_ids_and_names_that_are_not_there():
    trunk = Unused()
    sharing = Sharing(trunk, [("used", LoRA(2))], TASKS)
    for number in (-1, 3):
        with (
            pytest.raises(TaskgroveError, match=f"no task {number}"),
            sharing.using(of_sizes(3, numbers=(number,))),
        ):
            trunk(torch.randn(3, 4))
    with (
        pytest.raises(TaskgroveError, match="first axis must be the batch"),
        sharing.using(of_sizes(1, 3)),
    ):
        trunk(torch.randn(3, 4))
    with pytest.raises(TaskgroveError, match=r'no task "d".*"a"'):
        rows_of_tasks(["a", "d"], {"a": 0, "b": 1})
    with pytest.raises(TaskgroveError, match="named twice"):
        Sharing(trunk, [("used", LoRA(2))], ["a", "a"])


def test_settings_go_through_json():
    rules = [("a.*", LoRA(rank=3, stabilised=True)), ("*", LoRA())]
    assert from_json(to_json(rules)) == rules
    with pytest.raises(TaskgroveError, match=r'no setting "rnk".*"rank"'):
        from_json([["*", {"choice": "lora", "rnk": 3}]])
    with pytest.raises(TaskgroveError, match=r'no way to share "lra".*"lora"'):
        from_json([["*", {"choice": "lra"}]])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{a: 1}", "must be a list of pairs"),
        ("- [a]", "must be a list of pairs"),
        ("- [1, {choice: lora}]", "a rule is 1"),
        ("- [a, lora]", "a mapping with the key choice"),
        ("- [a, {choice: lora, rank: many}]", "lora: rank is 'many'"),
        ("- [a, {choice: lora, rank: 1, rank: 2}]", '"rank" is written twice'),
    ],
)
def test_a_file_of_rules_that_cannot_be_read_is_one_sentence(text, words, tmp_path):
    (tmp_path / "rules.yaml").write_text(text)
    with pytest.raises(TaskgroveError, match=re.escape(words)):
        read_rules(tmp_path / "rules.yaml")


def test_train_takes_rules(small_tasks, tmp_path):
    (tmp_path / "rules.yaml").write_text('- ["hidden", {choice: lora, rank: 3}]\n')
    quick = ("--tasks", small_tasks, "--steps", 2, "--start-steps", 2, "--out", tmp_path / "model")
    works("train", "lora", *quick, "--rules", tmp_path / "rules.yaml")
    sharing = load(tmp_path / "model").sharing
    assert sharing.rules == [("hidden", LoRA(rank=3))]
    sentence = call("train", "joint", *quick, "--rules", tmp_path / "rules.yaml").sentence()
    assert '"joint" attaches no parts' in sentence


def test_one_slot_moves_as_adamw_does():
    torch.manual_seed(0)
    ours, theirs = torch.nn.Parameter(torch.randn(3, 2, 4)), torch.nn.Parameter(torch.randn(2, 4))
    theirs.data.copy_(ours[1])
    options = {"lr": 0.1, "betas": (0.9, 0.999), "weight_decay": 0.3}
    slots = SlotAdamW([{"params": [ours], "slots": True}], **options)
    plain = torch.optim.AdamW([theirs], **options)
    for present in [(1,), (0, 1, 2), (1, 2)]:
        signal = torch.randn(2, 4)
        ours.grad, theirs.grad = torch.zeros(3, 2, 4), signal
        ours.grad[list(present)] = signal
        slots.present = present
        slots.step()
        plain.step()
        torch.testing.assert_close(ours[1], theirs)


def test_private_parts_never_conflict(small_tasks, tmp_path):
    """Tasks that share no moving weight have orthogonal gradients: PCGrad is the mean."""
    task_set = taskgrove.load_tasks(str(small_tasks))
    found = {}
    for balancer in ("mean", "pcgrad"):
        model, _ = new_model(task_set, 0)
        model.share([("*", LoRA(rank=4))])
        options = taskgrove.Options(evaluations=1, precision="fp32")
        fit(
            model, task_set, budget=taskgrove.Budget(steps=4), options=options, seed=0,
            folder=tmp_path / balancer, balancer=balancer,
        )  # fmt: skip
        found[balancer] = model.state_dict()
    for name, weights in found["mean"].items():
        torch.testing.assert_close(found["pcgrad"][name], weights, atol=1e-5, rtol=1e-4)


def test_parts_that_fit_no_trunk_are_refused_first_or_left_out_of_groups(tmp_path):
    quick = ("--steps", 1, "--start-steps", 1, "--seeds", 1, "--out", tmp_path / "run")
    sentence = call("compare", "--methods", "lora", *quick).sentence()
    assert 'pattern "*" leaves no module' in sentence
    assert "another --backbone" in sentence
    assert not (tmp_path / "run").exists()
    loaded = taskgrove.load_tasks(locate("pictures"))
    names, left = fitting(["sharing"], loaded, None)
    assert "conv_lora" in names
    assert "lora" in left
    assert fitting(["sharing"], loaded, "vit")[1] == []
