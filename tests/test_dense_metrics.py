"""Metrics and losses of maps: values known by hand, and resamples equal to repeated rows."""

import numpy as np
import pytest
import torch

from taskgrove.measuring.dense import DENSE
from taskgrove.objectives.supervised import LOSSES


def test_known_values():
    target = np.array([[[0, 0], [1, 255]]], np.uint8)
    found = np.array([[[0, 1], [1, 0]]], np.uint8)
    assert DENSE["mean_iou"].score(found, target) == pytest.approx(0.5)
    depth = np.array([[[1.0, np.nan], [3.0, 2.0]]], np.float32)
    assert DENSE["depth_rmse"].score(np.full((1, 2, 2), 2.0), depth) == pytest.approx(
        (2 / 3) ** 0.5
    )
    up, right = np.zeros((1, 3, 2, 2)), np.zeros((1, 3, 2, 2))
    up[:, 1], right[:, 0] = 1, 1
    assert DENSE["angular_error"].score(up, right) == pytest.approx(90)
    line = np.zeros((1, 16, 16), np.uint8)
    line[0, 8] = 1
    for shift, wanted in ((0, 1.0), (1, 1.0), (3, 0.0)):  # a pixel beside is within the tolerance
        moved = np.roll(line, shift, 1).astype(np.float32)
        assert DENSE["ods_f"].score(moved, line) == pytest.approx(wanted)
    assert DENSE["max_f"].score(np.ones((1, 2, 2)), np.eye(2, dtype=np.uint8)[None]) == (
        pytest.approx(1.3 * 0.5 / (0.3 * 0.5 + 1))
    )


def example(kind, rows=4, side=8):
    rng = np.random.default_rng(0)
    if kind == "segmentation":
        return rng.integers(0, 3, (2, rows, side, side)).astype(np.uint8)
    if kind == "normals":
        n = rng.normal(size=(2, rows, 3, side, side))
        return n / np.linalg.norm(n, axis=2, keepdims=True)
    if kind == "depth":
        return rng.random((2, rows, side, side))
    return [rng.random((rows, side, side)), (rng.random((rows, side, side)) > 0.8).astype(np.uint8)]


@pytest.mark.parametrize("metric", DENSE.values(), ids=DENSE)
def test_weights_are_repeated_rows(metric):
    found, target = example(metric.kinds[0])
    drawn = np.array([0, 0, 3, 1])
    weights = np.bincount(drawn, minlength=4)[None].astype(float)
    again = metric.score(found[drawn], target[drawn])
    assert metric.weighted(found, target, weights)[0] == pytest.approx(again)


@pytest.mark.parametrize("kind", ["segmentation", "depth", "normals", "edges", "saliency"])
def test_missing_pixels_do_not_count(kind):
    _, target = example(kind)
    channels = {"segmentation": 3, "normals": 3}.get(kind, 1)
    output = torch.randn(4, channels, 8, 8, requires_grad=True)
    missing = np.nan if kind in ("depth", "normals") else 255
    target = target.astype(np.float32 if kind in ("depth", "normals") else np.uint8)
    target[0], target[1, ..., :4] = missing, missing
    loss = LOSSES[kind](output, torch.from_numpy(target))
    loss.sum().backward()
    assert loss.shape == (4,)
    assert loss[0] == 0
    assert bool((loss[1:] > 0).all())
    assert output.grad is not None
    assert not output.grad[0].any()
    assert not output.grad[1, ..., :4].any()
    assert bool(output.grad[1, ..., 4:].any())
    assert bool(output.grad.isfinite().all())
