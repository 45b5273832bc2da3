"""What is predicted, and what it costs to be wrong: one explicit table."""

from taskgrove.objectives.cosent import cosent
from taskgrove.objectives.entropy import prediction_entropy
from taskgrove.objectives.info_nce import info_nce
from taskgrove.objectives.supervised import (
    LOSSES,
    binary_cross_entropy,
    cross_entropy,
    squared_error,
)

OBJECTIVES = {
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
    "squared_error": squared_error,
    "entropy": prediction_entropy,
    "info_nce": info_nce,
    "cosent": cosent,
}

__all__ = ["LOSSES", "OBJECTIVES"]
