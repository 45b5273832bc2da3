"""Opens whatever a user calls a model: safetensors, PyTorch's pickles, a PEFT adapter on a base.

A folder or one file; nothing but headers is read. torch is imported only for pickles.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from taskgrove.merging.checkpoint import Checkpoint, open_checkpoint
from taskgrove.merging.files.adapter import base_of, is_adapter, open_lora
from taskgrove.merging.files.lora import Lora
from taskgrove.merging.files.pickled import Pickled, is_pickled, open_pickled
from taskgrove.merging.models import Model
from taskgrove.merging.words.vocabulary import Aligned


def open_model(place: Path, base: Model | None) -> Model:
    """Reads its headers; an adapter needs the base, or names one that is a folder here."""
    if is_adapter(place):
        return open_lora(place, open_model(base_of(place), None) if base is None else base)
    if is_pickled(place):
        return open_pickled(place)
    return open_checkpoint(place)


def files_of(model: Model) -> list[Path]:
    """The files that its numbers come from."""
    if isinstance(model, Checkpoint):
        return sorted({entry.file for entry in model.entries.values()})
    if isinstance(model, Pickled):
        return list(model.files)
    if isinstance(model, Lora):
        return [*files_of(model.base), *files_of(model.adapter)]
    if isinstance(model, Aligned):
        return [*files_of(model.own.model), model.file]
    return []


def notes_of(models: Iterable[Model]) -> list[str]:
    """What the user should know of models that can be merged all the same."""
    plain = [m.own.model if isinstance(m, Aligned) else m for m in models]
    said: list[Sequence[str]] = [m.notes for m in plain if isinstance(m, Lora | Pickled)]
    return [note for notes in said for note in notes]
