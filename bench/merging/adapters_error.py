"""How far a merge of LoRA adapters is from the exact sum of products: a line of JSON.

python bench/merging/adapters_error.py BASE OUT ADAPTER...
"""

import json
import sys
from pathlib import Path

import torch
from agree import places, read
from safetensors.torch import load_file

WEIGHT = 0.3


def main() -> None:
    base, out = (places(Path(folder)) for folder in sys.argv[1:3])
    change: dict[str, torch.Tensor] = {}
    for folder in map(Path, sys.argv[3:]):
        config = json.loads((folder / "adapter_config.json").read_text())
        scale = config["lora_alpha"] / config["r"]
        tensors = load_file(folder / "adapter_model.safetensors")
        for name, A in tensors.items():
            if "lora_A" in name:
                B = tensors[name.replace("lora_A", "lora_B")]
                place = name.removeprefix("base_model.model.").replace(".lora_A", "")
                part = WEIGHT * scale * (B.double() @ A.double())
                change[place] = change.get(place, torch.zeros_like(part)) + part
    apart = size = 0.0
    for name, tau in change.items():
        exact = (read(base[name], name).double() + tau).bfloat16().double()
        apart += float((read(out[name], name).double() - exact).square().sum())
        size += float(tau.square().sum())
    print(json.dumps({"error": (apart / size) ** 0.5}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
