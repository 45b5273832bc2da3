"""The folder of a learned merge: a model that transformers opens, and one for each task's head.

    M/model.safetensors, config, tokenizer   the base's files and number format, merged trunk
    M/heads/<task>/                          the tuned model's config and tokenizer, its own tensors
                                             in head.safetensors, an index over both files

A head's folder names the trunk's files by hard links, so the trunk is on disk once, a folder can
still be copied or moved by itself, and an index points to files beside it alone; where links are
not possible the files are copied. The trunk's tensors have the tuned models' names.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from taskgrove.errors import TaskgroveError
from taskgrove.merging.checkpoint import INDEX, SINGLE
from taskgrove.merging.files.card import carry
from taskgrove.merging.files.layout import SHARD, index, layout
from taskgrove.merging.fit import whole
from taskgrove.merging.learned.disk_vectors import RAW, TORCH
from taskgrove.merging.models import Model
from taskgrove.methods.learned_family import Family, Member

HEAD, TRUNK = "head.safetensors", "trunk.safetensors"


def write_folder(
    base: Path, family: Family, weights: Mapping[str, Tensor], part: Path, most: int = SHARD
) -> None:
    """Writes the model and the heads into `part`."""
    names = {own: family.base_names.get(own, own) for own in family.base.entries}
    tensors = {new: family.base.entries[own] for own, new in names.items()}
    own_names = {new: own for own, new in names.items()}
    shards = layout({n: (e.dtype, e.shape) for n, e in tensors.items()}, most)
    for shard in shards:
        held = {
            name: _rounded(name, weights[name], tensors[name].dtype)
            if name in weights
            else _raw(family.base, own_names[name])
            for name in shard.starts
        }
        _save(held, part / shard.file)
    if len(shards) > 1:
        total = sum(s.size - len(s.header) for s in shards)
        (part / INDEX).write_text(index(shards, total), "utf-8")
    carry(base, part, None)
    for member in family.members:
        if member.own:
            where = {name: shard.file for shard in shards for name in shard.starts}
            _write_head(member, part, {n: f for n, f in where.items() if n in weights})


def _write_head(member: Member, part: Path, trunk: Mapping[str, str]) -> None:
    folder = part / "heads" / member.name
    folder.mkdir(parents=True)
    carry(member.folder, folder, None)
    _save({name: _raw(member.model, own) for name, own in member.own.items()}, folder / HEAD)
    # a file of the default name would be opened alone, without the index
    beside = {file: TRUNK if file == SINGLE else file for file in set(trunk.values())}
    for file, name in beside.items():
        _link(part / file, folder / name)
    where = {name: beside[file] for name, file in trunk.items()} | dict.fromkeys(member.own, HEAD)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    facts = {"metadata": {"total_size": size}, "weight_map": dict(sorted(where.items()))}
    (folder / INDEX).write_text(json.dumps(facts, indent=2) + "\n", "utf-8")


def _save(tensors: dict[str, Tensor], file: Path) -> None:
    file.touch()
    mode = file.stat().st_mode  # safetensors writes files that only their owner may read
    save_file(tensors, file, {"format": "pt"})
    file.chmod(mode)


def _link(source: Path, place: Path) -> None:
    try:
        os.link(source, place)
    except OSError:
        shutil.copyfile(source, place)


def _rounded(name: str, theta: Tensor, dtype: str) -> Tensor:
    rounded = theta.to(TORCH[dtype]).contiguous()
    if not rounded.isfinite().all():
        raise TaskgroveError(
            f'merged tensor "{name}" is not finite as {dtype}: use a smaller learning rate, or a '
            "base in a wider number format."
        )
    return rounded


def _raw(model: Model, name: str) -> Tensor:
    """As it is in its file."""
    entry = model.entries[name]
    values = whole(model, name)
    if entry.dtype in TORCH:
        found = torch.from_numpy(values.view(RAW[values.itemsize])).view(TORCH[entry.dtype])
    else:
        found = torch.from_numpy(np.ascontiguousarray(values))
    return found.reshape(entry.shape)
