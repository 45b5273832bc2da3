"""features_experts: MMoE, CGC and PLE as their papers train them, trunk, experts and gates at once.

See sharing/mmoe; the row `mmoe` of `compare` keeps the trunk frozen, as all ways to share do there.
"""

from taskgrove.methods.method import Job, Outcome, balance, curves, trainable
from taskgrove.sharing.mmoe import MMoE

KINDS = {
    "mmoe_joint": MMoE(),
    "cgc": MMoE(shared=2, own=1),
    "ple": MMoE(shared=2, own=1, levels=2),
}


def features_experts(job: Job, name: str) -> Outcome:
    """One of `KINDS`."""
    model = job.model()
    model.share([("*", KINDS[name])], seed=job.seed, freeze=False)
    record = job.fit(name, model)
    spent, found = record.spent, curves(record, list(model.tasks))
    return Outcome(
        model, spent.passes, spent.seconds, trainable(model), found, balance=balance(record)
    )
