"""Opens a PEFT LoRA folder: which tensor of the base each part of its file changes.

    base_model.model.MODULE.lora_A.weight, .lora_B.weight   MODULE.weight changes by scale B A
    MODULE.lora_embedding_A, .lora_embedding_B              the same for an embedding
    MODULE.lora_magnitude_vector                            DoRA's m
    MODULE.lora_B.bias                                      MODULE.bias changes by scale times it
    base_model.model.MODULE.weight                          saved whole (modules_to_save, bias)

Names are matched with the base's own; where a class of model put one prefix before all (`model.`,
`bert.`), it is added or taken off.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from taskgrove.errors import TaskgroveError, listed
from taskgrove.merging.blocks import row_size
from taskgrove.merging.checkpoint import open_checkpoint
from taskgrove.merging.files.adapter_config import CONFIG, AdapterConfig, adapter_config
from taskgrove.merging.files.adapter_notes import other_base, tied
from taskgrove.merging.files.lora import Change, Facts, Lora
from taskgrove.merging.files.pickled import open_pickled
from taskgrove.merging.fit import OUTPUT
from taskgrove.merging.models import Model, Tensor

WRAPPED = "base_model.model."
PART = re.compile(r"(.+)\.lora_(A|B|embedding_A|embedding_B|magnitude_vector)(\.weight|\.bias)?$")
FILES = ("adapter_model.safetensors", "adapter_model.bin")


@dataclass
class Parts:
    """An adapter's file, sorted: {module: {part: tensor}} and {tensor saved whole: tensor}."""

    modules: dict[str, dict[str, str]] = field(default_factory=dict)
    saved: dict[str, str] = field(default_factory=dict)


def is_adapter(folder: Path) -> bool:
    """A folder that PEFT saved, with no whole model beside the adapter."""
    wholes = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
    return (folder / CONFIG).is_file() and not any((folder / file).is_file() for file in wholes)


def open_lora(folder: Path, base: Model) -> Lora:
    """The model that the adapter in `folder` makes of `base`."""
    config, adapter = adapter_config(folder), _opened(folder)
    found = parts(adapter.entries)
    wanted = [*(f"{module}.weight" for module in found.modules), *found.saved]
    named = _prefixed(folder, base, wanted, must=len(found.modules))
    shape = {name: entry.shape for name, entry in base.entries.items()}
    saved = {named[name]: part for name, part in found.saved.items()}
    shape |= {name: adapter.entries[part].shape for name, part in saved.items()}
    changes, shifts = {}, {}
    for module, of in found.modules.items():
        name = named[f"{module}.weight"]
        changes[name] = _change(folder, config, adapter, module, of, shape[name])
        if "B.bias" in of:
            bias = name.removesuffix("weight") + "bias"
            _has_bias(folder, base, bias)
            shifts[bias] = (of["B.bias"], config.scale(module))
    changes = _turned(changes, shape, config)
    notes = [*other_base(folder, config, base), *tied(folder, base, adapter, saved, changes)]
    entries: dict[str, Tensor] = dict(base.entries)
    for name, part in saved.items():
        own = adapter.entries[part]
        dtype = base.entries[name].dtype if name in base.entries else own.dtype
        entries[name] = Facts(dtype, own.shape)
    return Lora(str(folder), base, adapter, entries, changes, saved, shifts, notes)


def base_of(folder: Path) -> Path:
    """Where the base of an adapter is, for a merge that names none."""
    named = adapter_config(folder).base
    if named and Path(named).exists():
        return Path(named)
    raise TaskgroveError(
        f'{folder} is an adapter on "{named or "an unnamed model"}", which is no folder here: give'
        " the base's folder with --base."
    )


def folder_of(place: Path) -> Path:
    """Whose config and tokenizer a model has: an adapter's are those of its base."""
    return folder_of(base_of(place)) if is_adapter(place) else place


