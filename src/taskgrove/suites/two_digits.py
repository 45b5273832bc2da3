"""Pairs of scikit-learn's digits in one image, the smallest set-up in which two tasks meet.

Dynamic Routing Between Capsules, Sabour, Frosst, Hinton, NeurIPS 2017, arXiv 1710.09829
(MultiMNIST); as two tasks in Multi-Task Learning as Multi-Objective Optimization, Sener, Koltun,
NeurIPS 2018, arXiv 1810.04650.

One 8 x 8 digit top left, one bottom right, on 12 x 12 pixels; where they overlap the brighter pixel
counts. Symbols: images [pair pixel], in 0 to 1; labels [task pair], left and right.
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor

Split = tuple[Tensor, Tensor]


@cache
def pairs(seed: int, noise: float, counts: tuple[int, int, int]) -> list[Split]:
    """Training, validation and test pairs of a seed; the same pairs whatever the noise.

    Of the digits 600 are for training, 300 for validation, 897 for test, before they are paired.
    `noise`: share of the right labels that are drawn at random, in training and validation.
    """
    from sklearn.datasets import load_digits

    (X, y), rng = load_digits(return_X_y=True), np.random.default_rng(seed)
    digits = np.asarray(X, np.float32).reshape(-1, 8, 8) / 16
    parts = np.split(rng.permutation(len(digits)), [600, 900])
    found = []
    for number, (part, count) in enumerate(zip(parts, counts, strict=True)):
        left, right = rng.choice(part, (2, count))
        image = np.zeros((2, count, 12, 12), np.float32)
        image[0, :, :8, :8], image[1, :, 4:, 4:] = digits[left], digits[right]
        labels = np.asarray(y)[np.stack([left, right])]
        wrong, drawn = rng.random(count) < noise, rng.integers(0, 10, count)
        if number < 2:
            labels[1, wrong] = drawn[wrong]
        pixels = image.max(0).reshape(count, -1)
        found.append((torch.from_numpy(pixels), torch.from_numpy(labels)))
    return found
