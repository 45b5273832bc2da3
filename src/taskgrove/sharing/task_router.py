"""TaskRouter: how much of each shared skill a task uses, a learned row a task.

Ponti et al., "Combining Parameter-efficient Modules for Task-level Generalisation" (Polytropon),
EACL 2023, arXiv 2202.13914; heads from Page-Caccia et al., NeurIPS 2023, arXiv 2211.03831.

    w_{t,h,s} = sigmoid(Z_{t,h,s}) / (sum_s' sigmoid(Z_{t,h,s'}) + eps)       "sigmoid"
    w = softmax_s(Z)     "softmax";     w = 1 / S     "uniform" (mu);     w = 1[s = t]     "private"

Symbols: Z [task site head skill], uniform within 1e-3, a router for each site (or one for all where
site is 1); w the same shape, sums to 1 over skills (up to eps).
Differs from the papers: nothing; Polytropon's relaxed Bernoulli draws are left out, as in the
released configuration of multi-head routing.
"""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from taskgrove.errors import TaskgroveError, did_you_mean, listed
from taskgrove.sharing.route import Route
from taskgrove.sharing.stacked import grow

Kind = Literal["sigmoid", "softmax", "uniform", "private"]
EPS, EDGE = 1e-12, 1e-3


class TaskRouter(nn.Module):
    """Z, and the weights that it gives."""

    def __init__(
        self, tasks: int, sites: int, heads: int, skills: int, kind: Kind = "sigmoid"
    ) -> None:
        super().__init__()
        if kind not in get_args(Kind):
            hint = did_you_mean(kind, get_args(Kind))
            raise TaskgroveError(
                f'there is no router "{kind}"; there are {listed(get_args(Kind))}.{hint}'
            )
        if kind == "private" and skills < tasks:
            raise TaskgroveError(
                f"{skills} skills for {tasks} tasks: a private skill each needs as many"
            )
        self.kind = kind
        self.Z = nn.Parameter(rows(tasks, sites, heads, skills))

    def forward(self, route: Route) -> Float[Tensor, "present site head skill"]:
        """w of the present tasks."""
        return self.weights(route.chosen(self.Z), route.places)

    def weights(self, Z: Tensor, places: Tensor) -> Tensor:
        """w of some rows of Z, those of the tasks at `places`."""
        if self.kind == "sigmoid":
            share = Z.sigmoid()
            return share / (share.sum(-1, keepdim=True) + EPS)
        if self.kind == "softmax":
            return Z.softmax(-1)
        if self.kind == "uniform":
            return Z * 0 + 1 / Z.shape[-1]
        own = torch.arange(Z.shape[-1], device=Z.device) == places[:, None]  # [present skill]
        return Z * 0 + own[:, None, None, :].to(Z.dtype)

    def add(self, tasks: int) -> None:
        """Fresh rows, nearly uniform; TaskgroveError where no private skill is left."""
        if self.kind == "private" and self.Z.shape[-1] < len(self.Z) + tasks:
            raise TaskgroveError(
                f"{self.Z.shape[-1]} skills for {len(self.Z) + tasks} tasks: a private skill each"
                " needs as many, so make the model anew with more skills"
            )
        grow(self.Z, rows(tasks, *self.Z.shape[1:]))

    def entropy(self) -> Float[Tensor, " task"]:
        """Of w, over log S, mean over sites and heads: 1 is uniform, 0 is one skill."""
        w = self.weights(self.Z.detach(), torch.arange(len(self.Z), device=self.Z.device))
        size = torch.tensor(w.shape[-1], dtype=w.dtype).log().clamp(min=1e-12)
        return -(w * w.clamp(min=1e-30).log()).sum(-1).mean((1, 2)) / size


def rows(tasks: int, sites: int, heads: int, skills: int) -> Tensor:
    """Logits near 0."""
    return torch.empty(tasks, sites, heads, skills).uniform_(-EDGE, EDGE)
