"""The methods that `compare` and `train` know by name."""

from taskgrove.methods.joint import joint
from taskgrove.methods.merged import adaptive, arithmetic, average, ties_merging
from taskgrove.methods.method import Job, Method, Outcome
from taskgrove.methods.single import single

METHODS: dict[str, Method] = {
    "single": Method("one model per task; what the others are measured against", single),
    "joint": Method("one shared trunk, the mean of the tasks' losses", joint),
    "uncertainty": Method(
        "one shared trunk, losses weighted by learned noise (Kendall et al. 2018)",
        lambda job: joint(job, "uncertainty"),
    ),
    "pcgrad": Method(
        "one shared trunk, conflicting task gradients projected (Yu et al. 2020)",
        lambda job: joint(job, "pcgrad"),
    ),
    "weight_average": Method(
        "the mean of the single models' weights (Wortsman et al. 2022)", average
    ),
    "task_arithmetic": Method(
        "the sum of their task vectors, scale chosen on validation (Ilharco et al. 2023)",
        arithmetic,
    ),
    "ties": Method("task vectors trimmed, signs elected (Yadav et al. 2023)", ties_merging),
    "adamerging": Method(
        "a scale per task and layer, learned from unlabelled inputs (Yang et al. 2024)", adaptive
    ),
}

__all__ = ["METHODS", "Job", "Method", "Outcome"]
