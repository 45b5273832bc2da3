"""Two stages on one frozen trunk: each task's adapter alone, then what each task takes of them all.

ScaLearn (Frohmann et al. 2024) learns scales, AdapterFusion (Pfeiffer et al. 2021) attention; see
sharing/scaled_adapters and sharing/adapter_fusion. Half of the budget goes to each stage. Since the
trunk is frozen and nothing else is shared, the adapters of the first stage are trained in mixed
batches just as they would be alone. The second stage starts from fresh heads.
"""

from dataclasses import replace
from typing import Any

from taskgrove.methods.method import Job, Outcome, balance, curves, trainable
from taskgrove.sharing.adapter import Adapter, AdapterParts, take
from taskgrove.sharing.adapter_fusion import AdapterFusion, FusionParts
from taskgrove.sharing.scaled_adapters import ScaledAdapters, ScaledParts
from taskgrove.training.run import Record

VARIANTS = {
    "scalearn": ScaledAdapters(),
    "scalearn_uniform": ScaledAdapters(shape="scalar"),
    "scalearn_pp": ScaledAdapters(share_layers=True),
    "scalearn_uniform_pp": ScaledAdapters(shape="scalar", share_layers=True, dropout=0.0),
    "adapter_fusion": AdapterFusion(),
}


def scaled(job: Job, name: str) -> Outcome:
    """The variant of this name."""
    choice = VARIANTS[name]
    sources, first = adapters(job, choice.reduction)
    model = job.model()
    rules = [("*", replace(choice, sources=len(model.tasks)))]
    parts = model.share(rules, seed=job.seed).parts[0]
    assert isinstance(parts, ScaledParts | FusionParts)
    take(parts.adapters, sources)
    second = job.fit(name, model, share=0.5)
    spent = first.spent.passes + second.spent.passes
    seconds = first.spent.seconds + second.spent.seconds
    found = [*curves(first, list(model.tasks)), *curves(second, list(model.tasks))]
    notes = told(parts, list(model.tasks)) if isinstance(parts, ScaledParts) else []
    count = trainable(model) + sum(p.numel() for p in sources.parameters())
    return Outcome(model, spent, seconds, count, found, notes, balance=balance(second))


def adapters(job: Job, reduction: int) -> tuple[AdapterParts, Record]:
    """Each task's adapter, trained once for all variants in half of the budget."""
    model = job.model()
    sharing = model.share([("*", Adapter(reduction=reduction))], seed=job.seed)
    record = job.fit("sources", model, share=0.5)
    parts: Any = sharing.parts[0]
    return parts, record


def told(parts: ScaledParts, tasks: list[str]) -> list[str]:
    """A sentence for each task: whose adapters it takes, strongest first."""
    sentences = []
    for task, row in zip(tasks, parts.contributions().tolist(), strict=True):
        order = sorted(zip(row, tasks, strict=False), key=lambda pair: -abs(pair[0]))[:4]
        shares = ", ".join(f"{source} {share:.2f}" for share, source in order)
        sentences.append(f"{task} takes of the adapters of: {shares}")
    return sentences
