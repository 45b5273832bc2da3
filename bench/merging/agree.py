"""How far two merged checkpoints are apart: a line of JSON.

    python bench/merging/agree.py A B       {"equal": share, "within_1": share, "most": steps}

A step is from one bfloat16 number to the next. An eighth of the large tensors is compared.
"""

import json
import sys
from collections import Counter
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

FAR = 100  # steps counted together from here on
BLOCK, EVERY = 2**18, 8  # of each tensor, the first block of numbers, the ninth, ...


def places(folder: Path) -> dict[str, Path]:
    """Which file has a tensor."""
    found = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            found |= dict.fromkeys(opened.keys(), file)
    return found


def read(file: Path, name: str) -> Tensor:
    with safe_open(file, framework="pt") as opened:
        return opened.get_tensor(name)


def order(values: Tensor) -> Tensor:
    """bfloat16 as integers in the numbers' order, neighbours 1 apart."""
    bits = values.view(torch.int16).int()
    return torch.where(bits < 0, -(bits & 0x7FFF), bits)


def main() -> None:
    a, b = (places(Path(folder)) for folder in sys.argv[1:3])
    if set(a) != set(b):
        sys.exit(f"different tensors: {sorted(set(a) ^ set(b))}")
    steps: Counter[int] = Counter()
    for name, file in a.items():
        pairs = zip(*(read(f, name).flatten().split(BLOCK) for f in (file, b[name])), strict=True)
        for n, (x, y) in enumerate(pairs):
            if n % EVERY:
                continue
            apart = (order(x) - order(y)).abs_().clamp_(max=FAR)
            steps.update({k: c for k, c in enumerate(apart.bincount().tolist()) if c})
    total = sum(steps.values())
    within = steps[0] + steps[1]
    found = {"equal": steps[0] / total, "within_1": within / total, "most": max(steps)}
    print(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
