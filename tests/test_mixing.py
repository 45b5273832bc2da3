"""Properties of `taskgrove.mixing`: exact expectations, epochs, resume, equal draws, rates."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.mixing import row_probabilities
from taskgrove.errors import TaskgroveError
from taskgrove.mixing import (
    RATES,
    Group,
    Labels,
    Mixture,
    fixed,
    nested,
    proportional,
    rates,
    temperature,
    uniform,
)

few = settings(max_examples=20, deadline=None)
sizes_of_tasks = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 10**6), min_size=1)


def separate(**sizes: int) -> dict[str, Labels]:
    """A table for each task, labelled in full."""
    return {
        f"table {task}": Labels((task,), np.ones((size, 1), bool), np.arange(size) + 7)
        for task, size in sizes.items()
    }


@st.composite
def partly_labelled(draw) -> tuple[dict[str, Labels], dict[str, float]]:
    """One to three tables of tasks of their own, rows with any labels, each task on some row."""
    labels, weights = {}, {}
    for number in range(draw(st.integers(1, 3))):
        tasks = tuple(f"{number}.{t}" for t in range(draw(st.integers(1, 10))))
        rows = draw(st.integers(1, 12))
        bits = draw(st.lists(st.integers(0, 2 ** len(tasks) - 1), min_size=rows, max_size=rows))
        has = np.array([[bit >> t & 1 for t in range(len(tasks))] for bit in bits], bool)
        has[draw(st.integers(0, rows - 1))] = True
        labels[f"table {number}"] = Labels(tasks, has, 3 * np.arange(rows) + number)
        weights |= {task: float(draw(st.integers(0, 5))) for task in tasks}
    weights["0.0"] += 1
    return labels, weights


def drawn_rows(mixture: Mixture, step: int, n: int) -> list[tuple[str, int]]:
    plan = mixture.draw(step, n)
    assert len(plan.table) == len(plan.row) == n
    return [(mixture.tables[t], int(r)) for t, r in zip(plan.table, plan.row, strict=True)]


def labels_on(labels: dict[str, Labels], rows: list[tuple[str, int]]) -> Counter:
    """The labels of drawn rows, counted in the label matrices themselves."""
    found: Counter = Counter()
    for table, row in rows:
        tasks, has, numbers = labels[table]
        flags = has[np.flatnonzero(numbers == row)[0]]
        found.update(task for task, flag in zip(tasks, flags, strict=True) if flag)
    return found


# ---------------------------------------------------------------- rates


@few
@given(sizes_of_tasks, st.floats(0.01, 100), st.none() | st.integers(1, 10**6))
def test_rates_sum_to_one_and_grow_with_size(sizes, T, cap):
    r = rates(sizes, T, cap)
    assert list(r) == list(sizes)
    assert sum(r.values()) == pytest.approx(1)
    assert all(r[a] <= r[b] for a in sizes for b in sizes if sizes[a] <= sizes[b])
    ratio = {t: (min(e, cap or e) / max(min(x, cap or x) for x in sizes.values())) ** (1 / T)
             for t, e in sizes.items()}  # fmt: skip
    assert r == pytest.approx({t: x / sum(ratio.values()) for t, x in ratio.items()})


@few
@given(sizes_of_tasks)
def test_named_rates_are_cases_of_temperature(sizes):
    total = sum(sizes.values())
    assert proportional(sizes) == pytest.approx({t: e / total for t, e in sizes.items()})
    assert uniform(sizes) == pytest.approx(dict.fromkeys(sizes, 1 / len(sizes)))
    assert temperature(sizes, 1.0) == proportional(sizes)
    assert temperature(sizes, 1.0, cap=1) == pytest.approx(uniform(sizes))
    assert fixed({t: float(e) for t, e in sizes.items()}) == pytest.approx(proportional(sizes))
    assert all(sum(RATES[name](sizes).values()) == pytest.approx(1) for name in RATES)


def test_pinned_temperature_and_cap():
    # sqrt(100) : sqrt(400) : sqrt(900 capped at 400) = 10 : 20 : 20
    assert temperature({"a": 100, "b": 400, "c": 900}, 2.0, cap=400) == pytest.approx(
        {"a": 0.2, "b": 0.4, "c": 0.4}
    )
    assert rates({"a": 10**6, "b": 1}, temperature=1e-300) == {"a": 1.0, "b": 0.0}


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: rates({}), "no tasks to mix"),
        (lambda: rates({"a": 3, "b": 0}), '"b" has 0 training rows'),
        (lambda: rates({"a": 3}, temperature=0.0), "temperature is 0"),
        (lambda: rates({"a": 3}, temperature=math.nan), "temperature is nan"),
        (lambda: rates({"a": 3}, cap=0), "cap is 0"),
        (lambda: rates({"a": 3}, temperature=2.0, weights={"a": 1.0}), "either weights, or"),
        (lambda: rates({"topic": 3}, weights={"topik": 1.0}), 'Did you mean "topic"?'),
        (lambda: rates({"a": 3, "b": 3}, weights={"a": 1.0}), '"b" is missing'),
        (lambda: fixed({"a": -1.0}), 'weight of "a" is -1'),
        (lambda: fixed({"a": math.inf}), 'weight of "a" is inf'),
        (lambda: fixed({"a": 0.0, "b": 0.0}), '"a", "b" sum to 0'),
        (lambda: fixed({"a": 1e308, "b": 1e308}), "finite sum"),
        (lambda: nested(Group("all", ("a", Group("x", ("a",)))), {"a": 1}), "stands in 2 places"),
        (lambda: nested(Group("all", ("topik",)), {"topic": 1}), 'Did you mean "topic"?'),
        (lambda: nested(Group("all", ("a",)), {"a": 1, "b": 1}), '"b" is missing'),
        (lambda: Mixture(separate(topic=3), {"topik": 1.0}), 'Did you mean "topic"?'),
        (lambda: Mixture(separate(a=3, b=3), {"a": 1.0}), '"b" is missing'),
        (lambda: Mixture(separate(a=3, b=0), {"a": 1.0, "b": 1.0}), '"b" has 0 training rows'),
        (lambda: Mixture(separate(a=0), {"a": 1.0}), "No training row has a label"),
        (lambda: Mixture(separate(a=3), {"a": 1.0}, seed=-1), "seed is -1"),
    ],
)
def test_mistakes_are_told_in_a_sentence(call, sentence):
    with pytest.raises(TaskgroveError, match=sentence.replace("?", r"\?")) as error:
        call()
    assert "\n" not in str(error.value)


@few
@given(st.lists(st.integers(1, 1000), min_size=5, max_size=5), st.floats(0.5, 5))
def test_nested_rates_are_products_along_the_path(e, T):
    sizes = dict(zip("abcde", e, strict=True))
    inner = Group("inner", ("b", "c"), temperature=T)
    outer = Group("outer", ("a", inner), weights={"a": 1.0, "inner": 3.0})
    r = nested(Group("all", (outer, "d", "e"), cap=50), sizes)
    top = rates({"outer": e[0] + e[1] + e[2], "d": e[3], "e": e[4]}, cap=50)
    low = rates({"b": e[1], "c": e[2]}, T)
    expected = {
        "a": top["outer"] / 4,
        "b": top["outer"] * 3 / 4 * low["b"],
        "c": top["outer"] * 3 / 4 * low["c"],
        "d": top["d"],
        "e": top["e"],
    }
    assert r == pytest.approx(expected)
    assert nested(Group("all", ("a", "b", "c", "d", "e"), T), sizes) == rates(sizes, T)


# ---------------------------------------------------------------- what is drawn


@few
@given(partly_labelled())
def test_expectations_equal_the_obvious_twin(case):
    labels, weights = case
    mixture = Mixture(labels, weights)
    p, one = row_probabilities(labels, fixed(weights))
    assert mixture.expected(10) == pytest.approx({t: 10 * x for t, x in one.items()}, abs=1e-12)
    atoms, each = mixture._atoms, mixture._p / mixture._atoms.size
    mine = {
        (mixture.tables[atoms.table[a]], int(row)): each[a]
        for a in range(len(each))
        for row in atoms.rows[atoms.start[a] : atoms.start[a] + atoms.size[a]]
    }
    assert mine == pytest.approx(p, abs=1e-12)


@few
@given(partly_labelled(), st.randoms(use_true_random=False))
def test_the_order_of_tasks_does_not_matter(case, random):
    labels, weights = case
    turned = {}
    for name, (tasks, has, rows) in labels.items():
        order = random.sample(range(len(tasks)), len(tasks))
        turned[name] = Labels(tuple(tasks[t] for t in order), has[:, order], rows)
    assert Mixture(turned, weights).expected(1) == pytest.approx(
        Mixture(labels, weights).expected(1)
    )


@few
@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(1, 50), st.integers(0, 9))
def test_counts_stay_within_one_of_the_rates(e, n, seed):
    labels = separate(**{f"t{i}": size for i, size in enumerate(e)})
    wanted = fixed({f"t{i}": float(1 + i % 3) for i in range(len(e))})
    mixture = Mixture(labels, wanted, seed)
    draws = max(1, len(e) // n)  # one round
    for round_ in range(3):
        before = mixture.counts()
        for step in range(round_ * draws, (round_ + 1) * draws):
            mixture.draw(step, n)
        for task, count in mixture.counts().items():
            assert abs(count - before[task] - draws * n * wanted[task]) < 1 + 1e-9
    assert mixture.expected(n) == pytest.approx({t: n * r for t, r in wanted.items()})


@pytest.mark.parametrize("n", [1, 2, 5])
def test_each_draw_is_unbiased(n):
    has = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1], [0, 0, 1]], bool)
    labels = {"table": Labels(("a", "b", "c"), has, np.arange(5))}
    weights = {"a": 0.5, "b": 0.3, "c": 0.2}
    seeds = 600
    totals = [Counter(), Counter()]  # of the first and of the second draw
    for seed in range(seeds):
        mixture = Mixture(labels, weights, seed)
        for step, total in enumerate(totals):
            total.update(drawn_rows(mixture, step, n))
    p, _ = row_probabilities(labels, weights)
    for total in totals:
        for row, probability in p.items():
            spread = math.sqrt(n * probability / seeds)
            assert abs(total[row] / seeds - n * probability) < 4.5 * spread


@few
@given(partly_labelled(), st.lists(st.integers(1, 30), min_size=1, max_size=8))
def test_counts_are_the_labels_of_the_drawn_rows(case, batches):
    labels, weights = case
    mixture = Mixture(labels, weights)
    seen: Counter = Counter()
    for step, n in enumerate(batches):
        seen += labels_on(labels, drawn_rows(mixture, step, n))
        assert mixture.counts() == {task: seen[task] for task in mixture.tasks}
    size = {
        t: int(part.has[:, i].sum()) for part in labels.values() for i, t in enumerate(part.tasks)
    }
    assert mixture.sizes == size
    assert mixture.epochs() == pytest.approx({t: seen[t] / size[t] for t in size})


@few
@given(st.integers(1, 30), st.integers(1, 70), st.integers(0, 99))
def test_an_epoch_has_each_row_once(size, n, seed):
    mixture = Mixture(separate(a=size), {"a": 1.0}, seed)
    in_order = []
    for step in range(6):  # the shuffle in a batch hides the order, so look at growing prefixes
        in_order.append(Counter(drawn_rows(mixture, step, n)))
        seen = sum(in_order, Counter())
        assert max(seen.values()) - min(seen.get(("table a", 7 + r), 0) for r in range(size)) <= 1
    assert sum(seen.values()) == 6 * n


def test_epochs_and_batches_have_new_orders():
    mixture = Mixture(separate(a=30), {"a": 1.0})
    epochs = [[row for _, row in drawn_rows(mixture, step, 30)] for step in range(4)]
    assert len({tuple(epoch) for epoch in epochs}) == 4
    single = Mixture(separate(a=30), {"a": 1.0})
    order = [drawn_rows(single, step, 1)[0][1] for step in range(60)]
    assert sorted(order[:30]) == sorted(order[30:]) == list(range(7, 37))
    assert order[:30] != order[30:]
    assert order[:30] != sorted(order[:30])
    blocks = [
        drawn_rows(Mixture(separate(a=8, b=8), {"a": 1.0, "b": 1.0}, s), 0, 8) for s in range(5)
    ]
    assert any(block != sorted(block, key=lambda row: row[0]) for block in blocks)


@few
@given(partly_labelled(), st.integers(1, 9))
def test_proportional_rates_draw_every_row_equally_often(case, n):
    labels, _ = case
    size = {
        t: int(part.has[:, i].sum()) for part in labels.values() for i, t in enumerate(part.tasks)
    }
    mixture = Mixture(labels, proportional(size))
    per_row = mixture._p / mixture._atoms.size
    assert per_row == pytest.approx(np.full(len(per_row), 1 / mixture._atoms.size.sum()))
    rows = int(mixture._atoms.size.sum())
    seen: Counter = Counter()
    for step in range(-(-4 * rows // n)):
        seen.update(drawn_rows(mixture, step, n))
    assert len(seen) == rows  # within four times as many draws as rows, each came


def test_rows_that_are_all_different_still_come_in_epochs():
    has = np.random.default_rng(0).random((500, 60)) < 0.5
    labels = {"table": Labels(tuple(f"t{i}" for i in range(60)), has, np.arange(500))}
    mixture = Mixture(
        labels, proportional(dict(zip(labels["table"].tasks, has.sum(0).tolist(), strict=True)))
    )
    assert len(mixture._p) == 500
    seen = Counter(row for step in range(50) for _, row in drawn_rows(mixture, step, 10))
    assert len(seen) > 490  # independent draws would reach about 316


def test_rows_that_are_alike_form_one_atom():
    random = np.random.default_rng(1)
    patterns = np.vstack([random.random((39, 30)) < 0.5, np.ones((1, 30), bool)])
    which = np.append(random.integers(0, 40, 400), np.arange(40))
    tasks = tuple(f"t{i}" for i in range(30))
    labels = {"table": Labels(tasks, patterns[which], np.arange(440))}
    mixture = Mixture(labels, dict.fromkeys(tasks, 1.0))
    assert sorted(mixture._atoms.size) == sorted(np.bincount(which))


def test_any_two_of_many_tasks_meet_in_a_batch():
    mixture = Mixture(
        separate(**{f"t{i}": 5 for i in range(12)}), {f"t{i}": 1.0 for i in range(12)}
    )
    met = set()
    for step in range(200):
        present = sorted({table for table, _ in drawn_rows(mixture, step, 4)})
        met |= {(a, b) for a in present for b in present if a < b}
    assert len(met) == 12 * 11 // 2


def test_a_rate_of_zero_draws_no_row_of_its_own():
    has = np.array([[1, 0], [1, 1], [0, 1]], bool)
    labels = {"table": Labels(("a", "b"), has, np.array([4, 5, 6]))}
    mixture = Mixture(labels, {"a": 1.0, "b": 0.0})
    seen = Counter(row for step in range(100) for _, row in drawn_rows(mixture, step, 3))
    assert set(seen) == {4, 5}
    mixture.set_rates({"a": 0.0, "b": 1.0})
    assert mixture.rates == {"a": 0.0, "b": 1.0}
    assert {row for step in range(100, 120) for _, row in drawn_rows(mixture, step, 3)} == {5, 6}


def test_rows_without_a_label_are_never_drawn():
    labels = {
        "empty": Labels(("a",), np.zeros((3, 1), bool), np.arange(3)),
        "none": Labels((), np.zeros((2, 0), bool), np.arange(2)),
        "some": Labels(("b",), np.array([[0], [1], [1]], bool), np.array([2**40, 2**41, 9])),
    }
    mixture = Mixture(labels, {"a": 0.0, "b": 1.0})
    assert set(drawn_rows(mixture, 0, 20)) == {("some", 2**41), ("some", 9)}
    assert mixture.epochs() == {"a": 0.0, "b": 10.0}


# ---------------------------------------------------------------- state


@few
@given(partly_labelled(), st.lists(st.integers(1, 20), min_size=2, max_size=8), st.data())
def test_resumed_equals_uninterrupted_at_every_step(case, batches, data):
    labels, weights = case
    whole, states, plans = Mixture(labels, weights, seed=3), [], []
    change = data.draw(st.integers(0, len(batches) - 1))
    for step, n in enumerate(batches):
        if step == change:
            whole.set_rates({task: 1.0 + i for i, task in enumerate(whole.tasks)})
        states.append(whole.state())
        plans.append(drawn_rows(whole, step, n))
    for at, state in enumerate(states):
        resumed = Mixture(labels, weights, seed=8)
        resumed.draw(0, 5)  # what it did before does not matter
        resumed.load(state)
        for step in range(at, len(batches)):
            if step == change:
                resumed.set_rates({task: 1.0 + i for i, task in enumerate(whole.tasks)})
            assert drawn_rows(resumed, step, batches[step]) == plans[step]
        assert resumed.counts() == whole.counts()
        assert all(np.array_equal(x, whole.state()[key]) for key, x in resumed.state().items())


def test_every_rank_draws_the_same_and_seeds_differ():
    labels, weights = separate(a=20, b=50, c=3), {"a": 1.0, "b": 2.0, "c": 3.0}
    ranks = [Mixture(labels, weights, seed=5) for _ in range(2)]
    other = Mixture(labels, weights, seed=6)
    plans = [[drawn_rows(m, step, 16) for step in range(10)] for m in (*ranks, other)]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2]


def test_a_pinned_draw():
    """A change of the generator's numbers breaks the resume of every saved run."""
    mixture = Mixture(separate(a=10, b=10), {"a": 1.0, "b": 3.0}, seed=1)
    plans = [drawn_rows(mixture, step, 4) for step in range(2)]
    assert [[(table[-1], row) for table, row in plan] for plan in plans] == [
        [("b", 16), ("b", 9), ("a", 12), ("b", 14)],
        [("b", 10), ("a", 15), ("b", 13), ("b", 15)],
    ]


