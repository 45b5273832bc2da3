"""AdaMerging on real digits: lowers entropy, is autograd's, resumes, never sees a label."""

import inspect

import pytest
import torch
from torch import nn
from torch.func import functional_call

from reference import scaled_copies as twin
from taskgrove.errors import TaskgroveError
from taskgrove.merging.learned.adamerging import adamerging
from taskgrove.merging.learned.cleaned import CleanVectors
from taskgrove.merging.learned.learn import finished
from taskgrove.merging.learned.scaled_merge import ScaledMerge
from taskgrove.merging.learned.task_vector import deltas
from taskgrove.merging.learned.vectors import MemoryVectors
from taskgrove.objectives.entropy import prediction_entropy
from two_digit_tasks import digits, draws

KINDS = {"low": "classes", "high": "classes"}


@pytest.mark.parametrize("granularity", ["task", "tensor"])
def test_adamerging_lowers_entropy_on_digits(granularity):
    model, vectors, pool, _ = digits()

    def entropy(weights):
        return sum(prediction_entropy(model(weights, t, x)).mean().item() for t, x in pool.items())

    merged = adamerging(model, vectors, draws(pool), KINDS, granularity=granularity)
    before = entropy(ScaledMerge(vectors, init=0.3).weights())  # task arithmetic
    assert entropy(merged.weights) < 0.9 * before
    assert merged.entropy.shape == (40, 2)
    assert merged.coefficients.shape == ((2, 4) if granularity == "tensor" else (2,))
    assert ((merged.coefficients >= 0) & (merged.coefficients <= 1)).all()
    assert merged.tensors == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert sum(merged.predictions["low"]) == 8 * 32
    assert not any(w.requires_grad for w in merged.weights.values())
    assert merged.notes == ()


