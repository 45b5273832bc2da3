"""Several inputs at once: each member reads its own columns, and their features are added.

features = sum_m (W_m f_m(x_m) + b_m)     W_m [dim dim_m], f_m(x_m) [batch dim_m]
"""

from collections.abc import Sequence
from typing import Any, cast, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from taskgrove.backbones.backbone import Backbone, Raw
from taskgrove.errors import TaskgroveError


@final
class Fused(nn.Module):
    def __init__(self, members: Sequence[Backbone], width: int = 128):
        super().__init__()
        if not members:
            raise TaskgroveError("a fused backbone needs at least one member.")
        self.width = width
        self.reads = frozenset[str]().union(*(member.reads for member in members))
        self.members = nn.ModuleList(cast("Sequence[nn.Module]", members))
        self.projections = nn.ModuleList(nn.Linear(member.width, width) for member in members)

    def backbones(self) -> list[Backbone]:
        return cast("list[Backbone]", list(self.members))

    def prepare(self, raw: Raw) -> dict[str, Tensor]:
        return {
            f"{i}/{name}": tensor
            for i, member in enumerate(self.backbones())
            for name, tensor in member.prepare(raw).items()
        }

    def forward(self, inputs: dict[str, Tensor]) -> Float[Tensor, "batch dim"]:
        parts: list[dict[str, Tensor]] = [{} for _ in self.members]
        for key, tensor in inputs.items():
            i, name = key.split("/", 1)
            parts[int(i)][name] = tensor
        triples = zip(self.backbones(), self.projections, parts, strict=True)
        features = [project(member(part)) for member, project, part in triples]
        return torch.stack(features).sum(0)

    def config(self) -> dict[str, Any]:
        members = [member.config() for member in self.backbones()]
        return {"class": "fused", "arguments": {"width": self.width}, "members": members}
