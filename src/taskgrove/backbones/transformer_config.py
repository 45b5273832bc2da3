"""What a transformers config says of a model before it is built."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskgrove.errors import TaskgroveError

if TYPE_CHECKING:
    from transformers.configuration_utils import PretrainedConfig
else:
    PretrainedConfig = Any


def check_config(config: PretrainedConfig, folder: Path) -> None:
    """Refuses what is not a single encoder."""
    kind = config.model_type
    if config.is_encoder_decoder:
        raise TaskgroveError(
            f'{folder} holds an encoder-decoder ("{kind}"), but a backbone is an encoder or a'
            " causal model: save its encoder, or choose another model."
        )
    if not isinstance(getattr(config, "hidden_size", None), int):
        raise TaskgroveError(
            f'{folder} holds a "{kind}" without one hidden size, so it is not a single encoder:'
            " save its text or vision tower by itself, or wrap the module in Python."
        )


def set_dropout(config: PretrainedConfig, dropout: float) -> None:
    """Every dropout rate of the model; layers and paths are never dropped more than before."""
    for name, value in config.to_dict().items():
        if "drop" in name and isinstance(value, float):
            whole_layers = "layer" in name or "path" in name
            setattr(config, name, min(value, dropout) if whole_layers else dropout)
