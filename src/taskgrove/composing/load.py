"""Loading: model folders of one vocabulary become a FusedLM."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taskgrove.composing.dynamic_alpha import Rule
from taskgrove.composing.fused_lm import FusedLM
from taskgrove.composing.vocabulary import check_tokens
from taskgrove.errors import TaskgroveError, listed


def load_fused(
    large: Path,
    small: Path,
    experts: Sequence[Path],
    rule: Rule | None = None,
    dtype: str = "auto",
) -> FusedLM:
    """The models of these folders, once their tokenizers are found to be one."""
    folders = [large, small, *experts]
    for folder in folders:
        check_folder(folder)
    tokenizers = [load_tokenizer(folder) for folder in folders]
    check_tokens({str(f): each.get_vocab() for f, each in zip(folders, tokenizers, strict=True)})
    models = [load_model(folder, dtype) for folder in folders]
    return FusedLM(models[0], models[1], models[2:], tokenizers[0], rule or Rule())


def check_folder(folder: Path) -> None:
    """Refuses what is not a whole Hugging Face model folder."""
    if not folder.is_dir():
        raise TaskgroveError(
            f"the model folder {folder} is not there; expected a folder with config.json, weights"
            " and a tokenizer, as transformers saves it."
        )
    if (folder / "adapter_config.json").exists():
        raise TaskgroveError(
            f"{folder} is a PEFT adapter, not a model; expected whole weights, merge it into its"
            " base first with `taskgrove merge`."
        )
    if not (folder / "config.json").exists():
        raise TaskgroveError(
            f"{folder} has no config.json; expected a model folder as transformers saves it."
        )


def load_tokenizer(folder: Path) -> Any:
    """The folder's tokenizer."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise TaskgroveError(
            f"{folder} has no tokenizer that transformers can read ({_first_line(error)}); copy the"
            " tokenizer files of its base model into it."
        ) from error


def load_model(folder: Path, dtype: str = "auto") -> Any:
    """The folder's causal language model; on a GPU where there is one."""
    import torch
    from transformers import AutoModelForCausalLM

    from taskgrove.backbones.transformer import quiet

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        with quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder, torch_dtype=dtype, local_files_only=True, output_loading_info=True
            )
    except (OSError, ValueError, KeyError) as error:
        raise TaskgroveError(
            f"{folder} is no causal language model that transformers can read"
            f" ({_first_line(error)})."
        ) from error
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise TaskgroveError(
            f"{folder} is no causal language model: it lacks {listed(missing, 3)}, which would be"
            " drawn at random."
        )
    return model.to(device).eval()


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")
