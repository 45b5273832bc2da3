"""What a metric is: a plain score, and its twin that scores many resamples of the rows at once.

Shapes, by the kind of target:
    classes  prediction [row class] probabilities,  target [row] whole numbers
    labels   prediction [row class] probabilities,  target [row class] of 0 and 1
    number   prediction [row],                      target [row]

`score` is scikit-learn's or scipy's value. `weighted` takes how often each row was drawn, [resample
row], and returns what `score` would return on the rows so repeated, for all resamples at once.

Where the target leaves a metric without meaning (constant for r2 and spearman, one class for
average precision, no rows) both return NaN. The prediction never decides that: what is undefined
for one method is undefined for all, so methods stay comparable.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Metric:
    name: str
    kinds: tuple[str, ...]  # the kinds of target that it is made for
    higher_is_better: bool
    range: tuple[float, float]  # the least and the greatest possible value
    score: Callable[[np.ndarray, np.ndarray], float]
    weighted: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
