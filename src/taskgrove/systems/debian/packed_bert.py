"""The upper layers of a BERT as modules, over tokens without padding: what parts are attached to.

Devlin et al., "BERT", NAACL 2019, arXiv 1810.04805. The modules have the names of the checkpoint
(`layer.N.output.dense`, ...), and the same numbers come out as of `top_layers`.

    a = n_1(x + W_o attend(W_q x, W_k x, W_v x));    x <- n(W_2 gelu(W_1 a) + a)         per layer
    features = mean over a text's tokens of the last x

Symbols: x, a [token dim], the tokens of all texts of a batch, one after the other; lengths [row],
tokens of each text; features [row dim]. Only attention sees padding; no dropout.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from taskgrove.systems.debian.top_layers import Encoder, Texts


class Joined(nn.Module):
    """n(W y + x), the end of either half of a layer."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(dim, out), nn.LayerNorm(out, eps=1e-12)

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(y) + x)


class Attention(nn.Module):
    """Queries, keys and values, and where heads meet again."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.output = Joined(dim, dim)

    def forward(self, x: Tensor, at: tuple[Tensor, Tensor], real: Tensor) -> Tensor:
        q, k, v = (self._apart(W(x), at, real) for W in (self.query, self.key, self.value))
        met = scaled_dot_product_attention(q, k, v, attn_mask=real[:, None, None])
        return self.output(met.transpose(1, 2).flatten(2)[at], x)

    def _apart(self, x: Tensor, at: tuple[Tensor, Tensor], real: Tensor) -> Tensor:
        padded = x.new_zeros(*real.shape, x.shape[1]).index_put(at, x)
        return padded.unflatten(2, (self.heads, -1)).transpose(1, 2)  # [row head token dim/head]


class Layer(nn.Module):
    """Attention, then a feed-forward block."""

    def __init__(self, dim: int, inner: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(dim, heads)
        self.intermediate, self.output = nn.Linear(dim, inner), Joined(inner, dim)

    def forward(self, x: Tensor, at: tuple[Tensor, Tensor], real: Tensor) -> Tensor:
        a = self.attention(x, at, real)
        return self.output(gelu(self.intermediate(a)), a)


class PackedBert(nn.Module):
    """The layers above those that an encoder reads with; their weights are frozen."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        W = encoder.base()
        inner, dim = W[f"encoder.layer.{encoder.lower}.intermediate.dense.weight"].shape
        with torch.random.fork_rng(devices=[]):
            self.layer = nn.ModuleList(Layer(dim, inner, encoder.heads) for _ in range(encoder.top))
        self.load_state_dict({_name(n, encoder.lower): w for n, w in W.items()})
        self.requires_grad_(False)
        self.width = dim

    def forward(self, texts: Texts) -> Float[Tensor, "row dim"]:
        x, lengths = texts.tokens, texts.lengths
        row = torch.arange(len(lengths)).repeat_interleave(lengths)
        place = torch.arange(len(x)) - (lengths.cumsum(0) - lengths)[row]
        real = torch.arange(int(lengths.max())) < lengths[:, None]  # [row token]
        for layer in self.layer:
            x = layer(x, (row, place), real)
        total = x.new_zeros(len(lengths), x.shape[1]).index_add(0, row, x)
        return total / lengths[:, None]


def _name(name: str, lower: int) -> str:
    """A tensor of the checkpoint as a parameter here."""
    number, rest = name.removeprefix("encoder.layer.").split(".", 1)
    rest = rest.replace("attention.self.", "attention.").replace(
        "intermediate.dense", "intermediate"
    )
    return f"layer.{int(number) - lower}.{rest}"
