"""Two digit tasks, a base and two tuned bodies: what tests of learned merges share."""

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.func import functional_call

from taskgrove.merging.learned.task_vector import deltas
from taskgrove.merging.learned.vectors import MemoryVectors


class TwoTasks(nn.Module):
    """A small body, merged, and one frozen head a task: digits 0 to 4 and digits 5 to 9."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.low, self.high = nn.Linear(32, 5), nn.Linear(32, 5)

    def forward(self, weights, task, x):
        return (self.low if task == "low" else self.high)(functional_call(self.body, weights, (x,)))


@cache
def digits():
    """The model, a base body and two tuned on a task each, inputs of no training, their labels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = TwoTasks()
    bunch = load_digits()
    x, y = torch.tensor(bunch.data / 16, dtype=torch.float32), torch.tensor(bunch.target)
    rows = {"low": x[y < 5], "high": x[y >= 5]}
    labels = {"low": y[y < 5], "high": y[y >= 5] - 5}

    def train(tasks, parameters, steps, lr):
        adam = torch.optim.Adam(parameters, lr=lr)
        for _ in range(steps):
            body = dict(model.body.named_parameters())
            losses = [
                nn.functional.cross_entropy(model(body, t, rows[t][:400]), labels[t][:400])
                for t in tasks
            ]
            adam.zero_grad()
            sum(losses).backward()
            adam.step()
        return {n: w.detach().clone() for n, w in model.body.state_dict().items()}

    base = train(["low", "high"], model.parameters(), 10, 3e-3)
    tuned = []
    for task in ("low", "high"):
        model.body.load_state_dict(base)
        tuned.append(train([task], model.body.parameters(), 40, 1e-2))
    vectors = MemoryVectors(base, deltas(base, tuned))
    pool = {task: some[400:] for task, some in rows.items()}
    answers = {task: some[400:] for task, some in labels.items()}
    return model.requires_grad_(False), vectors, pool, answers


def draws(pool):
    def draw(some):
        return lambda step: some[(torch.arange(32) + 32 * step) % len(some)]

    return {task: draw(some) for task, some in pool.items()}
