"""What is predicted, and what it costs to be wrong: one loss a file, one explicit table."""

from taskgrove.objectives.entropy import prediction_entropy

OBJECTIVES = {
    "entropy": prediction_entropy,
}