def test_a_state_of_other_data_is_refused():
    state = Mixture(separate(a=5, b=5), {"a": 1.0, "b": 1.0}).state()
    for labels in (separate(a=5, b=6), separate(a=5, c=5), separate(b=5, a=5)):
        mixture = Mixture(labels, dict.fromkeys((part.tasks[0] for part in labels.values()), 1.0))
        with pytest.raises(TaskgroveError, match="made for other rows"):
            mixture.load(state)


def test_steps_only_go_up_and_shapes_are_checked():
    mixture = Mixture(separate(a=5), {"a": 1.0})
    mixture.draw(4, 2)
    mixture.observe({"a": 1.0})
    with pytest.raises(ValueError, match="a step from 5 on"):
        mixture.draw(4, 2)
    with pytest.raises(ValueError, match="n above 0"):
        mixture.draw(5, 0)
    with pytest.raises(TaskgroveError, match=r"shape \(2, 1\); expected \(3, 1\)"):
        Mixture({"x": Labels(("a",), np.ones((2, 1), bool), np.arange(3))}, {"a": 1.0})


def test_thousands_of_tasks_and_rows():
    many = Mixture(
        separate(**{f"t{i}": 50 for i in range(1000)}), {f"t{i}": 1.0 for i in range(1000)}
    )
    for step in range(120):  # 8 rounds of 15 draws, in which a task comes at most once
        many.draw(step, 64)
    assert sum(many.counts().values()) == 120 * 64
    assert max(many.counts().values()) == 8
    assert min(many.counts().values()) >= 4
    full = Labels(
        tuple(f"t{i}" for i in range(14)), np.ones((200_000, 14), bool), np.arange(200_000)
    )
    shared = Mixture({"table": full}, {f"t{i}": 1.0 + i for i in range(14)})
    assert len(set(drawn_rows(shared, 0, 4096))) == 4096
    assert set(shared.counts().values()) == {4096}
