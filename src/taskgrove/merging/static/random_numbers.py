"""Random numbers by place: the same for an element of a tensor whoever asks, in whatever blocks.

A counter-based generator: a number is a mixing function of its own index, keyed by a hash of
(seed, model, tensor), so nothing is drawn in an order and any part can be had alone. The mixing is
two multiply-xorshift rounds on 32 bits (the constants are from a search for low bias by Wellons,
"Prospecting for Hash Functions", 2018), with a part of the key before, between and after them.

    x = i ^ key_0;  x = (x ^ x >> 16) c_1 + key_1;  x = (x ^ x >> 15) c_2 ^ key_2;  x = x ^ x >> 16
"""

from hashlib import blake2b

import numpy as np

from taskgrove.merging.static.static import Array
from taskgrove.shapes import UInt32

WORD = 1 << 32


def random_numbers(
    seed: int, model: int, name: str, start: int, count: int
) -> UInt32[Array, " number"]:
    """Uniform in 0 .. 2^32 - 1 for elements start .. start + count of a model's tensor."""
    high, low = divmod(start, WORD)
    if low + count > WORD:
        here = WORD - low
        parts = ((start, here), (start + here, count - here))
        return np.concatenate([random_numbers(seed, model, name, *part) for part in parts])
    digest = blake2b(f"{seed} {model} {high} {name}".encode(), digest_size=12).digest()
    key = np.frombuffer(digest, "<u4")
    x = np.arange(low, low + count, dtype=np.uint32)
    room = np.empty_like(x)
    x ^= key[0]
    x ^= np.right_shift(x, 16, out=room)
    x *= np.uint32(0x7FEB352D)
    x += key[1]
    x ^= np.right_shift(x, 15, out=room)
    x *= np.uint32(0x846CA68B)
    x ^= key[2]
    x ^= np.right_shift(x, 16, out=room)
    return x


def least_unlikely(share: float) -> np.uint32:
    """The number that random ones reach or undercut with probability `share`, above 0."""
    return np.uint32(max(0, min(WORD, round(share * WORD)) - 1))
