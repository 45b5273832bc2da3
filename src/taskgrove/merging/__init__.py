"""How separately trained weights become one: one method a file, one explicit table.

A static method is two functions: `<name>_tensor(base, deltas [model ...], parameters) -> tensor`,
pure and without input or output, and `<name>(base, deltas, parameters) -> dict`, which merges a
whole model in memory with it. A learned method also takes `forward` and inputs.
"""

from taskgrove.merging.adamerging import AdaMerged, adamerging
from taskgrove.merging.average import weight_average
from taskgrove.merging.scaled_merge import ScaledMerge
from taskgrove.merging.task_arithmetic import task_arithmetic
from taskgrove.merging.task_vector import apply, deltas
from taskgrove.merging.ties import clean, ties

STATIC = {
    "weight_average": weight_average,
    "task_arithmetic": task_arithmetic,
    "ties": ties,
}

LEARNED = {
    "adamerging": adamerging,
}

__all__ = [
    "LEARNED",
    "STATIC",
    "AdaMerged",
    "ScaledMerge",
    "adamerging",
    "apply",
    "clean",
    "deltas",
    "task_arithmetic",
    "ties",
    "weight_average",
]
