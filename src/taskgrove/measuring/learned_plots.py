"""Three pictures of a learned merge: its coefficients, its entropy, what it predicts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

INK = "#222222"


def coefficient_map(
    values: Float[np.ndarray, "model *tensor"],
    models: Sequence[str],
    tensors: Sequence[str],
    file: Path,
) -> None:
    """A row a model, a column a tensor, in the order of the model."""
    shown = values.reshape(len(models), -1)
    wide = shown.shape[1]
    figure, axes = _figure(min(16.0, 4 + 0.09 * wide), 3.2 + 0.35 * len(models))
    low, high = min(0.0, float(shown.min())), max(1.0, float(shown.max()))
    image = axes.imshow(shown, aspect="auto", cmap="viridis", vmin=low, vmax=high)
    figure.colorbar(image, ax=axes, label="coefficient")
    axes.set_yticks(range(len(models)), models)
    every = max(1, wide // 24)
    names = list(tensors) if wide == len(tensors) else ["all tensors"]
    axes.set_xticks(range(0, wide, every), [_cut(n) for n in names[::every]], rotation=90)
    axes.tick_params(labelsize=7)
    figure.savefig(file, dpi=150)


def entropy_curve(
    entropy: Float[np.ndarray, "step task"], tasks: Sequence[str], file: Path
) -> None:
    """Nats over steps, a line a task."""
    figure, axes = _figure(6.4, 3.6)
    for line, task in zip(entropy.T, tasks, strict=True):
        axes.plot(np.arange(len(line)), line, linewidth=1.5, label=task)
    axes.set_xlabel("step")
    axes.set_ylabel("entropy of a batch, nats")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=150)


def predicted_classes(
    counts: Mapping[str, Sequence[int]],
    classes: Mapping[str, Sequence[str]],
    warned: Sequence[str],
    file: Path,
) -> None:
    """Share of the predictions that each class takes, most first; at most 20 classes shown."""
    figure, axes = _figure(6.4, 0.4 + 1.9 * len(counts), rows=len(counts))
    for place, (task, found) in zip(np.atleast_1d(axes), counts.items(), strict=True):
        order = np.argsort(found, kind="stable")[::-1][:20]
        share = np.asarray(found, float)[order] / max(1, sum(found))
        place.bar(range(len(share)), share, 0.7, color="#cc3311" if task in warned else "#4477aa")
        place.set_ylim(0, 1)
        words = f"{task}: one class takes {share[0]:.0%} of the predictions"
        place.set_title(words + (", a collapse?" if task in warned else ""), fontsize=9, color=INK)
        names = [_cut(str(classes[task][n]), 14) if task in classes else str(n) for n in order]
        place.set_xticks(range(len(names)), names, rotation=30 if len(names) > 6 else 0, fontsize=7)
    figure.savefig(file, dpi=150)


def _figure(width: float, height: float, rows: int = 1) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows)


def _cut(name: str, most: int = 34) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"
