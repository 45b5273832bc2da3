"""Skeletons: transformers modules without weights, and whose names their files' tensors have."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from taskgrove.backbones.transformer import quiet
from taskgrove.errors import TaskgroveError
from taskgrove.merging.models import Model

CLASSIFIER, CAUSAL = "ForSequenceClassification", "ForCausalLM"


def skeleton_of(folder: Path) -> nn.Module:
    """A tuned model's module, whose parameters take no memory; buffers that are not saved do."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    name = architecture(folder)
    config = AutoConfig.from_pretrained(folder)
    known = {CLASSIFIER: AutoModelForSequenceClassification, CAUSAL: AutoModelForCausalLM}
    kind = next((auto for end, auto in known.items() if name.endswith(end)), None)
    if kind is None:
        raise TaskgroveError(
            f"{folder} is {name}, which predicts no classes, so there is no entropy to lower; "
            f"expected a sequence classifier (...{CLASSIFIER}) or a causal language model "
            f"(...{CAUSAL}). Embedding models: `taskgrove merge self-positioning`."
        )
    with quiet(), init_empty_weights(include_buffers=False):
        module = kind.from_config(config)
    module.tie_weights()
    return module.float().eval().requires_grad_(False)


def architecture(folder: Path) -> str:
    """The class that a folder's config names."""
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise TaskgroveError(f"{folder} has no config.json; expected a transformers model folder.")
    return (AutoConfig.from_pretrained(folder).architectures or ["a model without a class"])[0]


def names_in(model: Model, skeleton: nn.Module, wanted: Sequence[str]) -> dict[str, str]:
    """{a file's name: the skeleton's}, with or without the class's prefix; tied names are one."""
    prefix = f"{skeleton.base_model_prefix}."
    first = first_names(skeleton)
    found: dict[str, str] = {}
    for name in model.entries:
        for candidate in (name, prefix + name, name.removeprefix(prefix)):
            known = first.get(candidate)
            if known is not None and known in wanted:
                if known not in found.values():
                    found[name] = known
                break
    return found


def first_names(skeleton: nn.Module) -> dict[str, str]:
    """Every name of a parameter or saved buffer, and the first one of the same tensor."""
    first: dict[int, str] = {}
    saved = skeleton.state_dict(keep_vars=True)
    return {name: first.setdefault(id(tensor), name) for name, tensor in saved.items()}
