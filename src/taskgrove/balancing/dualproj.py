"""DualProj: the mean gradient projected on the dual cone.

Gradient Episodic Memory for Continual Learning, Lopez-Paz, Ranzato, NeurIPS 2017, arXiv
1706.08840, equations 8 to 11, there for the current task against past ones; for all tasks alike
in Quinton, Rey 2024, arXiv 2406.16232.

Idea: follow the mean gradient, changed as little as makes it harm no task, to first order.

    g_0 = sum_t share_t g_t;   d = argmin |d - g_0|^2  over  d . g_t >= 0 for all t;
    d = G^T w,   w = argmin w^T M w over w >= share.

Symbols: K tasks; M = G G^T [task task]; share, w [task] float64. share is the preference vector.
Cost: one quadratic problem, K^3 / 3 a step, 3 to 6 steps; one backward pass a task.
Use it when the mean is what you want, but no task may get worse in a step.
Tuned sums do as well when gradients seldom conflict with their mean: then w = share. Otherwise the
task with the longest gradient still decides most of the direction.
Differs from the paper: it projects the mean of all tasks instead of the current task's gradient,
and has no margin (their gamma). A zero row, which nothing can harm, keeps its share.
"""

import torch
from jaxtyping import Float64
from torch import Tensor

from taskgrove.balancing.choice import Choice, on_gramian
from taskgrove.balancing.dual_cone import dual_cone_weights


def dualproj(
    M: Float64[Tensor, "task task"], share: Float64[Tensor, " task"]
) -> Float64[Tensor, " task"]:
    """w of d = sum_t w_t g_t."""
    return torch.from_numpy(dual_cone_weights(M.numpy(), share[None].numpy())[0])


CHOICE = Choice(
    about="the mean gradient, projected to harm no task (GEM: Lopez-Paz, Ranzato 2017)",
    make=on_gramian(dualproj),
    needs="gramian",
    invariants=frozenset({"permutation", "scale", "non-conflict", "one task", "absent task"}),
)
