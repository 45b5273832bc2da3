"""Random parts of a tensor: which of K groups each of its elements is in, never stored.

The partition of aTLAS x K: Zhang, Albert, Rodriguez-Opazo, van den Hengel, Abbasnejad, "Knowledge
Composition using Task Vectors with Learned Anisotropic Scaling", NeurIPS 2024, arXiv 2407.02880.

    part(seed, tensor, i) = floor(K u_i / 2^32)     u_i: the i-th 32 bits of Philox, whose key is
                                                    (seed, CRC of the tensor's name)

Philox counts: the bits of elements start..stop are made from `start` alone, so a mask costs no
memory, and blocks of any size agree. Every element has a part, each part about numel / K of them.
Difference from the paper: the released code splits matrices only, and tensors of equal shape share
one mask; here each tensor, vectors too, has its own (an empty part's coefficient stays put).
"""

from zlib import crc32

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

ALIGNED = 8  # elements per count of Philox: four times 64 bits


def parts_of(
    name: str, start: int, stop: int, parts: int, seed: int = 0
) -> Int[Tensor, " element"]:
    """The part, 0 to parts - 1, of elements start..stop of the flattened tensor `name`."""
    skipped = start % ALIGNED
    philox = np.random.Philox(key=[seed, crc32(name.encode())])
    philox.advance(start // ALIGNED)
    raw = philox.random_raw((skipped + stop - start + 1) // 2).astype("<u8").view("<u4")
    u = raw[skipped : skipped + stop - start].astype(np.uint64)  # [element]
    return torch.from_numpy(((u * np.uint64(parts)) >> np.uint64(32)).astype(np.int64))
