"""Joint training with task-based sharpness-aware steps (see balancing/task_sam).

Phan et al., Improving Multi-task Learning via Seeking Task-based Flat Regions, arXiv 2211.13723.
CAGrad and rho 0.1 by default; in Python choose others:
`METHODS | {"mine": Method("", partial(sam_mtl, method="mgda", rho=0.3))}`.
"""

from taskgrove.balancing.task_sam import Flat
from taskgrove.methods.method import Job, Outcome, balance, curves, trainable


def sam_mtl(job: Job, method: str = "cagrad", rho: float = 0.1) -> Outcome:
    """One model for all tasks, within the whole budget; a step costs about twice the method's."""
    model = job.model()
    record = job.fit("sam_mtl", model, balancer=Flat(method, rho))
    spent, found = record.spent, curves(record, list(model.tasks))
    return Outcome(
        model, spent.passes, spent.seconds, trainable(model), found, balance=balance(record)
    )
