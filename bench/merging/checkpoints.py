"""Writes a base and K tuned models as Hugging Face does, sharded, of random numbers, in bfloat16.

    python bench/merging/checkpoints.py FOLDER K [--size quick|half]      FOLDER/base, tuned1, ...

Shapes and names are Qwen2-0.5B's (its config.json: 494 M parameters, tied embeddings; "quick" is a
miniature). Weights are normal with standard deviation 0.02, gains 1; a tuned model adds changes of
2.5 % of that, so that after rounding to bfloat16 some coordinates are the base's still, as in
real fine-tunes. What is there already is kept.
"""

import argparse
import json
import zlib
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

WEIGHT, CHANGE = 0.02, 0.0005  # standard deviations
SHARD = 350_000_000  # bytes, most; one tensor of the 0.5 B model has 272 M
HALF = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "hidden_act": "silu",
    "hidden_size": 896,
    "initializer_range": 0.02,
    "intermediate_size": 4864,
    "max_position_embeddings": 131072,
    "max_window_layers": 24,
    "model_type": "qwen2",
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 131072,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
SMALL = {"hidden_size": 56, "intermediate_size": 128, "num_hidden_layers": 3, "vocab_size": 1024}
SIZES = {"half": HALF, "quick": HALF | SMALL | {"bos_token_id": 0, "eos_token_id": 0}}
Shapes = dict[str, tuple[int, ...]]


def shapes(config: dict) -> Shapes:
    """Qwen2's tensors in the order of its state_dict."""
    wide, heads = config["hidden_size"], config["num_attention_heads"]
    narrow, inner = wide // heads * config["num_key_value_heads"], config["intermediate_size"]
    found: Shapes = {"model.embed_tokens.weight": (config["vocab_size"], wide)}
    for n in range(config["num_hidden_layers"]):
        layer = f"model.layers.{n}"
        for part, out in {"q": wide, "k": narrow, "v": narrow}.items():
            found[f"{layer}.self_attn.{part}_proj.weight"] = (out, wide)
            found[f"{layer}.self_attn.{part}_proj.bias"] = (out,)
        found[f"{layer}.self_attn.o_proj.weight"] = (wide, wide)
        found[f"{layer}.mlp.gate_proj.weight"] = (inner, wide)
        found[f"{layer}.mlp.up_proj.weight"] = (inner, wide)
        found[f"{layer}.mlp.down_proj.weight"] = (wide, inner)
        found[f"{layer}.input_layernorm.weight"] = (wide,)
        found[f"{layer}.post_attention_layernorm.weight"] = (wide,)
    return found | {"model.norm.weight": (wide,)}


def shards(given: Shapes, most: int) -> list[list[str]]:
    """Names in order, cut where a shard would be larger than `most` bytes."""
    found, held = [[]], 0
    for name, shape in given.items():
        size = 2 * torch.Size(shape).numel()
        if found[-1] and held + size > most:
            found.append([])
            held = 0
        found[-1].append(name)
        held += size
    return found


def normal(name: str, model: int, shape: tuple[int, ...]) -> Tensor:
    """Reproducible in any order: the seed is the name's and the model's."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{name} {model}".encode()))
    return torch.randn(shape, generator=generator)


def tensor(name: str, model: int, shape: tuple[int, ...]) -> Tensor:
    """A tensor of the base (model 0) or of a tuned model."""
    base = normal(name, 0, shape).mul_(WEIGHT)
    if "norm" in name:
        base += 1
    base = base.bfloat16()
    if model == 0:
        return base
    return normal(name, model, shape).mul_(CHANGE).add_(base).bfloat16()


def write(folder: Path, model: int, config: dict) -> None:
    """One checkpoint; its folder has the final name only when it is complete."""
    if folder.exists():
        return
    aside = folder.with_name(f"{folder.name}.part")
    aside.mkdir(parents=True, exist_ok=True)
    every = shapes(config)
    total = sum(2 * torch.Size(shape).numel() for shape in every.values())
    parts, where = shards(every, min(SHARD, total // 3)), {}
    for n, names in enumerate(parts, start=1):
        file = f"model-{n:05}-of-{len(parts):05}.safetensors"
        tensors = {name: tensor(name, model, every[name]) for name in names}
        save_file(tensors, aside / file, metadata={"format": "pt"})
        where |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (aside / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    (aside / "config.json").write_text(json.dumps(config, indent=2))
    tokenizer(aside)
    aside.rename(folder)


def tokenizer(folder: Path) -> None:
    """A small one: bytes and an end of text."""
    words = ["<|endoftext|>", *(f"<0x{n:02X}>" for n in range(256))]
    model = {"type": "WordLevel", "vocab": {w: n for n, w in enumerate(words)}, "unk_token": None}
    end = {"id": 0, "content": words[0], "special": True} | dict.fromkeys(
        ("single_word", "lstrip", "rstrip", "normalized"), False
    )
    empty = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer"))
    whole = {"version": "1.0", **empty, "added_tokens": [end]}
    whole |= {"post_processor": None, "decoder": None, "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": words[0]}
    (folder / "tokenizer_config.json").write_text(json.dumps(kind))
    generation = {"bos_token_id": 0, "eos_token_id": 0, "max_new_tokens": 2048}
    (folder / "generation_config.json").write_text(json.dumps(generation))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("tuned", type=int, help="how many tuned models")
    parser.add_argument("--size", choices=list(SIZES), default="half")
    options = parser.parse_args()
    for model in range(options.tuned + 1):
        name = f"tuned{model}" if model else "base"
        write(options.folder / name, model, SIZES[options.size])


if __name__ == "__main__":
    main()
