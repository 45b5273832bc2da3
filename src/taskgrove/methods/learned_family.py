"""A family of transformers models on disk, one base and its fine-tunes, ready for a learned merge.

The trunk is merged, out of core; each task keeps its own head. Names of trunk tensors are those of
the tuned models' class, so `bert.encoder...` and a base saved without `bert.` are one tensor.

    sequence classifiers   trunk: what lies under the class's `base_model_prefix` and is in the base
    causal language models trunk: everything; no heads

Of each tuned model only its head is held, in fp32; its module is a skeleton without weights.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from taskgrove.errors import TaskgroveError, listed
from taskgrove.merging.files.dtypes import FLOATS
from taskgrove.merging.fit import problems
from taskgrove.merging.learned.renamed import Renamed
from taskgrove.merging.models import Model
from taskgrove.merging.open_model import open_model
from taskgrove.methods.learned_skeleton import (
    CAUSAL,
    CLASSIFIER,
    first_names,
    names_in,
    skeleton_of,
)

KINDS = {"multi_label_classification": "labels", "regression": "number"}


@dataclass(frozen=True)
class Member:
    """A tuned model: its skeleton and what is its own."""

    name: str
    folder: Path
    module: nn.Module  # parameters without memory, evaluation mode
    kind: str  # "classes", "labels" or "number"
    model: Model
    own: Mapping[str, str]  # {the skeleton's name: the file's} of what is not merged
    head: Mapping[str, Tensor]  # the same in fp32

    @property
    def config(self) -> Any:
        return self.module.config

    def forward(self, weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits [batch class], or [token class] of a language model's real tokens."""
        outputs = functional_call(self.module, {**weights, **self.head}, (), dict(inputs))
        logits = outputs.logits
        return logits if logits.ndim == 2 else logits[inputs["attention_mask"].bool()]


@dataclass(frozen=True)
class Family:
    """One base, its fine-tunes, and the tensors that are merged."""

    base: Model
    base_names: Mapping[str, str]  # {the base's own name: the merged tensor's}
    trunk: Model  # the base under the merged names
    tuned: tuple[Model, ...]  # the same of the tuned models
    members: tuple[Member, ...]
    notes: tuple[str, ...]


def open_family(base: Path, tuned: Sequence[Path], names: Sequence[str]) -> Family:
    """Opens all and checks that they fit."""
    root = open_model(base, None)
    skeletons = [skeleton_of(folder) for folder in tuned]
    models = [open_model(folder, root) for folder in tuned]
    first = skeletons[0]
    if other := [
        f.name for f, s in zip(tuned, skeletons, strict=True) if type(s) is not type(first)
    ]:
        raise TaskgroveError(
            f"{tuned[0]} is a {type(first).__name__}, {listed(other)} another class of model; "
            "expected one class for all tuned models."
        )
    merged = _merged(first)
    in_base = names_in(root, first, merged)
    own = {name: file for file, name in in_base.items() if root.entries[file].dtype in FLOATS}
    trunk = {name: own[name] for name in merged if name in own}  # in the model's order
    if not trunk:
        raise TaskgroveError(
            f"{base} has none of the tensors of {type(first).__name__} ({listed(merged, 3)}); "
            f"expected the model that {tuned[0]} was tuned from."
        )
    views = [
        _view(model, skeleton, trunk) for model, skeleton in zip(models, skeletons, strict=True)
    ]
    start = Renamed(root, trunk)
    if found := problems(start, views):
        raise TaskgroveError(" ".join(found))
    members = tuple(
        member_of(*parts, trunk.keys())
        for parts in zip(names, tuned, skeletons, models, strict=True)
    )
    return Family(root, in_base, start, tuple(views), members, _notes(base, root, trunk, in_base))


def _merged(skeleton: nn.Module) -> list[str]:
    """Names that may be merged: not a classifier's head."""
    names = list(dict.fromkeys(first_names(skeleton).values()))
    if type(skeleton).__name__.endswith(CAUSAL):
        return names
    return [name for name in names if name.startswith(f"{skeleton.base_model_prefix}.")]


def _view(model: Model, skeleton: nn.Module, trunk: Mapping[str, str]) -> Model:
    found = names_in(model, skeleton, list(trunk))
    return Renamed(model, {name: own for own, name in found.items()})


def member_of(
    name: str, folder: Path, skeleton: nn.Module, model: Model, trunk: Collection[str]
) -> Member:
    """A classifier or language model beside the names that are merged."""
    rest = [n for n in dict.fromkeys(first_names(skeleton).values()) if n not in trunk]
    own = {n: file for file, n in names_in(model, skeleton, rest).items()}
    state = skeleton.state_dict(keep_vars=True)
    lacks = [n for n in rest if n not in own and isinstance(state[n], nn.Parameter)]
    if lacks:
        raise TaskgroveError(
            f"{folder} lacks {listed(lacks)} of {type(skeleton).__name__}; expected a whole tuned "
            "model, head included."
        )
    head = {n: _tensor(model, file) for n, file in own.items()}
    config: Any = skeleton.config
    kind = "classes"
    if type(skeleton).__name__.endswith(CLASSIFIER):
        single = "regression" if config.num_labels == 1 else ""
        kind = KINDS.get(getattr(config, "problem_type", None) or single, "classes")
    return Member(name, folder, skeleton, kind, model, own, head)


def _tensor(model: Model, name: str) -> Tensor:
    from taskgrove.merging.fit import whole
    from taskgrove.merging.learned.disk_vectors import DiskVectors

    if model.entries[name].dtype in FLOATS:
        return DiskVectors(model, [model], [name]).base(name)
    return torch.from_numpy(whole(model, name).reshape(model.entries[name].shape))


def _notes(
    base: Path, root: Model, trunk: Mapping[str, str], in_base: Mapping[str, str]
) -> tuple[str, ...]:
    notes = []
    if renamed := [f"{own} as {name}" for name, own in trunk.items() if own != name]:
        notes.append(
            f"{base} names its tensors otherwise than the tuned models ({len(renamed)} of "
            f"{len(trunk)}); they are taken as one, and the merged model has the tuned models' "
            f"names: {renamed[0]}"
        )
    if rest := [name for name in root.entries if name not in in_base]:
        notes.append(f"{listed(rest, 3)} of {base} are not in the tuned models: left as they are")
    return tuple(notes)
