"""Models without a common base, aligned: then any static method may merge them.

    aligned = align([model_a, model_b], inputs)
    average = merged("average", None, aligned.states)     # merging.in_memory

Ainsworth et al., "Git Re-Basin", ICLR 2023, arXiv 2209.04836; see merging/aligned/rebasin for the
matching and merging/aligned/symmetries for what may permute. Each aligned model computes exactly
what it did. Batch norm's statistics fit no mean of models: re-estimate them after a merge. Only
the first model is traced. Memory: all models, in single precision.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from taskgrove.backbones.transformer import quiet
from taskgrove.errors import TaskgroveError, listed
from taskgrove.merging.aligned.permutations import Array, State, Symmetries, check
from taskgrove.merging.aligned.rebasin import merge_many
from taskgrove.merging.aligned.symmetries import symmetries
from taskgrove.merging.aligned.symmetry_check import Inputs

TOKENS, ROWS = 8, 2  # of the example inputs for a folder


@dataclass(frozen=True)
class Aligned:
    """What `align` found."""

    states: list[dict[str, Array]]  # numpy; bfloat16 and half precision widened to float32
    symmetries: Symmetries
    before: float  # mean cosine of two models' weights
    after: float


def align(models: Sequence[nn.Module], inputs: Inputs, seed: int = 0) -> Aligned:
    """Brings the models' hidden units into one order; two are matched to the first."""
    states = [state_of(model) for model in models]
    check({name: x.shape for name, x in states[0].items()} if states else {}, states)
    found = symmetries(models[0], inputs, seed)
    aligned = [dict(state) for state in merge_many(found, states, seed)]
    return Aligned(aligned, found, _cosine(found, states), _cosine(found, aligned))


def align_folders(
    folders: Sequence[Path], into: Path, inputs: Mapping[str, Any] | None = None, seed: int = 0
) -> Aligned:
    """The same for Hugging Face folders; writes `into/<folder's name>`, of the same dtypes."""
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        raise TaskgroveError(f"two folders are called alike ({names}); expected different names.")
    if taken := [into / name for name in names if (into / name).exists()]:
        raise TaskgroveError(
            f"{taken[0]} exists already; name a folder for the results without it."
        )
    models = [open_model(folder) for folder in folders]
    if not models:
        check({}, [])
    aligned = align(models, example(models[0]) if inputs is None else inputs, seed)
    for name, folder, model, state in zip(names, folders, models, aligned.states, strict=True):
        load(model, state)
        with quiet():
            model.save_pretrained(into / name)
        for file in folder.iterdir():
            beside = file.suffix in {".json", ".txt", ".model"} and ".index." not in file.name
            if beside and not (into / name / file.name).exists():
                shutil.copyfile(file, into / name / file.name)
    return aligned


def state_of(model: nn.Module) -> dict[str, Array]:
    """A model's tensors as arrays; short floating types widened, which loses nothing."""
    short = {torch.bfloat16, torch.float16}
    tensors = ((n, x.detach().cpu()) for n, x in model.state_dict().items())
    return {n: (x.float() if x.dtype in short else x).numpy() for n, x in tensors}


def load(model: nn.Module, state: State) -> None:
    """Copies arrays into a model, in its own types."""
    tensors: dict[str, Tensor] = {n: torch.from_numpy(np.array(x)) for n, x in state.items()}
    model.load_state_dict(tensors)


def open_model(folder: Path) -> Any:
    """A transformers model of the class that its config names, from safetensors only."""
    import transformers

    try:
        config = json.loads((folder / "config.json").read_text("utf8"))
        name = (config.get("architectures") or ["AutoModel"])[0]
        kind = getattr(transformers, name, None)
        if kind is None:
            raise ValueError(f"its config.json names {name}, which transformers lacks")
        how = {"use_safetensors": True, "output_loading_info": True, "torch_dtype": "auto"}
        with quiet():
            model, report = kind.from_pretrained(folder, local_files_only=True, **how)
    except (OSError, ValueError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise TaskgroveError(
            f"{folder} cannot be opened ({reason}); expected a Hugging Face model folder with"
            " config.json and safetensors weights."
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise TaskgroveError(f"{folder} lacks weights that {name} needs: {listed(missing, 3)}.")
    return model


def example(model: Any) -> dict[str, Tensor]:
    """Example inputs of a transformers model: random tokens, or random pictures."""
    generator, config = torch.Generator().manual_seed(0), model.config
    if model.main_input_name == "input_ids":
        shape = (ROWS, TOKENS)
        return {"input_ids": torch.randint(config.vocab_size, shape, generator=generator)}
    if model.main_input_name == "pixel_values":
        size = config.image_size
        sides = (size, size) if isinstance(size, int) else tuple(size)
        shape = (ROWS, config.num_channels, *sides)
        return {"pixel_values": torch.randn(shape, generator=generator, dtype=model.dtype)}
    raise TaskgroveError(
        f"{type(model).__name__} reads {model.main_input_name}, for which there is no example;"
        " expected text or pictures: pass `inputs`, a mapping of the arguments it takes."
    )


def _cosine(found: Symmetries, states: Sequence[State]) -> float:
    """Of the weights and biases that were matched, over all pairs of models."""
    statistics = {name for block in found.blocks if block.statistic for name in block.names}
    names = [name for name in found.shapes if name in states[0] and name not in statistics]
    flat = np.stack([np.concatenate([s[n].ravel() for n in names]) for s in states])
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    return float((unit @ unit.T)[np.triu_indices(len(states), 1)].mean())
