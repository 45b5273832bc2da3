"""Label-text head: a frozen classifier whose weights are the embedded names of the classes.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (CLIP), ICML
2021, arXiv 2103.00020. An encoder that puts related texts close together classifies without
training: the class is the one whose name, in a few templates, lies nearest to the input.

    W_c = unit(mean_j unit(embed(template_j(name_c))))      logits = scale * unit(z) W^T

    z: features [row dim]; W: [class dim]; logits: [row class]; unit(v) = v / |v|

Since it is the same in every fine-tune of one encoder, models tuned through it can be merged and
still be read by it. Difference from the paper: `scale` is fixed (CLIP learns it, up to 100).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from taskgrove.errors import TaskgroveError

Embed = Callable[[list[str]], Tensor]  # texts to [text dim]


@dataclass(frozen=True)
class LabelTextHead:
    """`W` has rows of length 1 and takes no gradient."""

    W: Float[Tensor, "class dim"]
    scale: float = 20.0

    def __call__(self, z: Float[Tensor, "row dim"]) -> Float[Tensor, "row class"]:
        return self.scale * normalize(z, dim=-1) @ self.W.T


def label_text_head(
    embed: Embed, names: Sequence[str], templates: Sequence[str] = ("{}",), scale: float = 20.0
) -> LabelTextHead:
    """The head of classes called `names`; each template has one {} for the name."""
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise TaskgroveError(f"got the class names {list(names)}; expected two or more, all new.")
    for template in templates:
        if template.count("{}") != 1:
            raise TaskgroveError(f'the template "{template}" needs one {{}} for the class name.')
    with torch.no_grad():
        z = torch.stack([embed([t.replace("{}", n) for n in names]) for t in templates])
        W = normalize(normalize(z, dim=-1).mean(0), dim=-1)  # [template class dim] to [class dim]
    return LabelTextHead(W, scale)
