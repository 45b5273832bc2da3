"""A backbone as a folder: weights in `model.safetensors`, its kind in `taskgrove_backbone.json`.

A transformers encoder keeps the layout of transformers (config.json, tokenizer files), so other
tools open the folder; a fused backbone keeps each member in a subfolder. Never pickle.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_model
from torch import Tensor, nn

from taskgrove.backbones.backbone import Backbone
from taskgrove.backbones.bag import Bag
from taskgrove.backbones.cnn import Cnn
from taskgrove.backbones.fused import Fused
from taskgrove.backbones.mlp import Mlp
from taskgrove.backbones.module import Wrapped
from taskgrove.backbones.pyramid import Pyramid
from taskgrove.backbones.table_spec import from_dict
from taskgrove.backbones.transformer import TransformerEncoder, save_transformer, transformer
from taskgrove.backbones.vit import Vit
from taskgrove.errors import TaskgroveError, listed

PLAIN = {"cnn": Cnn, "vit": Vit, "pyramid": Pyramid, "bag": Bag}
RECORD, WEIGHTS, FORMAT = "taskgrove_backbone.json", "model.safetensors", 1


def save(backbone: Backbone, folder: Path) -> None:
    """Writes weights, kind and arguments; what `load` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(backbone, TransformerEncoder):
        save_transformer(backbone, folder)
    elif isinstance(backbone, Fused):
        save_model(backbone.projections, str(folder / WEIGHTS))
        for i, member in enumerate(backbone.backbones()):
            save(member, folder / f"member{i}")
    elif isinstance(backbone, nn.Module):
        save_model(backbone, str(folder / WEIGHTS))
    record = {"format": FORMAT} | backbone.config()
    for elsewhere in ("model", "members"):  # in config.json and in the subfolders
        record.pop(elsewhere, None)
    (folder / RECORD).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", "utf8")


def load(folder: Path, module: Backbone | None = None) -> Backbone:
    """The saved backbone, bit for bit; `module` is the `wrap(...)` whose weights the folder holds.

    The global random generator is left as it was.
    """
    record = _record(folder)
    with torch.random.fork_rng(devices=[]):
        if record["class"] == "transformer":
            encoder = transformer(folder, **record["arguments"])
            return encoder.to(getattr(torch, record["dtype"]))
        built = _built(record, folder, module)
        read_weights(folder / WEIGHTS, built.projections if isinstance(built, Fused) else built)
        return built


def read_weights(file: Path, module: nn.Module) -> None:
    """Copies a safetensors file into a module: names and shapes agree, types are the file's."""
    try:
        found = load_file(file)
    except (OSError, SafetensorError) as error:
        raise TaskgroveError(
            f"{file} cannot be read as safetensors ({error}): it is missing, cut off or of another"
            " format, so copy it again."
        ) from error
    names: dict[Tensor, list[str]] = {}  # a tied tensor has several, and the file one of them
    for name, tensor in module.state_dict(keep_vars=True).items():
        names.setdefault(tensor, []).append(name)
    known = {name for several in names.values() for name in several}
    missing = [several[0] for several in names.values() if found.keys().isdisjoint(several)]
    if missing or not found.keys() <= known:
        extra = sorted(found.keys() - known)
        raise TaskgroveError(
            f"{file} is of another model: it lacks {listed(missing, 3) or 'nothing'}"
            f" and has {listed(extra, 3) or 'nothing'} too much."
        )
    for tensor, several in names.items():
        name = next(name for name in several if name in found)
        if tensor.shape != found[name].shape:
            raise TaskgroveError(
                f'{file} is of another model: "{name}" is {list(found[name].shape)}, expected'
                f" {list(tensor.shape)}."
            )
        tensor.data = found[name].to(tensor.device)


def _record(folder: Path) -> dict[str, Any]:
    file = folder / RECORD
    try:
        record = json.loads(file.read_text("utf8"))
        kind, version = record["class"], record["format"]
    except OSError as error:
        raise TaskgroveError(f"{folder} is not a saved backbone: it has no {RECORD}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise TaskgroveError(f"{file} is damaged: {error}.") from error
    if version != FORMAT:
        raise TaskgroveError(
            f"{file} has format {version}, this taskgrove reads {FORMAT}: upgrade taskgrove."
        )
    if kind not in {"transformer", "module", "fused", "mlp", *PLAIN}:
        raise TaskgroveError(f'{file} names the class "{kind}", which this taskgrove lacks.')
    return record


def _built(
    record: dict[str, Any], folder: Path, module: Backbone | None
) -> Bag | Cnn | Fused | Mlp | Pyramid | Vit | Wrapped:
    """The module without its weights."""
    arguments = record["arguments"]
    match record["class"]:
        case "mlp":
            return Mlp(from_dict(arguments["spec"]), arguments["width"])
        case "fused":
            several = len(list(folder.glob("member*")))
            members = [load(folder / f"member{i}") for i in range(several)]
            return Fused(members, arguments["width"])
        case "module":
            return _given(module, arguments, folder)
        case kind:
            return PLAIN[kind](**arguments)


def _given(module: Backbone | None, arguments: dict[str, Any], folder: Path) -> Wrapped:
    if not isinstance(module, Wrapped):
        raise TaskgroveError(
            f"{folder} holds the weights of a module of your own, whose code is not saved:"
            " load it from Python with load(folder, module=wrap(...))."
        )
    given = module.config()["arguments"]
    if given != arguments:
        raise TaskgroveError(f"{folder} was saved with {arguments}, but the module has {given}.")
    return module
