"""Makes three LoRA adapters of the base, or merges them as PEFT does; in the peers' environment.

    .venv-peers-merging/bin/python bench/merging/adapters_peer.py make BASE FOLDER
    .venv-peers-merging/bin/python bench/merging/adapters_peer.py WAY BASE OUT ADAPTER...

WAY: linear, svd, ties or cat of `add_weighted_adapter`, each adapter weighted 0.3, then
`merge_and_unload`; saved as a whole model. Adapters: rank 16 on q_proj and v_proj, random.
"""

# pyright: reportMissingImports=false

import sys
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

RANK, COUNT, WEIGHT = 16, 3, 0.3
OPTIONS = {"svd": {"svd_rank": RANK}, "ties": {"density": 0.2}}


def make(base: str, folder: Path) -> None:
    """Seeded; B is not 0 as it is in a fresh adapter."""
    for k in range(COUNT):
        torch.manual_seed(k)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
        config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=["q_proj", "v_proj"])
        tuned = get_peft_model(model, config)
        for name, p in tuned.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(p, std=0.005)
        tuned.save_pretrained(folder / f"adapter{k + 1}")


def merge(way: str, base: str, out: str, adapters: list[str]) -> None:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    names = [f"a{k}" for k in range(len(adapters))]
    tuned = PeftModel.from_pretrained(model, adapters[0], adapter_name=names[0])
    for name, place in zip(names[1:], adapters[1:], strict=True):
        tuned.load_adapter(place, adapter_name=name)
    weights = [WEIGHT] * len(names)
    tuned.add_weighted_adapter(
        names, weights, "merged", combination_type=way, **OPTIONS.get(way, {})
    )
    tuned.set_adapter("merged")
    tuned.merge_and_unload().save_pretrained(out)


def main() -> None:
    way, base, out = sys.argv[1:4]
    torch.set_num_threads(1)
    if way == "make":
        make(base, Path(out))
    else:
        merge(way, base, out, sys.argv[4:])


if __name__ == "__main__":
    main()