def parts(names: Iterable[str]) -> Parts:
    """Sorts the names of an adapter's file.

    >>> parts(["base_model.model.h.q.lora_A.weight", "base_model.model.score.weight"])
    Parts(modules={'h.q': {'A': 'base_model.model.h.q.lora_A.weight'}}, saved={'score.weight': \
'base_model.model.score.weight'})
    """
    found = Parts()
    for name in names:
        plain = name.removeprefix(WRAPPED)
        if ".original_module." in plain:  # the base's, which PEFT wrote by the way
            continue
        plain = plain.replace(".modules_to_save.", ".").replace(".base_layer.", ".")
        if match := PART.match(plain):
            module, part, end = match.groups()
            key = f"{part}.bias" if end == ".bias" else part.removeprefix("embedding_")
            found.modules.setdefault(module, {})[key] = name
        elif ".lora_" in plain:
            raise TaskgroveError(
                f'the adapter has a part "{name}" that plain LoRA and DoRA do not have; merge it'
                " into its base with PEFT, and give the merged model."
            )
        else:
            found.saved[plain] = name
    return found


def _opened(folder: Path) -> Model:
    files = [folder / file for file in FILES if (folder / file).is_file()]
    if not files:
        raise TaskgroveError(
            f"{folder} has {CONFIG} but no {FILES[0]}; expected both: download it again."
        )
    return (
        open_checkpoint(files[0]) if files[0].suffix == ".safetensors" else open_pickled(files[0])
    )


def _prefixed(folder: Path, base: Model, wanted: list[str], must: int) -> dict[str, str]:
    """{name in the adapter: name in the base}; the first `must` have to be there."""
    has = set(base.entries)
    first = wanted[0] if must else next((name for name in wanted if name in has), "")
    added, taken = "", ""
    if first not in has:
        added = next((n.removesuffix(first) for n in base.entries if n.endswith(f".{first}")), "")
        steps = first.split(".")
        ends = ((".".join(steps[:n]) + ".", ".".join(steps[n:])) for n in range(1, len(steps)))
        taken = "" if added else next((start for start, end in ends if end in has), "")
    named = {name: added + name.removeprefix(taken) for name in wanted}
    if lacking := [name for name in wanted[:must] if named[name] not in has]:
        tied = f" {OUTPUT} is tied to the input embedding there." if OUTPUT in lacking else ""
        raise TaskgroveError(
            f"{folder} changes {listed(lacking)}, which {base.label} does not have: expected the"
            f" base that it was trained on.{tied}"
        )
    return {name: new if new in has or not added else name for name, new in named.items()}


def _change(
    folder: Path,
    config: AdapterConfig,
    adapter: Model,
    module: str,
    of: Mapping[str, str],
    shape: tuple[int, ...],
) -> Change:
    if lacking := {"A", "B", *(["magnitude_vector"] if config.dora else [])} - set(of):
        raise TaskgroveError(f'{folder}: "{module}" has no lora_{min(lacking)}; save it again.')
    A, B = (adapter.entries[of[part]].shape for part in "AB")
    r, side = config.rank(module), (B[0], row_size(A))
    if A[0] != r or B[1:2] != (r,):
        raise TaskgroveError(
            f'{folder}: "{module}" has factors {A} and {B}; its {CONFIG} says rank {r}.'
        )
    if side != (shape[0], row_size(shape)) and side[::-1] != shape:
        raise TaskgroveError(
            f'{folder}: factors {A} and {B} do not fit "{module}.weight" {shape} of the base:'
            " expected the base that the adapter was trained on."
        )
    embedding = "lora_embedding_" in of["A"]
    turned = embedding or side != (shape[0], row_size(shape))
    m = of["magnitude_vector"] if config.dora else None
    return Change(of["A"], of["B"], config.scale(module), turned, m)


def _turned(
    changes: Mapping[str, Change], shape: Mapping[str, tuple[int, ...]], config: AdapterConfig
) -> dict[str, Change]:
    """Square weights are [in out] if the config says so, or if the others of the adapter are."""
    linear = {
        n: c for n, c in changes.items() if "lora_embedding_" not in c.A and len(shape[n]) == 2
    }
    others = {c.transposed for n, c in linear.items() if shape[n][0] != shape[n][1]}
    turned = others.pop() if len(others) == 1 else config.fan_in_fan_out
    square = {n: c for n, c in linear.items() if shape[n][0] == shape[n][1]}
    return {**changes, **{n: replace(change, transposed=turned) for n, change in square.items()}}


def _has_bias(folder: Path, base: Model, bias: str) -> None:
    if bias not in base.entries:
        raise TaskgroveError(
            f'{folder} has a LoRA bias for "{bias}", which {base.label} does not have: expected the'
            " base that it was trained on."
        )
