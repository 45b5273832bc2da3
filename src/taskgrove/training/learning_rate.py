"""The learning rate over a run: linear warm-up, then a cosine to zero.

SGDR: Stochastic Gradient Descent with Warm Restarts, Loshchilov, Hutter, ICLR 2017, arXiv
1608.03983, equation 5 without restarts. Written in the share of the budget that is used, so that
any unit will do.
"""

import math


def warmup_cosine(used: float, warmup: float) -> float:
    """Factor on the highest rate when the share `used` of the budget is gone.

    >>> warmup_cosine(0.05, warmup=0.1), warmup_cosine(0.1, warmup=0.1)
    (0.5, 1.0)
    >>> round(warmup_cosine(1.0, warmup=0.1), 6)
    0.0
    """
    if used < warmup:
        return used / warmup
    return 0.5 * (1 + math.cos(math.pi * (used - warmup) / (1 - warmup)))