def test_the_first_step_is_autograds():
    """Adam's first moment after one step is 0.1 times the gradient."""
    model, vectors, pool, _ = digits()
    merged = adamerging(model, vectors, draws(pool), KINDS, steps=1)
    lam = torch.full((2, 4), 0.3, requires_grad=True)
    weights = twin.scaled(vectors._base, vectors._deltas, lam)
    entropies = [prediction_entropy(model(weights, t, x[:32])).mean() for t, x in pool.items()]
    sum(entropies).backward()
    torch.testing.assert_close(
        merged.state["coefficients.exp_avg"], 0.1 * lam.grad, rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(merged.entropy[0], torch.stack(entropies).detach())
    assert "could travel" in merged.notes[0]


def test_resumed_is_uninterrupted():
    model, vectors, pool, _ = digits()
    saved = []
    whole = adamerging(model, vectors, draws(pool), KINDS, steps=6, progress=saved.append)
    again = adamerging(model, vectors, draws(pool), KINDS, steps=6, resume=saved[2])
    assert len(saved) == 6
    assert all(torch.equal(whole.state[name], t) for name, t in again.state.items())
    assert all(torch.equal(whole.weights[name], w) for name, w in again.weights.items())
    assert all(isinstance(t, torch.Tensor) for t in saved[2].values())
    with pytest.raises(TaskgroveError, match="the state to resume"):
        adamerging(model, vectors, draws(pool), KINDS, granularity="task", resume=saved[2])


def test_plus_learns_on_cleaned_vectors():
    model, vectors, pool, _ = digits()
    plus = adamerging(model, vectors, draws(pool), KINDS, steps=2, plus=True, density=0.3)
    clean = CleanVectors(vectors, 0.3)
    tilde = {
        n: torch.cat([b for _, b in clean.blocks(n)], 1).view(2, *clean.shape(n))
        for n in clean.names
    }
    plain = adamerging(model, MemoryVectors(vectors._base, tilde), draws(pool), KINDS, steps=2)
    assert all(torch.equal(plus.weights[n], w) for n, w in plain.weights.items())
    assert not torch.equal(
        plus.coefficients, adamerging(model, vectors, draws(pool), KINDS, steps=2).coefficients
    )


def test_bf16_labels_numbers_and_a_collapse_are_handled():
    base = {"w": torch.zeros(3, 2, dtype=torch.bfloat16)}
    tau = deltas(base, [{"w": torch.tensor([[1.0, -1.0]] * 3).bfloat16()}])
    ones = {task: lambda _: torch.ones(4, 3).bfloat16() for task in ("topic", "tags")}
    kinds = {"topic": "classes", "tags": "labels", "price": "number"}
    merged = adamerging(lambda w, _, x: x @ w["w"], MemoryVectors(base, tau), ones, kinds)
    assert merged.tasks == ("topic", "tags")
    assert list(merged.predictions) == ["topic"]
    assert merged.weights["w"].dtype == torch.bfloat16
    assert merged.coefficients.item() > 0.5
    assert '"price": no entropy' in merged.notes[0]
    assert 'task "topic": one class takes 100%' in merged.notes[1]


def test_tied_weights_and_batch_norm_learn_through_functional_call():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.norm = nn.Embedding(7, 4), nn.BatchNorm1d(4)
            self.out = nn.Linear(4, 7, bias=False)
            self.out.weight = self.words.weight

        def forward(self, ids):
            return self.out(self.norm(self.words(ids)))

    model = Words().eval()
    base = model.state_dict()
    tuned = {n: w + 1 for n, w in base.items()} | {"out.weight": base["out.weight"] + 1}
    merged = adamerging(
        lambda weights, _, ids: functional_call(model, weights, (ids,)),
        MemoryVectors(base, deltas(base, [tuned])),
        {"next": lambda _: torch.arange(7)},
        {"next": "classes"},
        steps=3,
    )
    moved = {
        name
        for name, c in zip(merged.tensors, merged.coefficients[0].tolist(), strict=True)
        if abs(c - 0.3) > 1e-6
    }
    assert moved == {"words.weight", "norm.weight", "norm.bias"}
    assert merged.weights["out.weight"] is merged.weights["words.weight"]


def test_labels_cannot_be_reached_and_mistakes_are_told():
    names = inspect.signature(adamerging).parameters
    assert not [n for n in names if "label" in n.replace("unlabelled", "") or "target" in n]
    assert not [n for n in names if "loss" in n or "objective" in n or "metric" in n]
    seen = []

    def forward(weights, task, inputs):
        seen.append((set(weights), task, inputs))
        return inputs @ weights["w"]

    x = torch.ones(4, 3)
    vectors = MemoryVectors({"w": torch.zeros(3, 2)}, {"w": torch.ones(1, 3, 2)})
    adamerging(forward, vectors, {"a": lambda _: x}, {"a": "classes"}, steps=1)
    assert all(call == ({"w"}, "a", x) for call in seen)  # just what was drawn
    run = {"forward": forward, "vectors": vectors}
    for unlabelled, kinds, words in [
        ({"a": lambda _: x}, {"a": "number"}, 'none of the tasks "a" has classes'),
        ({"a": lambda _: x}, {"a": "classs"}, 'Did you mean "classes"'),
        ({"a": lambda _: x}, {"a": "classes", "b": "labels"}, 'tasks "b" have only one'),
        ({"a": lambda _: x, "A": lambda _: x}, {"a": "classes"}, 'tasks "A" have only one'),
        ({"a": lambda _: x[:0]}, {"a": "classes"}, 'task "a", step 0: the loss is nan'),
    ]:
        with pytest.raises(TaskgroveError, match=words):
            adamerging(**run, unlabelled=unlabelled, kinds=kinds)
    with pytest.raises(TaskgroveError, match="does not depend on the weights"):
        adamerging(lambda *given: given[2], vectors, {"a": lambda _: x}, {"a": "classes"})
    with pytest.raises(TaskgroveError, match="expected above 0"):
        adamerging(**run, unlabelled={"a": lambda _: x}, kinds={"a": "classes"}, steps=0)


def test_a_result_shares_no_memory_and_an_overflow_is_named():
    base = {"w": torch.ones(2), "rest": torch.ones(2), "ids": torch.arange(2)}
    merge = ScaledMerge(MemoryVectors(base, {"w": torch.ones(1, 2)}))
    for w in finished(merge).values():
        w.add_(1)
    assert base["w"].tolist() == base["rest"].tolist() == [1.0, 1.0]
    assert base["ids"].tolist() == [0, 1]
    huge = {"w": torch.full((1, 2), 1e5)}
    merge = ScaledMerge(MemoryVectors({"w": torch.ones(2, dtype=torch.half)}, huge), init=1.0)
    with pytest.raises(TaskgroveError, match='"w" is not finite as torch'):
        finished(merge)
