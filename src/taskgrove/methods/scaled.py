"""Two stages on one frozen trunk: each task's adapter alone, then what each task takes of them all.

ScaLearn (Frohmann et al. 2024) learns scales, AdapterFusion (Pfeiffer et al. 2021) attention; see
sharing/scaled_adapters and sharing/adapter_fusion. Half of the budget goes to each stage. Since the
trunk is frozen and nothing else is shared, the adapters of the first stage are trained in mixed
batches just as they would be alone. The second stage starts from fresh heads.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from taskgrove.errors import TaskgroveError
from taskgrove.methods.method import Job, Outcome, balance, curves, trainable
from taskgrove.sharing.adapter import Adapter, take
from taskgrove.sharing.adapter_fusion import AdapterFusion
from taskgrove.sharing.scaled_adapters import ScaledAdapters, ScaledParts
from taskgrove.sharing.sharing import Rule
from taskgrove.training.run import Record

VARIANTS = {
    "scalearn": ScaledAdapters(),
    "scalearn_uniform": ScaledAdapters(shape="scalar"),
    "scalearn_pp": ScaledAdapters(share_layers=True),
    "scalearn_uniform_pp": ScaledAdapters(shape="scalar", share_layers=True, dropout=0.0),
    "adapter_fusion": AdapterFusion(),
}


def scaled(job: Job, name: str) -> Outcome:
    """The variant of this name at the ends of all blocks, or the job's own rules."""
    rules = staged(job.rules or [("*", VARIANTS[name])], name)
    sources, first = adapters(job, rules)
    model = job.model()
    tasks = list(model.tasks)
    whole = [(pattern, replace(choice, sources=len(tasks))) for pattern, choice in rules]
    parts: Any = model.share(whole, seed=job.seed).parts
    for own, trained in zip(parts, sources, strict=True):
        take(own.adapters, trained)  # pyright: ignore[reportArgumentType]
    second = job.fit(name, model, share=0.5)
    spent = first.spent.passes + second.spent.passes
    seconds = first.spent.seconds + second.spent.seconds
    found = [*curves(first, tasks), *curves(second, tasks)]
    scales = [each for each in parts if isinstance(each, ScaledParts)]
    count = trainable(model) + sum(p.numel() for p in sources.parameters())
    return Outcome(model, spent, seconds, count, found, told(scales, tasks),
                   coefficients=table(scales, tasks), balance=balance(second))  # fmt: skip


def staged(rules: Sequence[Rule], name: str) -> list[tuple[Any, ScaledAdapters | AdapterFusion]]:
    """Rules whose choices build on trained adapters; raises TaskgroveError for others."""
    found = []
    for pattern, choice in rules:
        if not isinstance(choice, ScaledAdapters | AdapterFusion):
            raise TaskgroveError(
                f'"{name}" trains adapters first, then what tasks take of them: its rules need the'
                f" choice scaled_adapters or adapter_fusion, got {choice}"
            )
        found.append((pattern, choice))
    return found


def adapters(
    job: Job, rules: Sequence[tuple[Any, ScaledAdapters | AdapterFusion]]
) -> tuple[nn.ModuleList, Record]:
    """Each task's adapters, trained once for all variants in half of the budget."""
    model = job.model()
    plain = [(pattern, Adapter(reduction=choice.reduction)) for pattern, choice in rules]
    sharing = model.share(plain, seed=job.seed)
    record = job.fit("sources", model, share=0.5)
    return sharing.parts, record


def table(scales: Sequence[ScaledParts], tasks: Sequence[str]) -> dict[str, Any] | None:
    """Mean omega [target source] as the report shows coefficients; None where there is none."""
    if not scales:
        return None
    values = torch.stack([parts.contributions() for parts in scales]).mean(0)
    sources = [f"adapter of {task}" for task in tasks]
    return {"tasks": list(tasks), "tensors": sources, "values": values.tolist()}


def told(scales: Sequence[ScaledParts], tasks: Sequence[str]) -> list[str]:
    """A sentence for each task: whose adapters it takes, strongest first."""
    found, sentences = table(scales, tasks), []
    for task, row in zip(tasks, found["values"] if found else [], strict=bool(found)):
        order = sorted(zip(row, tasks, strict=True), key=lambda pair: -abs(pair[0]))
        shares = ", ".join(f"{source} contributes {share:.2f}" for share, source in order[:4])
        rest = f", {len(order) - 4} more" if len(order) > 4 else ""
        sentences.append(f"{task}: of the tasks' adapters {shares}{rest}")
    return sentences
