"""Joint training: one trunk for all tasks, one head a task, trained on the mixture.

Caruana 1997, Multitask Learning. The balancer says how the tasks' losses or gradients meet: their
mean, or one of the methods in balancing/.
"""

from taskgrove.methods.method import Job, Outcome, balance, curves, trainable


def joint(job: Job, balancer: str = "mean") -> Outcome:
    """One model for all tasks, within the whole budget."""
    model = job.model()
    name = "joint" if balancer == "mean" else balancer
    record = job.fit(name, model, balancer=balancer)
    spent = record.spent
    found = curves(record, list(model.tasks))
    return Outcome(
        model, spent.passes, spent.seconds, trainable(model), found, balance=balance(record)
    )
