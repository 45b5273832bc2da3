"""Doors to real models, and the small reference models that run from nothing."""

from collections.abc import Callable
from pathlib import Path

from taskgrove.backbones.backbone import Backbone, Raw, join
from taskgrove.backbones.bag import Bag
from taskgrove.backbones.cnn import Cnn
from taskgrove.backbones.folder import RECORD, load, save
from taskgrove.backbones.folder import load as load_backbone
from taskgrove.backbones.folder import save as save_backbone
from taskgrove.backbones.fused import Fused
from taskgrove.backbones.hub import fetch
from taskgrove.backbones.minilm import minilm
from taskgrove.backbones.mlp import Mlp
from taskgrove.backbones.module import wrap
from taskgrove.backbones.pyramid import Pyramid
from taskgrove.backbones.table_spec import TableSpec
from taskgrove.backbones.transformer import LENGTH, TransformerEncoder, transformer
from taskgrove.backbones.vit import Vit
from taskgrove.errors import TaskgroveError, did_you_mean, listed

BACKBONES: dict[str, Callable[..., Backbone]] = {
    "cnn": Cnn,
    "vit": Vit,
    "pyramid": Pyramid,
    "mlp": Mlp,
    "bag": Bag,
}

__all__ = [
    "BACKBONES",
    "Backbone",
    "Bag",
    "Cnn",
    "Fused",
    "Mlp",
    "Pyramid",
    "Raw",
    "TableSpec",
    "TransformerEncoder",
    "Vit",
    "backbone",
    "join",
    "load",
    "load_backbone",
    "minilm",
    "save",
    "save_backbone",
    "transformer",
    "wrap",
]


def backbone(name: str, spec: TableSpec | None = None, max_length: int | None = None) -> Backbone:
    """A backbone by name, "minilm", a folder, or a hub name.

    `spec` describes the table of "mlp"; `max_length` is how many tokens of a text an encoder of
    transformers reads (default 128).

    A reference model draws its weights from the global generator: call `torch.manual_seed` before.
    """
    folder = Path(name).expanduser()
    if name == "mlp":
        if spec is None:
            raise TaskgroveError('the backbone "mlp" needs the TableSpec of its columns.')
        return Mlp(spec)
    if name in BACKBONES:
        return BACKBONES[name]()
    if name == "minilm":
        return minilm(max_length or LENGTH)
    if folder.is_dir():
        kept = (folder / RECORD).is_file()
        return load(folder) if kept else transformer(folder, max_length or LENGTH)
    if name.count("/") == 1 and name[0] not in "./~":
        return transformer(fetch(name), max_length or LENGTH)
    names = [*BACKBONES, "minilm"]
    raise TaskgroveError(
        f'there is no backbone and no folder "{name}": choose {listed(names)}, a folder with'
        f' config.json, or a hub name "owner/name".{did_you_mean(name, names)}'
    )
