"""Shapes as types at no price: jaxtyping's where it is loaded already, else names that say nothing.

jaxtyping takes 0.06 s to import, a quarter of what a merge needs before it reads its first byte.
Its shapes are checked in tests only, which load it first; type checkers see it always.
"""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Bool, Float, Int, UInt32
else:

    class _Unchecked:
        def __class_getitem__(cls, shape: object) -> Any:
            return Any

    Bool = Float = Int = UInt32 = _Unchecked

__all__ = ["Bool", "Float", "Int", "UInt32"]
