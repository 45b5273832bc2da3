"""Sentence encoders as folders: the layout of sentence-transformers, or of transformers alone.

    modules.json         Transformer, Pooling and perhaps Normalize
    1_Pooling            mean or first token ("cls")
    sentence_bert_config max_seq_length
A folder without modules.json says nothing of pooling and normalisation, and fits any that does.
Reimers and Gurevych, "Sentence-BERT", EMNLP 2019, arXiv 1908.10084.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from taskgrove.backbones.transformer import LENGTH, Pooling, TransformerEncoder, transformer
from taskgrove.errors import TaskgroveError, listed

POOLINGS: dict[str, Pooling] = {"mean": "mean", "mean_tokens": "mean", "cls": "cls",
                                "cls_token": "cls"}  # fmt: skip
LAYOUT = "sentence_transformers.models."
LOOSE = ("truncation", "padding")  # of a tokenizer.json: how it was last called
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*.onnx")


@dataclass(frozen=True)
class Manner:
    """How a folder turns tokens into a vector; None where it does not say."""

    pooling: Pooling | None
    normalize: bool | None
    max_length: int | None
    tokenizer: Mapping[str, Any]


def manner(folder: Path) -> Manner:
    """What the folder says."""
    file = folder / "modules.json"
    tokenizer = tokenizer_of(folder)
    if not file.is_file():
        return Manner(None, None, None, tokenizer)
    kinds = {m["type"].rpartition(".")[2]: folder / m["path"] for m in _json(file)}
    if unknown := [k for k in kinds if k not in ("Transformer", "Pooling", "Normalize")]:
        raise TaskgroveError(
            f"{folder} has the modules {listed(kinds)}; expected only Transformer, Pooling and"
            f" Normalize, since {listed(unknown)} would have to be merged too."
        )
    length = folder / "sentence_bert_config.json"
    found = _json(length).get("max_seq_length") if length.is_file() else None
    pooling = pooling_of(kinds["Pooling"] / "config.json") if "Pooling" in kinds else "mean"
    return Manner(pooling, "Normalize" in kinds, found, tokenizer)


def pooling_of(file: Path) -> Pooling:
    """Old files have a flag for each mode, newer ones a name."""
    config = _json(file)
    on = [n.removeprefix("pooling_mode_") for n, v in config.items() if v is True and "mode_" in n]
    named = config.get("pooling_mode")
    modes = [named] if isinstance(named, str) else list(named or on)
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise TaskgroveError(f"{file} pools by {listed(modes)}; expected mean or cls alone.")
    return POOLINGS[modes[0]]


def tokenizer_of(folder: Path) -> Mapping[str, Any]:
    """All that tells which tokens a text has."""
    if (file := folder / "tokenizer.json").is_file():
        return {name: part for name, part in _json(file).items() if name not in LOOSE}
    if (file := folder / "vocab.txt").is_file():
        return {"vocab.txt": file.read_text("utf8")}
    raise TaskgroveError(f"{folder} has no tokenizer.json and no vocab.txt: save its tokenizer.")


def common(folders: Sequence[Path]) -> Manner:
    """The manner of all; the first difference is refused by name."""
    manners = {folder: manner(folder) for folder in folders}
    first = folders[0]
    for folder in folders[1:]:
        mine, theirs = manners[first].tokenizer, manners[folder].tokenizer
        if apart := [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]:
            raise TaskgroveError(
                f"the tokenizers of {first} and {folder} differ in {listed(apart)}; expected models"
                " tuned from one base with its tokenizer unchanged."
            )
    said: dict[str, Any] = {}
    for name in ("pooling", "normalize", "max_length"):
        values = {f: getattr(m, name) for f, m in manners.items() if getattr(m, name) is not None}
        if len(set(values.values())) > 1:
            told = ", ".join(f"{folder.name} has {value}" for folder, value in values.items())
            raise TaskgroveError(
                f"the models differ in {WORDS[name]} ({told}), so the mean of their weights has no"
                " meaning; expected the same in all."
            )
        said[name] = next(iter(values.values()), None)
    return Manner(**said, tokenizer=manners[first].tokenizer)


WORDS = {"pooling": "pooling", "normalize": "normalisation", "max_length": "max_seq_length"}


def open_sentence(folder: Path, how: Manner, max_length: int | None) -> TransformerEncoder:
    """Without dropout, in evaluation mode."""
    encoder = transformer(folder, max_length or how.max_length or LENGTH, how.pooling or "mean")
    encoder.eval()
    return encoder


def save_sentence(
    base: Path, encoder: TransformerEncoder, merged: Mapping[str, Tensor], how: Manner, out: Path
) -> None:
    """The base's folder with `merged` in its weights; both libraries open it."""
    shutil.copytree(base, out, ignore=shutil.ignore_patterns(*WEIGHTS, ".*", "README.md"))
    whole: dict[str, Tensor] = {}
    for file in sorted(base.glob("*.safetensors")):
        whole |= load_file(file)
    prefix = encoder.model.base_model_prefix
    for name, tensor in merged.items():
        place = name if name in whole else f"{prefix}.{name}"
        if place not in whole:
            raise TaskgroveError(f'{base} has no weights called "{name}" or "{place}".')
        whole[place] = tensor.to(whole[place].dtype).contiguous()
    save_file(whole, out / "model.safetensors", {"format": "pt"})
    if not (out / "modules.json").is_file():
        _write_modules(out, encoder, how)


def _write_modules(out: Path, encoder: TransformerEncoder, how: Manner) -> None:
    """What sentence-transformers needs, where the base has only what transformers needs."""
    names = ["Transformer", "Pooling", *(["Normalize"] if how.normalize else [])]
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [{"idx": n, "name": str(n), "path": path, "type": LAYOUT + name}
               for n, (name, path) in enumerate(zip(names, paths, strict=False))]  # fmt: skip
    pooling = {"word_embedding_dimension": encoder.width} | {
        f"pooling_mode_{mode}": POOLINGS[mode] == encoder.pooling
        for mode in ("cls_token", "mean_tokens")
    }
    (out / "1_Pooling").mkdir(exist_ok=True)
    (out / "modules.json").write_text(json.dumps(modules, indent=2))
    (out / "1_Pooling" / "config.json").write_text(json.dumps(pooling, indent=2))
    length = {"max_seq_length": encoder.max_length, "do_lower_case": False}
    (out / "sentence_bert_config.json").write_text(json.dumps(length, indent=2))


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text("utf8"))
    except (OSError, ValueError) as error:
        raise TaskgroveError(f"{file} cannot be read as JSON ({error}).") from None
