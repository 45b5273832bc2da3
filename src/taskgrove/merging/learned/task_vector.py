"""Task vectors: what fine-tuning changed, tensor by tensor.

Ilharco et al., "Editing Models with Task Arithmetic", ICLR 2023, arXiv 2212.04089.

    tau_k = theta_k - theta_0      theta = theta_0 + (some function of tau_1 .. tau_K)

    theta_0: the base, named tensors [...]; theta_k: tuned model k, the same names and shapes;
    tau: one tensor [model ...] per name, in fp32 whatever the models' dtype

What is merged and what is not:
- Floating tensors are merged, buffers too (re-estimate BatchNorm statistics after a merge).
- Other tensors (position ids, masks) are the base's and must be equal in every tuned model;
  BatchNorm's `num_batches_tracked`, which no prediction reads, may differ.
- Tied tensors (in the base, two names for exactly the same memory) are one tensor: only the first
  name has a delta, `apply` hands the merged tensor out under both names, and a tuned model in
  which the two differ is refused. A tie that a file format has already broken (two equal copies)
  cannot be seen: its two names are merged on their own.
Difference from the paper: nothing in the arithmetic; the checks are ours.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from taskgrove.errors import TaskgroveError, listed

COUNTER = "num_batches_tracked"
STATISTICS = ("running_mean", "running_var")  # of BatchNorm; torch cannot differentiate them


def deltas(
    base: Mapping[str, Tensor], tuned: Sequence[Mapping[str, Tensor]]
) -> dict[str, Float[Tensor, "model ..."]]:
    """tau: for each floating tensor of the base, how each tuned model differs from it."""
    if not tuned:
        raise TaskgroveError("got no tuned model to merge; expected at least one.")
    for k, model in enumerate(tuned, start=1):
        if problems := _mismatches(base, model):
            raise TaskgroveError(
                f"tuned model {k} of {len(tuned)} does not fit the base: {'; '.join(problems)}. "
                "Expected the same names and shapes in all: leave task heads out, merge LoRA "
                "adapters into full weights first, and use models tuned from this very base."
            )
    tau = {
        name: torch.stack([_difference(model[name], theta_0) for model in tuned])  # [model ...]
        for name, theta_0 in _merged_part(base).items()
    }
    if not tau:
        raise TaskgroveError("the base has no floating tensor, so there is nothing to merge.")
    for name, tau_l in tau.items():
        if not tau_l.isfinite().all():
            raise TaskgroveError(_not_finite(name, base[name], tau_l))
    return tau


def apply(base: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors of the base, with `tensors` in their places, rounded once to the base's dtype.

    A tensor that merging did not change is the base's, bit for bit. The base is not modified.
    """
    first = tied(base)
    part = _merged_part(base)
    if unknown := [name for name in tensors if name not in part]:
        raise TaskgroveError(
            f"merged tensors {listed(unknown)} are not floating tensors of the base "
            f"(it has: {listed(part)})."
        )
    whole: dict[str, Tensor] = {}
    for name, theta_0 in base.items():
        if name in first:
            whole[name] = whole[first[name]]
        elif name in tensors:
            whole[name] = _round(name, theta_0, tensors[name])
        else:
            whole[name] = theta_0.detach().clone()
    return whole


def models_in(base: Mapping[str, Tensor], deltas: Mapping[str, Float[Tensor, "model ..."]]) -> int:
    """K, after checking that every delta is [model, *shape of its base tensor]."""
    counts = {len(tau) for tau in deltas.values() if tau.ndim}
    wrong = [n for n, tau in deltas.items() if n not in base or tau.shape[1:] != base[n].shape]
    if wrong or len(counts) != 1 or 0 in counts:
        raise TaskgroveError(
            f"deltas of {sorted(counts)} models do not fit the base{' in ' if wrong else ''}"
            f"{listed(wrong)}; expected [models, *shape in the base], as many models in each. "
            "Build them with merging.deltas(base, tuned)."
        )
    return counts.pop()


def tied(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Each later name of a tensor that has several, with its first name."""
    seen: dict[tuple[object, ...], str] = {}
    later: dict[str, str] = {}
    for name, w in weights.items():
        place = (w.data_ptr(), w.device, w.dtype, w.shape, w.stride())
        if w.numel() and w.data_ptr() and seen.setdefault(place, name) != name:
            later[name] = seen[place]
    return later


def wide(theta: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """theta in the dtype of merging, fp32 (fp64 where the model is fp64), without its graph."""
    return theta.detach().to(torch.float64 if theta.dtype == torch.float64 else torch.float32)


def _merged_part(base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    later = tied(base)
    return {n: w for n, w in base.items() if w.is_floating_point() and n not in later}


def _difference(theta_k: Tensor, theta_0: Tensor) -> Tensor:
    return (wide(theta_k).to(theta_0.device) - wide(theta_0)).float()


def _round(name: str, theta_0: Tensor, theta: Tensor) -> Tensor:
    if theta.shape != theta_0.shape:
        raise TaskgroveError(
            f'merged tensor "{name}" has shape {tuple(theta.shape)}; '
            f"expected the base's, {tuple(theta_0.shape)}."
        )
    rounded = theta.detach().to(theta_0.dtype)
    if torch.equal(rounded, theta_0):
        return theta_0.detach().clone()  # also keeps a negative zero
    if not rounded.isfinite().all():
        raise TaskgroveError(
            f'merged tensor "{name}" is not finite as {theta_0.dtype}: '
            "use a smaller scale, or a base in a wider dtype."
        )
    return rounded


def _not_finite(name: str, theta_0: Tensor, tau_l: Tensor) -> str:
    bad = [k for k, tau in enumerate(tau_l, start=1) if not tau.isfinite().all()]
    where = "the base" if not theta_0.isfinite().all() else f"tuned model {bad[0]}"
    return f'tensor "{name}" of {where} holds NaN or infinity; expected finite weights.'


def _mismatches(base: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> list[str]:
    """What a user must read about one tuned model, or nothing."""
    both = [name for name in base if name in model]
    shapes = [n for n in both if base[n].shape != model[n].shape]
    floats = [n for n in both if base[n].is_floating_point() != model[n].is_floating_point()]
    same = [n for n in both if n not in shapes and n not in floats]
    fixed = [n for n in same if not base[n].is_floating_point() and not n.endswith(COUNTER)]
    untied = {n: f for n, f in tied(base).items() if n in same and f in same}
    found = {
        "it lacks": [n for n in base if n not in model],
        "the base lacks": [n for n in model if n not in base],
        "shapes differ in": [_shapes(n, base[n], model[n]) for n in shapes],
        "floating in only one of the two:": floats,
        "integer or boolean tensors differ:": [n for n in fixed if _differ(base[n], model[n])],
        "tied in the base but no longer equal:": [
            f"{n} and {f}" for n, f in untied.items() if _differ(model[n], model[f])
        ],
    }
    return [f"{words} {listed(names)}" for words, names in found.items() if names]


def _differ(a: Tensor, b: Tensor) -> bool:
    return a is not b and not torch.equal(a.detach(), b.detach().to(a.device))


def _shapes(name: str, theta_0: Tensor, theta_k: Tensor) -> str:
    return f"{name} {tuple(theta_k.shape)}, base {tuple(theta_0.shape)}"
