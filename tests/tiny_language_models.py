"""Causal language models of random weights and a tokenizer, all made here."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.decoders import ByteLevel
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

WORDS = "the a cat dog bird mat sat on and"


def tiny_tokenizer(words=WORDS):
    """Bytes and a few whole words, as GPT-2's tokenizer writes them; 0 pads, 1 ends."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens, merges = [*letters], []
    for word in words.split():
        whole = "Ġ"
        for letter in word:
            merges.append((whole, letter))
            whole += letter
            tokens.append(whole)
    vocabulary = {t: n for n, t in enumerate(["<pad>", "<end>", *dict.fromkeys(tokens)])}
    core = Tokenizer(models.BPE(vocabulary, list(dict.fromkeys(merges))))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<end>")


def tiny_model(kind, tokens, *, seed, width, moved=None):
    """`moved`: the seed of what tuning changed, if it was tuned."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make(kind, tokens, width).eval()
        torch.manual_seed(0 if moved is None else moved)
        for parameter in model.parameters():
            if parameter.ndim == 2:  # random models repeat one token; large weights do not
                parameter.data.mul_(5)
                if moved is not None:
                    parameter.data.add_(torch.randn_like(parameter) * 0.5 * parameter.std())
    return model


def make(kind, tokens, width):
    ends = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    if kind == "gpt2":
        config = GPT2Config(
            vocab_size=tokens, n_positions=64, n_embd=width, n_layer=2, n_head=2,
            tie_word_embeddings=False, **ends,
        )  # fmt: skip
        return GPT2LMHeadModel(config)
    sizes = {
        "vocab_size": tokens, "hidden_size": width, "intermediate_size": 2 * width,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "max_position_embeddings": 64, "tie_word_embeddings": False,
    }  # fmt: skip
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**sizes, **ends))
    return Qwen2ForCausalLM(Qwen2Config(**sizes, **ends))
