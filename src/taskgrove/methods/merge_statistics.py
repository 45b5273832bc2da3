"""Statistics of a tuned model on its task's rows, which Fisher merging and RegMean need.

    fisher   F = mean over rows of (grad log p(y | x))^2, y drawn from the model: a tensor for each
             of the model's, of its shape (Matena & Raffel 2022)
    gram     G = X^T X / rows of X, the inputs of each linear layer at real tokens: [in in] under
             the name of its weight, [1 in in] where the weight is [in out] (Jin et al. 2023)

No labels are needed. y is a class, a set of labels, a number (a Gaussian's, of variance 1), or
every next token of a row. A Fisher costs a forward and a backward pass a row and a copy of the
weights in fp32; a Gram a forward pass. Names are those of the checkpoint. A pass that was stopped
goes on where it was, with the same bits.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from taskgrove.errors import TaskgroveError, listed
from taskgrove.merging.files.dtypes import FLOATS
from taskgrove.merging.open_model import open_model
from taskgrove.merging.static.singular import layers
from taskgrove.methods.drawn_labels import drawn_log_probability
from taskgrove.methods.learned_family import names_in
from taskgrove.methods.learned_rows import Texts, texts_of
from taskgrove.methods.statistics_pass import Pass, Progress, check_out, run
from taskgrove.training.processes import this_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LENGTH = 128  # tokens of a row
KEEP = 300.0  # seconds between two savings of the sums
Names = Mapping[str, str]  # {the module's name: the checkpoint's}


def fisher(
    model: Path,
    data: Path,
    out: Path,
    text: tuple[str, ...] = ("text",),
    rows: int | None = None,
    length: int = LENGTH,
    seed: int = 0,
    progress: Progress | None = None,
    keep_seconds: float = KEEP,
) -> None:
    """Writes the diagonal Fisher information of `model` on the rows of `data` to folder `out`."""
    check_out(out)
    net, names, texts = _opened(model, data, text, length)
    count = _at_most(rows, len(texts))
    weights = {names[n]: w for n, w in net.named_parameters() if n in names}
    sums = {name: torch.zeros_like(w, dtype=torch.float32) for name, w in weights.items()}
    buffers = {names[n]: b for n, b in net.named_buffers() if n in names}  # no gradient: 0
    still = {n: torch.zeros_like(b) for n, b in buffers.items() if b.is_floating_point()}

    def step(n: int) -> None:
        net.zero_grad(set_to_none=True)
        batch = _on(net, texts.batch(torch.tensor([n])))
        drawn_log_probability(net, batch, seed * 1_000_003 + n).backward()
        for name, weight in weights.items():
            if weight.grad is not None:
                sums[name].addcmul_(weight.grad, weight.grad)

    about = _about("fisher", model, data, text, length, count) | {"seed": seed}
    this = Pass(out, about, count, keep_seconds)
    run(this, sums, step, lambda: {n: F / count for n, F in sums.items()} | still, progress)


def gram(
    model: Path,
    data: Path,
    out: Path,
    text: tuple[str, ...] = ("text",),
    rows: int | None = None,
    length: int = LENGTH,
    batch_size: int = 16,
    progress: Progress | None = None,
    keep_seconds: float = KEEP,
) -> None:
    """Writes the Gram matrices of the inputs of `model`'s linear layers to folder `out`."""
    check_out(out)
    if batch_size < 1:
        raise TaskgroveError(f"--batch-size is {batch_size}; expected 1 or more.")
    net, names, texts = _opened(model, data, text, length)
    count = _at_most(rows, len(texts))
    named = {
        names[n]: w for n, w in net.named_parameters() if n in names and layers(tuple(w.shape))
    }
    modules = {f"{n}.weight": m for n, m in net.named_modules() if _is_linear(m)}
    linear = {names[n]: m for n, m in modules.items() if names.get(n) in named}
    if not linear:
        raise TaskgroveError(f"{model} has no linear layer, so there are no Gram matrices.")
    wide = {n: isinstance(m, nn.Linear) for n, m in linear.items()}  # [out in], not [in out]
    sums = {n: _square(named[n], 1 if wide[n] else 0) for n in linear}
    seen = {f"{n}.rows": torch.zeros((), dtype=torch.float64) for n in linear}
    mask = [torch.ones(0)]
    for n, module in linear.items():
        module.register_forward_pre_hook(_adding(sums[n], seen[f"{n}.rows"], mask))

    @torch.no_grad()
    def step(n: int) -> None:
        some = torch.arange(n * batch_size, min(count, (n + 1) * batch_size))
        batch = _on(net, texts.batch(some))
        mask[0] = batch["attention_mask"].bool()
        net(**batch)

    def finish() -> dict[str, Tensor]:
        mean = {n: G / seen[f"{n}.rows"].to(G) for n, G in sums.items()}
        return {n: G if wide[n] else G[None] for n, G in mean.items()}

    about = _about("gram", model, data, text, length, count) | {"batch_size": batch_size}
    this = Pass(out, about, -(-count // batch_size), keep_seconds)
    run(this, sums | seen, step, finish, progress)


def _opened(
    folder: Path, data: Path, text: tuple[str, ...], length: int
) -> tuple["PreTrainedModel", Names, Texts]:
    """The model in fp32, its names, and its rows."""
    import transformers

    if not (folder / "config.json").is_file():
        raise TaskgroveError(
            f"{folder} has no config.json; expected a whole model, as transformers saves it."
        )
    checkpoint = open_model(folder, None)
    config = transformers.AutoConfig.from_pretrained(folder)
    name = (config.architectures or ["AutoModel"])[0]
    kind = getattr(transformers, name, None)
    if kind is None:
        raise TaskgroveError(f"{folder} is {name}, a class that transformers does not have.")
    net, facts = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    if missing := list(facts["missing_keys"]):
        raise TaskgroveError(f"{folder} lacks {listed(missing, 3)} of {name}; expected all of it.")
    found = names_in(checkpoint, net, list(net.state_dict()))
    if lost := [n for n, e in checkpoint.entries.items() if e.dtype in FLOATS and n not in found]:
        raise TaskgroveError(
            f"{folder}: {name} does not have the tensors {listed(lost, 3)}, or under other names;"
            " save it again with this version of transformers."
        )
    texts, _ = texts_of(data, text, folder, net.config, length)
    return net.to(this_device()).eval(), {own: name for name, own in found.items()}, texts


def _at_most(rows: int | None, there: int) -> int:
    if rows is not None and rows < 1:
        raise TaskgroveError(f"--rows is {rows}; expected 1 or more.")
    return there if rows is None else min(rows, there)


def _about(
    kind: str, model: Path, data: Path, text: tuple[str, ...], length: int, rows: int
) -> dict[str, str | int]:
    found: dict[str, str | int] = {"statistics": kind, "model": str(model), "data": str(data)}
    return found | {"text": " ".join(text), "length": length, "rows": rows}


def _square(weight: Tensor, side: int) -> Tensor:
    """Zeros [in in]."""
    size = weight.shape[side]
    return torch.zeros(size, size, device=weight.device)


def _is_linear(module: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | Conv1D)


def _on(net: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    device = next(net.parameters()).device
    return {name: values.to(device) for name, values in batch.items()}


def _adding(G: Tensor, rows: Tensor, mask: list[Tensor]) -> Callable[..., None]:
    """A hook that adds a layer's inputs at real tokens to its Gram matrix."""

    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:  # noqa: ARG001
        X = inputs[0]
        X = X[mask[0]] if X.shape[:2] == mask[0].shape and X.ndim == 3 else X.flatten(0, -2)
        G.addmm_(X.float().T, X.float())
        rows.add_(len(X))

    return hook
