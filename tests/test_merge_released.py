"""A pair that was really released: SCEPTR and its fine-tune, as `.pt` files in their package."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from command_line import works

SPEC = find_spec("sceptr")
pytestmark = pytest.mark.skipif(SPEC is None, reason="needs pip install --no-deps sceptr==1.2.0")


def place(name):
    assert SPEC is not None
    assert SPEC.origin is not None
    return Path(SPEC.origin).parent / "_model_saves" / name / "state_dict.pt"


@pytest.mark.parametrize("method", ["task_arithmetic", "wise_ft", "average", "slerp"])
def test_half_way_between_the_two(tmp_path, method):
    half = {"task_arithmetic": ["--scale", 0.5], "wise_ft": ["--alpha", 0.5], "slerp": ["--t", 0.5]}
    base, tuned = place("SCEPTR"), place("SCEPTR_finetuned")
    models = ["--tuned", base, tuned] if method in ("average", "slerp") else ["--tuned", tuned]
    if method in ("task_arithmetic", "wise_ft"):
        models += ["--base", base]
    works("merge", method, *models, *half.get(method, []), "--out", tmp_path / "out")
    merged = load_file(tmp_path / "out/model.safetensors")
    a, b = (torch.load(path, weights_only=True) for path in (base, tuned))
    assert merged.keys() == a.keys()
    for name, w in merged.items():
        middle = (a[name].numpy() + b[name].numpy()) / 2
        if method == "slerp":  # half way on the arc: the middle's direction
            middle *= np.linalg.norm(w) / np.linalg.norm(middle)
        assert np.linalg.norm(w - middle) <= 1e-5 * np.linalg.norm(middle), name
    moved = sum(np.linalg.norm(merged[n] - a[n].numpy()) ** 2 for n in merged)
    assert moved > 0
