"""MoCo: min-norm weights of tracked gradients.

Mitigating Gradient Bias in Multi-Objective Learning: A Provably Convergent Approach, Fernando,
Shen, Liu, Chaudhury, Murugesan, Chen, ICLR 2023, arXiv 2210.12624.

Weights such as MGDA's depend on the gradients other than linearly, so those of a batch's noisy
gradients are biased. MoCo keeps a running mean of each task's gradient, and takes one projected
step a batch towards the min-norm weights of these means. Both settle as the steps shrink.

    y_t    <- y_t - beta_k (y_t - g_t),                     beta_k = beta / k^sigma
    lambda <- Pi(lambda - gamma_k (Y Y^T + rho I) lambda),  gamma_k = gamma / k^sigma
    d = sum_t lambda_t y_t

Symbols: g, Y = rows y_t [task shared], 0 at first; lambda [task], uniform at first; Pi the
Euclidean projection onto the simplex; k = 1, 2, ... the steps in which the task was present.
Defaults as in LibMTL: beta 0.5, gamma 0.1, sigma 0.5, rho 0. The authors' runs: beta 0.05, 0.1 and
0.99, gamma 0.1, sigma 0.5 or 0. gamma is not free of scale: where squared gradient norms are far
above 1 / gamma, lambda jumps to the smallest gradient's task; far below, it stays uniform.
`share` is not used. A task that is absent keeps its y and lambda; those present divide the
lambda that they hold among them, renormalised for d (if they hold none, they start from `share`).
A row of zeros shrinks its y towards 0, where lambda then goes.
Cost: K^2 P for Y Y^T and K P for the mean, in pieces; K x P numbers of state in single precision.
Use it when batches are small and noisy, and a min-norm direction is wanted.
Tuned sums do as well when no task is at risk of being sacrificed; lambda then only adds a lag.
Differs from the paper: y is not projected onto a ball (nor is it in the authors' code); the
authors' lambda step has a further factor 2; LibMTL scales each g_t to the norm L_t first, and has
a softmax for Pi: here rows are plain and Pi is the paper's.
"""

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from taskgrove.balancing.choice import Choice, Statistic
from taskgrove.balancing.simplex import project_simplex

PIECE = 2**16  # columns of Y that are widened to float64 at a time


class MoCo(nn.Module):
    """The aggregator; its state is y, lambda and how often each task was seen."""

    y: Float[Tensor, "task shared"]
    weights: Float64[Tensor, " task"]  # lambda
    seen: Tensor

    def __init__(
        self,
        tasks: int,
        shared: int,
        beta: float = 0.5,
        gamma: float = 0.1,
        sigma: float = 0.5,
        rho: float = 0.0,
    ) -> None:
        super().__init__()
        self.beta, self.gamma, self.sigma, self.rho = beta, gamma, sigma, rho
        self.register_buffer("y", torch.zeros(tasks, shared))
        self.register_buffer("weights", torch.full((tasks,), 1 / tasks, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(tasks, dtype=torch.int64))

    @torch.no_grad()
    def forward(
        self, statistic: Statistic, rows: Float[Tensor, "task shared"]
    ) -> Float[Tensor, " shared"]:
        """d of one step."""
        tasks = statistic.tasks.to(self.seen.device)
        if self.y.device != rows.device:
            self.y = self.y.to(rows.device)
        self.seen[tasks] += 1
        k = self.seen[tasks].double().cpu()  # [task]
        beta = (self.beta / k**self.sigma).tolist()
        for task, row, step in zip(tasks.tolist(), rows, beta, strict=True):
            self.y[task].lerp_(row.to(self.y.dtype), step)
        held = self.weights[tasks].cpu()  # [task]
        mass = held.sum()
        weights = held / mass if mass > 0 else statistic.share
        slope = gramian(self.y, tasks) @ weights + self.rho * weights
        weights = weights - self.gamma / k.max() ** self.sigma * slope
        weights = torch.from_numpy(project_simplex(weights.numpy()))
        self.weights[tasks] = (mass * weights).to(self.weights)
        full = self.y.new_zeros(len(self.y))
        full[tasks.to(full.device)] = weights.to(full)
        return (full @ self.y).to(rows.dtype)  # [shared]


def gramian(Y: Float[Tensor, "all shared"], tasks: Tensor) -> Float64[Tensor, "task task"]:
    """Y Y^T of some rows on the CPU, in float64, in pieces."""
    total = torch.zeros(len(tasks), len(tasks), dtype=torch.float64, device=Y.device)
    for start in range(0, Y.shape[1], PIECE):
        wide = Y[:, start : start + PIECE][tasks.to(Y.device)].double()  # [task piece]
        total += wide @ wide.T
    return total.cpu()


CHOICE = Choice(
    about="MoCo: min-norm weights of tracked gradients (Fernando et al. 2023)",
    make=lambda setup: MoCo(setup.tasks, setup.shared),
    needs="rows",
    tracks=True,
    invariants=frozenset({"permutation", "absent task"}),
)
