"""Small causal language models of real text (see text_kinds), trained once on each machine.

A tokenizer of 512 byte pieces, a large and a small Llama model of one vocabulary, both trained on
the same mixture: mostly prose, a little of each other kind. They are kept in the user's cache as
Hugging Face folders, `large` and `small`, under a digest of their text, sizes and of this file.
"""

import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from taskgrove.suites.cache import folder_of

PIECES, WINDOW, BATCH = 512, 128, 16
Model = Any  # a LlamaForCausalLM
Tokens = Int[Tensor, "token"]


@dataclass(frozen=True)
class Shape:
    """Of a model, and how it learns the mixture."""

    width: int
    layers: int
    heads: int
    rate: float


LARGE, SMALL = Shape(128, 3, 4, 3e-3), Shape(48, 1, 4, 4e-3)


def pretrained(texts: Sequence[str], steps: int) -> Path:
    """The folder with `large` and `small`, trained on the mixture for so many steps."""
    mark = blake2b(f"{LARGE} {SMALL} {steps} {torch.__version__}".encode(), digest_size=8)
    for text in (Path(__file__).read_text("utf-8"), *texts):
        mark.update(text.encode())
    folder = folder_of("text_models") / mark.hexdigest()
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
    try:
        tokenizer = new_tokenizer(texts)
        data = tokens_of(tokenizer, texts)
        for name, shape in (("small", SMALL), ("large", LARGE)):
            model = train(new_model(shape, seed=0), data, steps, shape.rate, seed=0)
            model.save_pretrained(aside / name)
            tokenizer.save_pretrained(aside / name)
        if not folder.exists():  # another process may have been faster
            os.rename(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def new_tokenizer(texts: Iterable[str]) -> Any:
    """Byte pair encoding, learned from the texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=PIECES, initial_alphabet=letters, show_progress=False),
    )
    return PreTrainedTokenizerFast(tokenizer_object=core)


def tokens_of(tokenizer: Any, texts: Iterable[str]) -> Tokens:
    """All texts' tokens, one after the other."""
    return torch.tensor([n for text in texts for n in tokenizer(text)["input_ids"]])


def bytes_of(tokenizer: Any) -> Int[Tensor, "vocabulary"]:
    """How many bytes each token stands for."""
    return torch.tensor([len(tokenizer.convert_ids_to_tokens(n)) for n in range(len(tokenizer))])


def new_model(shape: Shape, seed: int) -> Model:
    """With random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=PIECES,
        hidden_size=shape.width,
        intermediate_size=shape.width * 8 // 3,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def train(model: Model, data: Tokens, steps: int, rate: float, seed: int) -> Model:
    """AdamW on random windows of the data; the rate warms up and falls as a cosine to a twentieth.

    The model itself is trained, and given back.
    """
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    rng = torch.Generator().manual_seed(seed)
    model.train()
    for step in range(steps):
        cosine = 0.05 + 0.95 * (1 + math.cos(math.pi * step / steps)) / 2
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1, 10 * (step + 1) / steps) * cosine
        starts = torch.randint(len(data) - WINDOW, (BATCH,), generator=rng)
        rows = torch.stack([data[start : start + WINDOW + 1] for start in starts.tolist()])
        logits = model(rows[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    return model.eval()
