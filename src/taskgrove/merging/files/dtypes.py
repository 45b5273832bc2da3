"""The number formats of safetensors files, as numpy's; arithmetic is in fp32 (fp64 for fp64).

ml_dtypes adds bfloat16 and the 8-bit floats to numpy; their conversions round to nearest even.
"""

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

KINDS: dict[str, npt.DTypeLike] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
DTYPES: dict[str, np.dtype[Any]] = {name: np.dtype(kind) for name, kind in KINDS.items()}
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
TORCH = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # config.json
SHORT = {"fp64": "F64", "fp32": "F32", "fp16": "F16", "bf16": "BF16"}  # what users write
BY_NUMPY = {kind: name for name, kind in DTYPES.items()}
FP32, FP64, BF16 = DTYPES["F32"], DTYPES["F64"], DTYPES["BF16"]


def dtype_of(name: str) -> np.dtype[Any]:
    """numpy's type for safetensors' name."""
    return DTYPES[name]


def width(name: str) -> int:
    """Bytes of a number.

    >>> width("BF16")
    2
    """
    return DTYPES[name].itemsize


def wide(name: str) -> np.dtype[Any]:
    """In what merging computes with numbers of this type.

    >>> wide("BF16").name, wide("F64").name
    ('float32', 'float64')
    """
    return FP64 if name == "F64" else FP32


def all_finite(values: npt.NDArray[Any]) -> bool:
    """Neither NaN nor infinity.

    bfloat16 is read as integers, which is cheaper: 0x7F80 and above are infinity and NaN.
    """
    if not values.size:
        return True
    if values.dtype == BF16:
        positive, negative = values.view(np.int16).max(), values.view(np.uint16).max()
        return bool(positive < 0x7F80 and negative < 0xFF80)
    with np.errstate(over="ignore", invalid="ignore"):
        total = values.sum(dtype=wide(BY_NUMPY[values.dtype]))
    return bool(np.isfinite(total)) or bool(np.isfinite(values.astype(np.float64)).all())
