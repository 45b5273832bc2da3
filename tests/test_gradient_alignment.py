"""What the study of multi-head routing measures: alignment of the tasks' gradients."""

import math

import torch

from taskgrove.measuring.gradient_alignment import gradient_alignment, mean_of_pairs


def test_alignment_is_the_mean_cosine_of_each_parameter():
    p, q = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    right, up = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 5.0])
    losses = [p @ right + q @ right, p @ right - q @ right, p @ up + q @ right]
    C = gradient_alignment(losses, [p, q])
    wanted = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, -0.5], [0.5, -0.5, 1.0]])
    torch.testing.assert_close(C, wanted)
    assert mean_of_pairs(C[:2, :2]) == 0
    assert math.isclose(mean_of_pairs(gradient_alignment(losses[::2], [p, q])), 0.5)


def test_a_parameter_without_gradient_is_left_out():
    p, q = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    up = torch.tensor([0.0, 5.0])
    C = gradient_alignment([p @ up + q @ up, p @ up], [p, q])
    torch.testing.assert_close(C, torch.ones(2, 2))
    assert gradient_alignment([p @ up, q @ up], [p, q])[0, 1].isnan()
