"""UPGrad: unconflicting projection of gradients.

Jacobian Descent for Multi-Objective Optimization, Quinton, Rey 2024, arXiv 2406.16232.

Idea: a gradient is projected on the dual cone, the directions that harm no task, to first order;
the mean of the projected gradients harms none either. Each task pulls in proportion to the length
of its gradient.

    d = sum_t share_t pi(g_t),   pi(g) = the nearest point to g in {d : g_s . d >= 0 for all s};
    pi(g_t) = G^T v_t,   v_t = argmin v^T M v over v >= e_t;   w = sum_t share_t v_t.

Symbols: K tasks; M = G G^T [task task]; v_t, e_t (unit vector), share, w [task] float64. share is
the preference vector; the paper's own is uniform.
Cost: K quadratic problems solved together, K^3 / 3 each a step, 3 to 6 steps; one backward pass a
task.
Use it when no task may get worse in a step, and tasks with long gradients may lead.
Tuned sums do as well when gradients seldom conflict: without a conflict w = share. Like the mean,
it follows the scale of the losses, so scales must be tuned all the same.
Differs from the paper: nothing. (Its library adds a multiple of 1e-4 of the unit matrix to M; here
nothing is added. A zero row, which nothing can harm, keeps its share.)
"""

import torch
from jaxtyping import Float64
from torch import Tensor

from taskgrove.balancing.choice import Choice, on_gramian
from taskgrove.balancing.dual_cone import dual_cone_weights


def upgrad(
    M: Float64[Tensor, "task task"], share: Float64[Tensor, " task"]
) -> Float64[Tensor, " task"]:
    """w of d = sum_t w_t g_t."""
    V = dual_cone_weights(M.numpy(), torch.diag(share).numpy())  # rows share_t v_t
    return torch.from_numpy(V.sum(0))


CHOICE = Choice(
    about="the mean of the gradients, each projected to harm no task (Quinton, Rey 2024)",
    make=on_gramian(upgrad),
    needs="gramian",
    invariants=frozenset({"permutation", "scale", "non-conflict", "one task", "absent task"}),
)
