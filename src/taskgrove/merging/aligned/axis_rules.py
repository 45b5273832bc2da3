"""What each operation of PyTorch says about dimensions: which are one, which may not permute.

A rule takes the trace (which knows tensors' labels), an operation's arguments by name and its
results; it ties dimensions together through `axes` and returns the results' labels. An operation
without a rule freezes all that it touches. Rules name operations, never layers or parameters.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from taskgrove.merging.aligned.axes import Atom, Axis, Label, freeze, unify

Arguments = Mapping[str, Any]


@runtime_checkable
class Labels(Protocol):
    """What rules may ask a trace."""

    def label(self, tensor: Tensor) -> Label: ...
    def statistic(self, tensor: Tensor) -> Label: ...
    def instance(self, atom: Atom, outer: Atom, index: int) -> Axis: ...


Rule = Callable[[Labels, Arguments, Sequence[Tensor]], list[Label]]


def tensors_in(values: Iterable[Any]) -> list[Tensor]:
    """Tensors among arguments, those in lists too."""
    flat = (each for v in values for each in (v if isinstance(v, list | tuple) else (v,)))
    return [each for each in flat if isinstance(each, Tensor)]


def broadcast(labels: Sequence[Label]) -> Label:
    """Aligned at the last dimension; a size of 1 fits all."""
    found: list[Axis] = [()] * max(map(len, labels))
    for label in labels:
        for n, axis in enumerate(label, start=len(found) - len(label)):
            if found[n] and axis:
                unify(found[n], axis)
            found[n] = found[n] or axis
    return tuple(found)


def pointwise(t: Labels, a: Arguments, _: Sequence[Tensor]) -> list[Label]:
    """Each number of the result from the numbers at its place."""
    return [broadcast([t.label(each) for each in tensors_in(a.values())])]


def same(t: Labels, a: Arguments, out: Sequence[Tensor]) -> list[Label]:
    """The result's dimensions are the input's."""
    return [t.label(a["self"])] * len(out)


def contraction(equation: str, *names: str) -> Rule:
    """A sum of products, as einsum writes it; a `self` that is not a factor is added."""
    inputs, output = equation.split("->")

    def rule(t: Labels, a: Arguments, _: Sequence[Tensor]) -> list[Label]:
        axes: dict[str, Axis] = {}
        for term, name in zip(inputs.split(","), names, strict=True):
            for letter, axis in zip(term, t.label(a[name]), strict=True):
                unify(axes.setdefault(letter, axis), axis)
        label = tuple(axes[letter] for letter in output)
        return [label if "self" in names else broadcast([label, t.label(a["self"])])]

    return rule


def reduction(t: Labels, a: Arguments, out: Sequence[Tensor]) -> list[Label]:
    """Sums, means, maxima, norms: dimensions go, or stay with size 1."""
    x = t.label(a["self"])
    given = a.get("dim")
    dims = [given] if isinstance(given, int) else given or range(len(x))
    gone = {dim % len(x) for dim in dims} if x else set()
    if a.get("keepdim", False):
        return [tuple(() if n in gone else axis for n, axis in enumerate(x))]
    return [tuple(axis for n, axis in enumerate(x) if n not in gone)] * min(1, len(out))


def in_order(last: int) -> Rule:
    """Results that depend on the order along `dim` (or the `last` dimensions)."""

    def rule(t: Labels, a: Arguments, out: Sequence[Tensor]) -> list[Label]:
        x = t.label(a["self"])
        chosen = a.get("dim", a.get("dims", ()))
        chosen = [chosen] if isinstance(chosen, int) else chosen or range(len(x))
        for axis in x[-last:] if last else [x[n] for n in chosen]:
            freeze(axis, "its order matters to a running sum, a triangle, a shift or a flip")
        return [x] * len(out)

    return rule


RULES: dict[str, Rule] = {
    "mm": contraction("ij,jk->ik", "self", "mat2"),
    "addmm": contraction("ij,jk->ik", "mat1", "mat2"),
    "bmm": contraction("bij,bjk->bik", "self", "mat2"),
    "baddbmm": contraction("bij,bjk->bik", "batch1", "batch2"),
    "mv": contraction("ij,j->i", "self", "vec"),
    "addmv": contraction("ij,j->i", "mat", "vec"),
    "dot": contraction("i,i->", "self", "tensor"),
}
REDUCE = ("sum", "mean", "amax", "amin", "var", "std", "linalg_vector_norm", "norm", "logsumexp")
RULES |= dict.fromkeys((*REDUCE, "prod", "all", "any"), reduction)
RULES |= dict.fromkeys(("_softmax", "_log_softmax", "_safe_softmax"), same)
RULES |= dict.fromkeys(("cumsum", "cumprod", "flip", "roll"), in_order(0))
RULES |= dict.fromkeys(("tril", "triu"), in_order(2))
ALSO_POINTWISE = ("copy_", "masked_fill_", "hardswish", "hardswish_", "hardtanh", "hardtanh_")
RULES |= dict.fromkeys((*ALSO_POINTWISE, "leaky_relu_", "nan_to_num", "softplus"), pointwise)
