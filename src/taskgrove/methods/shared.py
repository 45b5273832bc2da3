"""shared: one frozen trunk with parts of each task's own (adapters, LoRA, ...), trained jointly.

The trunk is the start, which stays as it is; heads and parts are trained on the mixture, a batch of
mixed tasks at the cost of one. What each way does stands in its file in sharing/.
"""

from taskgrove.methods.method import Job, Outcome, balance, curves, trainable
from taskgrove.sharing.table import CHOICES


def shared(job: Job, name: str) -> Outcome:
    """The choice of this name at all the sites that it fits, or the job's own rules."""
    model = job.model()
    model.share(job.rules or [("*", CHOICES[name]())], seed=job.seed)
    record = job.fit(name, model)
    spent, found = record.spent, curves(record, list(model.tasks))
    return Outcome(
        model, spent.passes, spent.seconds, trainable(model), found, balance=balance(record)
    )
