"""MiniLM cut in two: lower layers that stay frozen, top layers as a function of their weights.

Devlin et al., "BERT", NAACL 2019, arXiv 1810.04805 (the layer); MiniLM: see backbones/minilm.
What the lower layers say of a text never changes, so it is computed once; what trains and what is
merged is a dict of the top layers' tensors, by their names in the checkpoint.

    a = LN(x + W_o attend(W_q x, W_k x, W_v x))      y = LN(a + W_2 gelu(W_1 a))      per layer
    features = mean over a text's tokens of the last y

    x, a, y: [token dim], the tokens of all texts of a batch, one after the other, without padding;
    lengths: [row], tokens of each text; features: [row dim]

Difference from the model's own code: only attention sees padding; no dropout.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from zlib import crc32

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear, scaled_dot_product_attention

from taskgrove.backbones.minilm import minilm_folder

Weights = dict[str, Tensor]
LENGTH, LOWER, TOP = 48, 4, 2  # tokens of a text; layers of MiniLM
WORDS = ("word_embeddings", "position_embeddings", "token_type_embeddings")


@dataclass(frozen=True)
class Texts:
    """Hidden states of some texts: what the frozen layers say of them."""

    tokens: Float[Tensor, "token dim"]
    lengths: Int[Tensor, " row"]

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, rows: Int[Tensor, " row"]) -> "Texts":
        """Some of the texts, in the order of `rows`."""
        lengths = self.lengths[rows]
        starts = (self.lengths.cumsum(0) - self.lengths)[rows]
        return Texts(self.tokens[starts.repeat_interleave(lengths) + _places(lengths)], lengths)


@dataclass(frozen=True)
class Encoder:
    """All weights of a BERT, and how it reads."""

    weights: Weights
    ids: Callable[[list[str]], list[list[int]]]
    heads: int
    lower: int
    top: int

    def base(self) -> Weights:
        """theta_0: the tensors of the top layers."""
        mine = [f"encoder.layer.{n}." for n in range(self.lower, self.lower + self.top)]
        return {name: w for name, w in self.weights.items() if name.startswith(tuple(mine))}

    @torch.no_grad()
    def read(self, texts: list[str], batch: int = 64) -> Texts:
        """The frozen layers' states; long texts are read beside long ones."""
        ids = self.ids(texts)
        order = sorted(range(len(ids)), key=lambda n: len(ids[n]))
        batches = [order[i : i + batch] for i in range(0, len(ids), batch)]
        found = [self._lower([ids[n] for n in mine]) for mine in batches]
        lengths = torch.tensor([len(ids[n]) for n in order])
        back = torch.empty(len(order), dtype=torch.long)
        back[torch.tensor(order)] = torch.arange(len(order))
        return Texts(torch.cat(found), lengths).take(back)

    def _lower(self, ids: list[list[int]]) -> Float[Tensor, "token dim"]:
        lengths, W = torch.tensor([len(one) for one in ids]), self.weights
        words, places, kinds = (W[f"embeddings.{name}.weight"] for name in WORDS)
        x = (
            words[torch.tensor([token for one in ids for token in one])]
            + places[_places(lengths)]
            + kinds[0]
        )
        x = _norm(W, "embeddings.LayerNorm", x)
        for n in range(self.lower):
            x = _layer(W, f"encoder.layer.{n}", x, lengths, self.heads)
        return x

    def features(self, weights: Weights, texts: Texts) -> Float[Tensor, "row dim"]:
        """Through top layers with `weights`."""
        x = texts.tokens.float()
        for n in range(self.lower, self.lower + self.top):
            x = _layer(weights, f"encoder.layer.{n}", x, texts.lengths, self.heads)
        row = torch.arange(len(texts)).repeat_interleave(texts.lengths)
        total = x.new_zeros(len(texts), x.shape[1]).index_add(0, row, x)
        return total / texts.lengths[:, None]


def _places(lengths: Int[Tensor, " row"]) -> Int[Tensor, " token"]:
    """0, 1, 2, .. in each text."""
    starts = lengths.cumsum(0) - lengths
    return torch.arange(int(lengths.sum())) - starts.repeat_interleave(lengths)


def _layer(W: Weights, name: str, x: Tensor, lengths: Tensor, heads: int) -> Tensor:
    row = torch.arange(len(lengths)).repeat_interleave(lengths)
    at = row, _places(lengths)

    def apart(part: str) -> Tensor:  # [row head token dim / head]
        padded = x.new_zeros(len(lengths), int(lengths.max()), x.shape[1])
        padded = padded.index_put(at, _linear(W, f"{name}.attention.self.{part}", x))
        return padded.unflatten(2, (heads, -1)).transpose(1, 2)

    real = torch.arange(int(lengths.max())) < lengths[:, None]  # [row token]
    q, k, v = apart("query"), apart("key"), apart("value")
    met = scaled_dot_product_attention(q, k, v, attn_mask=real[:, None, None])
    met = met.transpose(1, 2).flatten(2)[at]  # [token dim]
    x = x + _linear(W, f"{name}.attention.output.dense", met)
    a = _norm(W, f"{name}.attention.output.LayerNorm", x)
    h = _linear(W, f"{name}.output.dense", gelu(_linear(W, f"{name}.intermediate.dense", a)))
    return _norm(W, f"{name}.output.LayerNorm", a + h)


def _linear(W: Weights, name: str, x: Tensor) -> Tensor:
    return linear(x, W[f"{name}.weight"], W[f"{name}.bias"])


def _norm(W: Weights, name: str, x: Tensor) -> Tensor:
    return layer_norm(x, x.shape[-1:], W[f"{name}.weight"], W[f"{name}.bias"], eps=1e-12)


@cache
def minilm_encoder() -> Encoder:
    """The published weights and tokenizer."""
    from tokenizers import Tokenizer

    folder = minilm_folder()
    tokens = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokens.no_padding()
    tokens.enable_truncation(LENGTH)
    weights = load_file(folder / "model.safetensors")
    return Encoder(
        weights, lambda texts: [e.ids for e in tokens.encode_batch(texts)], 12, LOWER, TOP
    )


@cache
def tiny_encoder(dim: int = 16, seed: int = 0) -> Encoder:
    """Random weights in the same form, for quick runs: words are told apart, no more."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        f"embeddings.{name}.weight": (n, dim)
        for name, n in zip(WORDS, (500, LENGTH, 2), strict=True)
    }
    shapes |= _pair("embeddings.LayerNorm", dim)
    for layer in (f"encoder.layer.{n}" for n in range(3)):
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            shapes |= _pair(f"{layer}.attention.{part}", dim, dim)
        shapes |= _pair(f"{layer}.attention.output.LayerNorm", dim)
        shapes |= _pair(f"{layer}.intermediate.dense", 2 * dim, dim)
        shapes |= _pair(f"{layer}.output.dense", dim, 2 * dim)
        shapes |= _pair(f"{layer}.output.LayerNorm", dim)
    weights = {
        name: torch.ones(shape) if name.endswith("LayerNorm.weight")
        else torch.randn(shape, generator=generator) * (len(shape) - 1) / dim**0.5
        for name, shape in shapes.items()
    }  # fmt: skip

    def ids(texts: list[str]) -> list[list[int]]:
        return [[crc32(word.encode()) % 500 for word in text.split()[:LENGTH]] for text in texts]

    return Encoder(weights, ids, 2, 1, 2)


def _pair(name: str, out: int, *into: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, *into), f"{name}.bias": (out,)}
