"""Rules (see `axis_rules`) for layers: convolution, pooling, norms, tables, picking by number."""

from collections.abc import Sequence

from torch import Tensor

from taskgrove.merging.aligned.axes import Axis, Label, extent, freeze, fresh, resolve, split, unify
from taskgrove.merging.aligned.axis_rules import Arguments, Labels, Rule, broadcast

PICKED = "positions picked by number, such as rows of a table of tokens or places"
SLIDES = "places that a convolution, pooling or padding tells apart"


def convolution(t: Labels, a: Arguments, out: Sequence[Tensor]) -> list[Label]:
    """Channels contract, group by group: input [N, G C, ...], weight [G O, C, ...].

    Transposed: weight [G C, O, ...].
    """
    x, w, groups = t.label(a["input"]), t.label(a["weight"]), a["groups"]
    outer = _groups(w[0], groups)
    unify(x[1], w[0] if a["transposed"] else (*outer, *w[1]))
    channels = (*outer, *w[1]) if a["transposed"] else w[0]
    if a["bias"] is not None:
        unify(channels, t.label(a["bias"])[0])
    for axis in (*x[2:], *w[2:]):
        freeze(axis, SLIDES)
    return [(x[0], channels, *(fresh(n, SLIDES) for n in out[0].shape[2:]))]


def _groups(axis: Axis, groups: int) -> Axis:
    """The outer factor of that size."""
    if groups in (1, extent(axis)):
        return axis if groups > 1 else ()
    first, why = resolve(axis)[0], "groups that do not fit its factors"
    if first.size == groups:
        return (first,)
    if first.size % groups:
        freeze(axis, why)
        return fresh(groups, why)
    return split(first, groups)[:1]


def spatial(dims: int) -> Rule:
    """Pooling and resizing: the last dimensions change."""

    def rule(t: Labels, a: Arguments, out: Sequence[Tensor]) -> list[Label]:
        x = t.label(a["self"])
        for axis in x[-dims:]:
            freeze(axis, SLIDES)
        return [(*x[:-dims], *(fresh(n, SLIDES) for n in y.shape[-dims:])) for y in out]

    return rule


def pad(t: Labels, a: Arguments, out: Sequence[Tensor]) -> list[Label]:
    """Padded dimensions change; the list begins with the last one."""
    x, widths = list(t.label(a["self"])), a["pad"]
    for n in range(len(widths) // 2):
        if any(widths[2 * n : 2 * n + 2]):
            freeze(x[-1 - n], SLIDES)
            x[-1 - n] = fresh(out[0].shape[-1 - n], SLIDES)
    return [tuple(x)]


def layer_norm(t: Labels, a: Arguments, _: Sequence[Tensor]) -> list[Label]:
    """Layer norm and RMS norm: statistics do not see the order, weights follow it."""
    x = t.label(a["input"])
    broadcast([x, *(t.label(w) for n in ("weight", "bias") if (w := a.get(n)) is not None)])
    return [x]


def group_norm(t: Labels, a: Arguments, _: Sequence[Tensor]) -> list[Label]:
    """Statistics within a group of channels."""
    x = t.label(a["input"])
    _groups(x[1], a["group"])
    for name in ("weight", "bias"):
        if a[name] is not None:
            unify(x[1], t.label(a[name])[0])
    return [x]


def batch_norm(t: Labels, a: Arguments, _: Sequence[Tensor]) -> list[Label]:
    """Weights and running statistics follow the channels."""
    x = t.label(a["input"])
    for name in ("weight", "bias", "running_mean", "running_var"):
        if (w := a.get(name)) is not None:
            unify(x[1], t.statistic(w)[0])
    return [x]


def embedding(t: Labels, a: Arguments, _: Sequence[Tensor]) -> list[Label]:
    """Rows by number."""
    return [_rows(t, t.label(a["weight"]), 0, a["indices"])]


def index_select(t: Labels, a: Arguments, _: Sequence[Tensor]) -> list[Label]:
    """Positions of one dimension by number."""
    x = t.label(a["self"])
    return [_rows(t, x, a["dim"] % len(x), a["index"])]


def index(t: Labels, a: Arguments, out: Sequence[Tensor]) -> list[Label]:
    """`x[:, numbers]`; several lists of numbers at once are not followed."""
    x, given = t.label(a["self"]), a["indices"]
    at = [n for n, each in enumerate(given) if each is not None]
    if (
        len(at) == 1
        and not given[at[0]].dtype.is_floating_point
        and given[at[0]].dtype.itemsize > 1
    ):
        return [_rows(t, x, at[0], given[at[0]])]
    for axis in x:
        freeze(axis, PICKED)
    return [tuple(fresh(n, PICKED) for n in out[0].shape)]


def gather(t: Labels, a: Arguments, _: Sequence[Tensor]) -> list[Label]:
    """Positions of one dimension by number, other numbers at each place of the others."""
    x, numbers = t.label(a["self"]), t.label(a["index"])
    dim = a["dim"] % len(x)
    freeze(x[dim], PICKED)
    for n, (axis, other) in enumerate(zip(x, numbers, strict=True)):
        if n != dim and extent(axis) == extent(other):
            unify(axis, other)
        elif n != dim:
            freeze((*axis, *other), PICKED)
    return [numbers]


def _rows(t: Labels, x: Label, dim: int, numbers: Tensor) -> Label:
    freeze(x[dim], PICKED)
    return (*x[:dim], *t.label(numbers), *x[dim + 1 :])


LAYER_RULES: dict[str, Rule] = {
    "convolution": convolution,
    "constant_pad_nd": pad,
    "native_group_norm": group_norm,
    "embedding": embedding,
    "index_select": index_select,
    "index": index,
    "gather": gather,
}
LAYER_RULES |= dict.fromkeys(("native_layer_norm", "_fused_rms_norm"), layer_norm)
NORMS = ("native_batch_norm", "_native_batch_norm_legit_no_training", "_batch_norm_no_update")
LAYER_RULES |= dict.fromkeys((*NORMS, "_native_batch_norm_legit", "cudnn_batch_norm"), batch_norm)
LAYER_RULES |= {
    f"{kind}_pool{n}d": spatial(n) for kind in ("avg", "_adaptive_avg") for n in (1, 2, 3)
}
LAYER_RULES |= {f"max_pool{n}d_with_indices": spatial(n) for n in (2, 3)}
LAYER_RULES |= {f"upsample_{kind}2d": spatial(2) for kind in ("nearest", "bilinear", "bicubic")}
LAYER_RULES |= {f"upsample_{kind}1d": spatial(1) for kind in ("nearest", "linear")}
