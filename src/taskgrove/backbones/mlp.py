"""A table's backbone: two hidden layers over the encoded columns.

    h = gelu(W_1 x + b_1),  features = gelu(W_2 norm(h) + b_2)
with x [batch dim] from `table_spec.encode`. The columns of W_1 for "other" and "missing" start at
zero, so that a value never met in training adds nothing.
"""

from dataclasses import asdict
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu

from taskgrove.backbones.backbone import Raw, column
from taskgrove.backbones.table_spec import TableSpec, encode
from taskgrove.errors import TaskgroveError


@final
class Mlp(nn.Module):
    def __init__(self, spec: TableSpec, width: int = 128):
        super().__init__()
        if not spec.dim:
            raise TaskgroveError(
                'the backbone "mlp" needs a column: name "numbers" or "categories".'
            )
        self.spec, self.width, self.reads = spec, width, frozenset({"table"})
        self.hidden = nn.Linear(spec.dim, width)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, width)
        with torch.no_grad():
            self.hidden.weight[:, spec.unknown()] = 0

    def prepare(self, raw: Raw) -> dict[str, Tensor]:
        columns = column(raw, "categories", "mlp") if self.spec.categories else []
        if self.spec.numbers:
            numbers = torch.as_tensor(column(raw, "numbers", "mlp"))
        else:
            numbers = torch.zeros(len(columns[0]), 0)
        return {"table": encode(self.spec, numbers, columns)}

    def forward(self, inputs: dict[str, Tensor]) -> Float[Tensor, "batch dim"]:
        h = gelu(self.hidden(inputs["table"]))
        return gelu(self.out(self.norm(h)))

    def config(self) -> dict[str, Any]:
        return {"class": "mlp", "arguments": {"spec": asdict(self.spec), "width": self.width}}
