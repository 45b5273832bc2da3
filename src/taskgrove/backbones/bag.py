"""Bag of hashed words, word pairs and character windows: text without a download.

After "Bag of Tricks for Efficient Text Classification", Armand Joulin, Edouard Grave, Piotr
Bojanowski, Tomas Mikolov, 2016, https://arxiv.org/abs/1607.01759.
A text is the sum of the embeddings of its words and pairs, each hashed to a bucket:
    e = n^(-1/2) sum_i E[b_i],  features = gelu(W norm(e) + c)
with b [batch token] the buckets, n how many there are, E [bucket dim].
Differs from the paper: windows of 4 characters count too, as in its sequel on subwords
(https://arxiv.org/abs/1607.04606); a layer norm makes n^(-1) and n^(-1/2) the same; a hidden layer
follows.
"""

from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu

from taskgrove.backbones.backbone import Raw, texts
from taskgrove.backbones.hashing import hashed


@final
class Bag(nn.Module):
    def __init__(
        self,
        width: int = 128,
        dim: int = 32,  # of an embedding; AdamW touches buckets x dim numbers a step
        buckets: int = 2**14,
        characters: int = 4,  # length of the character windows, 0 for none
        longest: int = 512,  # words read of a text
    ):
        super().__init__()
        self.width, self.dim, self.reads = width, dim, frozenset({"text"})
        self.buckets, self.characters, self.longest = buckets, characters, longest
        self.embeddings = nn.EmbeddingBag(buckets, dim, mode="sum")
        self.norm = nn.LayerNorm(dim)
        self.out = nn.Linear(dim, width)
        nn.init.normal_(self.embeddings.weight, std=0.01)  # small: what is learned outweighs it

    def prepare(self, raw: Raw) -> dict[str, Tensor]:
        rows = texts(raw, "bag")
        ids, count = hashed(rows, self.buckets, self.longest, self.characters)
        real = np.arange(ids.shape[1]) < count[:, None]  # [batch token]
        weights = real / np.sqrt(np.maximum(count, 1))[:, None]
        return {"ids": torch.from_numpy(ids), "weights": torch.from_numpy(weights).float()}

    def forward(self, inputs: dict[str, Tensor]) -> Float[Tensor, "batch dim"]:
        weights = inputs["weights"].to(self.embeddings.weight.dtype)  # [batch token]
        e = self.embeddings(inputs["ids"], per_sample_weights=weights)  # [batch dim]
        return gelu(self.out(self.norm(e)))

    def config(self) -> dict[str, Any]:
        names = ("width", "dim", "buckets", "characters", "longest")
        return {"class": "bag", "arguments": {name: getattr(self, name) for name in names}}
