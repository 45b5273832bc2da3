"""AdamW that moves only the present tasks' slices of stacked parameters.

    m_t = b1 m_t + (1 - b1) g_t;   v_t = b2 v_t + (1 - b2) g_t^2          for present tasks t
    p_t = (1 - lr decay) p_t - lr (m_t / (1 - b1^n_t)) / (sqrt(v_t / (1 - b2^n_t)) + eps)

Decoupled Weight Decay Regularization, Loshchilov, Hutter, ICLR 2019, arXiv 1711.05101, with a count
n_t for each task t, the first axis of p [task ...]: an absent task's slice neither moves nor ages.
Cost: the present slices, in as many tensors as there are sites, however many tasks.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class SlotAdamW(torch.optim.AdamW):
    """torch's AdamW, and the above for groups marked `slots`; `present` numbers the tasks."""

    present: Sequence[int] = ()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore
        """One step; stacked parameters without a gradient stay as they are."""
        whole = self.param_groups
        slots = [group for group in whole if group.get("slots")]
        self.param_groups = [group for group in whole if not group.get("slots")]
        try:
            loss = super().step(closure)  # pyright: ignore[reportArgumentType]
        finally:
            self.param_groups = whole
        for group in slots:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)
        return loss

    def _move(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(len(parameter))
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        count = len(parameter)
        if len(self.present) == count or count == 1:
            update(parameter, parameter.grad, state, group)  # pyright: ignore[reportArgumentType]
            return
        at = torch.tensor(list(self.present), device=parameter.device)
        part = {name: value[at.to(value.device)] for name, value in state.items()}
        moved = parameter[at]
        update(moved, parameter.grad[at], part, group)  # pyright: ignore[reportOptionalSubscript]
        parameter.index_copy_(0, at, moved)
        for name, value in part.items():
            state[name].index_copy_(0, at.to(value.device), value)


def update(p: Tensor, g: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    """Moves p [task ...] and its state in place."""
    b1, b2 = group["betas"]
    n = state["step"].add_(1)
    m = state["exp_avg"].lerp_(g, 1 - b1)
    v = state["exp_avg_sq"].mul_(b2).addcmul_(g, g, value=1 - b2)
    axes = (-1, *[1] * (p.ndim - 1))
    size = (group["lr"] / (1 - b1**n)).to(p).view(axes)  # [task 1 ...]
    root = (1 - b2**n).sqrt().to(p).view(axes)
    p.mul_(1 - group["lr"] * group["weight_decay"])
    p.sub_(size * m / (v.sqrt() / root + group["eps"]))
