"""A checkpoint in PyTorch's pickle format: a .pt, .pth or .bin file, or a folder of .bin shards.

torch opens it with `weights_only=True`, which builds tensors and plain containers and runs none of
the file's code; whatever else the pickle asks for is refused. Tensors are mapped from the file, so
their numbers stay on disk until they are read (the pages that were read count as this process's
memory until the system takes them back). Only here does a merge import torch.
"""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from taskgrove.errors import TaskgroveError, listed
from taskgrove.merging.checkpoint import PICKLED, json_of
from taskgrove.merging.files.dtypes import dtype_of
from taskgrove.merging.files.lora import Facts
from taskgrove.merging.static.static import Array

if TYPE_CHECKING:
    from torch import Tensor

SINGLE = "pytorch_model.bin"
INDEX = "pytorch_model.bin.index.json"
NESTED = ("state_dict", "model_state_dict", "model", "module")  # where training loops put weights
BY_TORCH = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class Pickled:
    """Named tensors of pickled files; see `open_pickled`."""

    label: str
    entries: Mapping[str, Facts]
    tensors: Mapping[str, "Tensor"] = field(repr=False)
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    def read(self, name: str, start: int, stop: int, buffer: memoryview) -> Array:  # noqa: ARG002
        """Numbers start..stop of a tensor in its own dtype; a view of the file."""
        import torch

        dtype = dtype_of(self.entries[name].dtype)
        flat = self.tensors[name].reshape(-1)[start:stop]
        known = dtype.kind in "fiub" and dtype.isbuiltin == 1
        if known:
            return flat.numpy()
        bits = torch.uint8 if dtype.itemsize == 1 else torch.int16
        return flat.view(bits).numpy().view(dtype)


def is_pickled(place: Path) -> bool:
    """A pickled file, or a folder that has only such."""
    if place.is_file():
        return place.suffix in PICKLED
    return not any(place.glob("*.safetensors")) and any(
        (place / file).is_file() for file in (SINGLE, INDEX)
    )


def open_pickled(place: Path) -> Pickled:
    """Opens a file, or a folder's pytorch_model.bin or shards."""
    files = [place] if place.is_file() else _files(place)
    tensors: dict[str, Tensor] = {}
    notes: list[str] = []
    for file in files:
        found, said = _weights(file)
        if twice := [name for name in found if name in tensors]:
            raise TaskgroveError(
                f"{place}: tensors {listed(twice)} are in two files; expected each once: remove the"
                " stale shard."
            )
        tensors |= found
        notes += said
    entries = {name: _facts(place, name, tensor) for name, tensor in tensors.items()}
    notes += _untied(place, tensors)
    entries = {name: entries[name] for name in tensors}
    whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    return Pickled(str(place), entries, whole, tuple(files), tuple(notes))


def _files(folder: Path) -> list[Path]:
    if not (folder / INDEX).is_file():
        return [folder / SINGLE]
    weights = json_of(folder / INDEX).get("weight_map")
    names = sorted(set(weights.values())) if isinstance(weights, dict) else []
    if not names or any(Path(str(name)).name != name for name in names):
        raise TaskgroveError(
            f'{folder / INDEX} needs a "weight_map" of tensor names to plain file names of its own'
            " folder; download it again."
        )
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise TaskgroveError(
            f"{folder} lacks shards that its index names: {listed(missing)}; download them again."
        )
    return [folder / name for name in names]


def _weights(file: Path) -> "tuple[dict[str, Tensor], list[str]]":
    """The tensors of one file by name, wherever in it they are."""
    import torch

    found, notes = _load(file), []
    for _ in range(3):  # a state dict, or one in a dict, or one in that
        if not isinstance(found, Mapping):
            break
        tensors = {str(n): t for n, t in found.items() if isinstance(t, torch.Tensor)}
        inner = next((n for n in NESTED if isinstance(found.get(n), Mapping)), None)
        if inner is None:
            others = [n for n in found if n not in tensors]
            said = [f"{file}: {listed(others)} are no tensors, and are left out."] if others else []
            if tensors:
                return tensors, notes + said
            break
        notes.append(f'{file}: the weights are those under "{inner}"; the rest is left out.')
        found = found[inner]
    raise TaskgroveError(
        f"{file} holds no named tensors; expected a state dict, as torch.save(model.state_dict(),"
        " file) writes it."
    )


def _load(file: Path) -> Any:
    import torch

    def load(mmap: bool) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old formats, which a user cannot change
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)

    try:
        try:
            return load(mmap=True)
        except RuntimeError as error:
            if "mmap can only be used" not in str(error):  # the format before torch 1.6
                raise
            return load(mmap=False)
    except UnpicklingError as error:
        asks = re.search(r"(?:GLOBAL|class|function) ([\w.]+)", str(error))
        what = asks.group(1) if asks else "other objects"
        raise TaskgroveError(
            f"{file} is a pickle that asks for {what}, which could run code; expected tensors only:"
            " save it again with torch.save(model.state_dict(), file), or as safetensors."
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        reason = str(error).strip().splitlines()
        raise TaskgroveError(
            f"{file} cannot be read as a PyTorch file ({reason[0][:120] if reason else 'it is cut'}"
            "): it was cut short or is something else; download it again."
        ) from None


def _facts(place: Path, name: str, tensor: "Tensor") -> Facts:
    kind = str(tensor.dtype).removeprefix("torch.")
    if kind not in BY_TORCH or tensor.is_quantized or tensor.layout is not _strided():
        raise TaskgroveError(
            f'{place}: tensor "{name}" is {kind}, {tensor.layout}; expected a dense tensor of plain'
            " numbers."
        )
    return Facts(BY_TORCH[kind], tuple(tensor.shape))


def _strided() -> Any:
    import torch

    return torch.strided


def _untied(place: Path, tensors: "dict[str, Tensor]") -> list[str]:
    """Leaves out the second name of a tensor that has two, as safetensors files do."""
    first: dict[tuple[Any, ...], str] = {}
    notes = []
    for name in list(tensors):
        tensor = tensors[name]
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() and key in first:
            del tensors[name]
            notes.append(f'{place}: "{name}" is "{first[key]}" again (tied), and is left out.')
        first.setdefault(key, name)
    return notes
