"""A model's run, watched: which dimensions of its parameters permute together.

Every operation that a forward pass runs is seen below autograd, where layers no longer exist, and
a rule (`axis_rules`, `shape_rules`, `layer_rules`) ties dimensions together. A tensor that neither
is a parameter nor comes from one (inputs, masks, rotary tables) is a constant: its dimensions are
frozen, unless it was filled with one number. Models whose path depends on numbers they compute are
refused.
"""

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from taskgrove.errors import TaskgroveError
from taskgrove.merging.aligned.axes import Atom, Axis, Label, blocks, freeze, fresh, resolve, unify
from taskgrove.merging.aligned.axis_rules import RULES, Rule, pointwise, tensors_in
from taskgrove.merging.aligned.layer_rules import LAYER_RULES
from taskgrove.merging.aligned.shape_rules import SHAPE_RULES

FILLED = {"zeros", "ones", "full", "zeros_like", "ones_like", "full_like"}
FILLED |= {"new_zeros", "new_ones", "new_full", "scalar_tensor"}
FILLED |= {"empty", "empty_like", "new_empty"}  # to be written to; that ties them to the source
READS = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "equal",
    "is_nonzero",
    "unique_consecutive",
}
CONSTANT = "an input, or a constant whose numbers differ along it"


@final
class AxisTrace(TorchDispatchMode):
    """What is known so far; `with trace: model(inputs)`."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.labels = WeakTensorKeyDictionary()
        self.computed = WeakTensorKeyDictionary()  # tensors that come from parameters
        self.used: set[str] = set()
        self.names: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self.statistics: set[str] = set()
        self.seen: dict[tuple[tuple[int, ...], ...], Label] = {}
        self.instances: dict[tuple[Atom, Atom], list[Axis]] = {}
        for name, parameter in model.named_parameters():
            self._parameter(name, parameter)
        self.buffers = {id(tensor): name for name, tensor in model.named_buffers()}

    def _parameter(self, name: str, tensor: Tensor) -> None:
        label: Label = ()
        for n in tensor.shape:
            axis = fresh(n)
            for atom in axis:
                atom.outer = frozenset(each for before in label for each in before)
            label = (*label, axis)
        self.labels[tensor], self.computed[tensor], self.names[tensor] = label, True, name

    def label(self, tensor: Tensor) -> Label:
        """What is known of a tensor's dimensions; constants are frozen."""
        if tensor in self.names:
            self.used.add(self.names[tensor])
        if tensor not in self.labels:
            self.labels[tensor] = tuple(fresh(n, CONSTANT) for n in tensor.shape)
        return self.labels[tensor]

    def statistic(self, tensor: Tensor) -> Label:
        """Like `label`, of a weight or a buffer that follows a batch norm's channels."""
        if tensor not in self.names and id(tensor) in self.buffers:
            self._parameter(self.buffers[id(tensor)], tensor)
            self.statistics.add(self.buffers[id(tensor)])
        return self.label(tensor)

    def instance(self, atom: Atom, outer: Atom, index: int) -> Axis:
        """The atom as it is at one position of the dimension it is stacked along."""
        freeze((outer,), "tensors stacked in a fixed order, such as Q, K and V")
        known = self.instances.setdefault(
            (atom, outer), [fresh(atom.size, atom.frozen) for _ in range(outer.size)]
        )
        return known[index]

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = arguments(func, args, kwargs or {})
        name = func._schema.name.split("::")[1]
        tensors = tensors_in(given.values())
        computed = name not in FILLED and any(x in self.computed for x in tensors)
        if computed and name in READS:
            raise TaskgroveError(
                f"the model's path depends on numbers that it computes (operation {name}), so its"
                " symmetries cannot be traced; expected a forward pass that is the same for all"
                " inputs, without `if` on activations and without routing to experts."
            )
        out = func(*args, **(kwargs or {}))
        results = tensors_in([out])
        if name in FILLED:
            for x in results:
                self.labels[x] = tuple(fresh(n) for n in x.shape)
        elif computed or name == "expand" or any(x in self.labels for x in tensors):
            self._follow(rule_of(func, name), name, given, tensors, results)
        for x in results if computed else ():
            self.computed[x] = True
        return out

    def _follow(
        self,
        rule: Rule | None,
        name: str,
        given: dict[str, Any],
        tensors: list[Tensor],
        results: list[Tensor],
    ) -> None:
        if results and 0 in results[0].shape:  # nothing in it can tell positions apart
            self.labels[results[0]] = tuple(fresh(n) for n in results[0].shape)
            return
        try:
            labels = None if rule is None else rule(self, given, results)
        except (IndexError, KeyError, TypeError, ValueError):  # a variant that it does not foresee
            labels = None
        if labels is None:
            for axis in (axis for x in tensors for axis in self.label(x)):
                freeze(axis, f"touched by {name}, an operation without a rule")
            return
        for x, label in zip(results, labels, strict=False):
            self.labels[x] = label
        for x in (*tensors, *results):
            if x in self.labels:
                label = self.labels[x]
                self.seen[tuple(tuple(id(atom) for atom in axis) for axis in label)] = label


def rule_of(func: Any, name: str) -> Rule | None:
    """The rule for an operation, if there is one."""
    if (found := RULES.get(name) or SHAPE_RULES.get(name) or LAYER_RULES.get(name)) is not None:
        return found
    return pointwise if torch.Tag.pointwise in func.tags else None


def arguments(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """An operation's arguments by name, defaults too."""
    found = {each.name: each.default_value for each in func._schema.arguments}
    named = [each.name for each in func._schema.arguments]
    return found | dict(zip(named, args, strict=False)) | kwargs


def settle(trace: AxisTrace) -> dict[Atom, dict[Atom, list[Axis]]]:
    """Instances that hold, as {outer: {atom: an axis a position}}; the others become one again.

    They hold if the atom never occurs without the dimension it is stacked along.
    """
    while True:
        found: dict[Atom, dict[Atom, list[Axis]]] = {}
        for (atom, outer), each in list(trace.instances.items()):
            inner, stack = resolve((atom,)), resolve((outer,))
            if not (_plain(inner) and _plain(stack)) or inner[0].frozen:
                _collapse(trace, atom, outer)
                break
            for x, y in zip(
                found.setdefault(stack[0], {}).setdefault(inner[0], each), each, strict=True
            ):
                unify(x, y)
        else:
            loose = _loose(trace)
            if loose is None:
                return found
            _collapse(trace, *loose)


def _plain(axis: Axis) -> bool:
    return len(axis) == 1 and axis[0].parts is None


def _loose(trace: AxisTrace) -> tuple[Atom, Atom] | None:
    seen = [atoms for label in trace.seen.values() for _, atoms in blocks(label, {})]
    for atom, outer in trace.instances:
        inner, stack = resolve((atom,))[0], resolve((outer,))[0]
        if any(inner in atoms and atoms.count(stack) != 1 for atoms in seen):
            return atom, outer
    return None


def _collapse(trace: AxisTrace, atom: Atom, outer: Atom) -> None:
    for each in trace.instances.pop((atom, outer)):
        unify(each, (atom,))
