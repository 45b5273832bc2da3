"""The door to transformers: any encoder of text or pictures that `AutoModel` opens.

    hidden   = model(tokens)                               [batch token dim]
    features = mean over the tokens that are not padding   [batch dim]   (or the first token: "cls")
Causal models work too (padded on the right, mean over tokens). Weights come from safetensors
only, in float32; parts that these features never reach (poolers, mask tokens) are frozen.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final, get_args

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn

from taskgrove.backbones.backbone import Raw, texts
from taskgrove.backbones.maps import on_grid
from taskgrove.backbones.pictures import Processor, images, process, processor, settings
from taskgrove.backbones.transformer_config import check_config, set_dropout
from taskgrove.errors import TaskgroveError, did_you_mean, listed

if TYPE_CHECKING:  # importing transformers takes seconds, which small trunks should not pay
    from transformers.configuration_utils import PretrainedConfig
    from transformers.modeling_utils import PreTrainedModel
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase
else:
    PretrainedConfig = PreTrainedModel = PreTrainedTokenizerBase = Any

Pooling = Literal["mean", "cls"]
LENGTH = 128  # tokens of a text that are read
UNUSED = {"pooler", "mask_token"}
INPUTS = {"input_ids": "text", "pixel_values": "image"}
FAILURES = (OSError, ValueError, KeyError, ImportError, RuntimeError, TypeError, SafetensorError)


@final
class TransformerEncoder(nn.Module):
    def __init__(
        self,
        model: PreTrainedModel,
        tokens: PreTrainedTokenizerBase | Processor,
        max_length: int = LENGTH,
        pooling: Pooling = "mean",
    ):
        super().__init__()
        if pooling not in get_args(Pooling):
            hint = did_you_mean(pooling, get_args(Pooling))
            raise TaskgroveError(f'pooling is "mean" or "cls", not "{pooling}".{hint}')
        self.model, self.tokens, self.pooling = model, tokens, pooling
        self.width = int(model.config.hidden_size)
        self.reads = frozenset({INPUTS[model.main_input_name]})
        self.max_length = max_length
        self.map_width = self.width if isinstance(tokens, Processor) else 0
        if not isinstance(tokens, Processor):
            places = getattr(model.config, "max_position_embeddings", None) or max_length
            self.max_length = min(max_length, tokens.model_max_length, places)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(UNUSED.isdisjoint(name.split(".")))

    def prepare(self, raw: Raw) -> dict[str, Tensor]:
        if isinstance(self.tokens, Processor):
            return {"pixel_values": process(images(raw, "transformer"), self.tokens)}
        rows = [row or " " for row in texts(raw, "transformer")]
        to = {"padding": True, "truncation": True, "max_length": self.max_length}
        found = self.tokens(rows, return_tensors="pt", **to)
        return {name: found[name] for name in self.tokens.model_input_names if name in found}

    def forward(self, inputs: dict[str, Tensor]) -> Float[Tensor, "batch dim"]:
        return self._run(inputs)[0]

    def with_maps(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The map is the grid of the last tokens, continued over what a centre crop cuts off."""
        features, hidden = self._run(inputs)
        to: Any = self.tokens
        return features, on_grid(hidden, (to.resize - to.crop) / (2 * to.resize))

    def _run(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Features [batch dim] and hidden states [batch token dim]."""
        if isinstance(self.tokens, Processor):
            hidden = self.model(pixel_values=inputs["pixel_values"].to(self.model.dtype))[0]
            mask = torch.ones_like(hidden[..., :1])  # [batch token 1]
        else:
            hidden = self.model(**inputs)[0]  # [batch token dim]
            mask = inputs["attention_mask"][..., None].to(hidden.dtype)
        if self.pooling == "cls":
            return hidden[:, 0], hidden
        return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1), hidden

    def config(self) -> dict[str, Any]:
        """The tokenizer's files are not in it: they lie beside the weights in a saved folder."""
        arguments = {"max_length": self.max_length, "pooling": self.pooling, "dropout": None}
        dtype = str(self.model.dtype).removeprefix("torch.")
        found = json.loads(self.model.config.to_json_string(use_diff=False))
        model = {n: v for n, v in found.items() if n[0] != "_" and "dtype" not in n}
        return {"class": "transformer", "arguments": arguments, "dtype": dtype, "model": model}


def transformer(
    folder: Path, max_length: int = LENGTH, pooling: Pooling = "mean", dropout: float | None = 0.0
) -> TransformerEncoder:
    """Opens a folder in the layout of transformers.

    `dropout` replaces every dropout rate of the model; None keeps them. `max_length` is bounded by
    what tokenizer and positions allow.
    """
    if not (folder / "config.json").is_file():
        raise TaskgroveError(
            f"{folder} has no config.json, so it is not a transformers folder"
            f" (it has: {listed(sorted(p.name for p in folder.iterdir()))})."
        )
    if not any(folder.glob("*.safetensors")):
        raise TaskgroveError(
            f"{folder} has no .safetensors file: save the model with save_pretrained(folder);"
            " pickled weights are never opened."
        )
    with quiet():
        config = _read(folder / "config.json", "AutoConfig", folder)
        check_config(config, folder)
        if dropout is not None:
            set_dropout(config, dropout)
        model = _weights(folder, config)
        if INPUTS[model.main_input_name] == "image":
            file = folder / "preprocessor_config.json"
            found = json.loads(file.read_text("utf8")) if file.is_file() else {}
            size = config.image_size
            tokens = processor(found, size if isinstance(size, int) else min(size))
        else:
            tokens = _tokenizer(folder)
    return TransformerEncoder(model, tokens, max_length, pooling)


def save_transformer(encoder: TransformerEncoder, folder: Path) -> None:
    """The folder opens with `AutoModel` and `AutoTokenizer`."""
    with quiet():
        encoder.model.save_pretrained(folder, max_shard_size="1000GB")
        if isinstance(encoder.tokens, Processor):
            text = json.dumps(settings(encoder.tokens), indent=2)
            (folder / "preprocessor_config.json").write_text(text, "utf8")
        else:
            encoder.tokens.save_pretrained(folder)


def _read(file: Path, door: str, folder: Path, **arguments: Any) -> Any:
    """Opens a folder by a door of transformers, never running code that lies in the folder.

    Whatever goes wrong becomes one sentence that names the file.
    """
    import transformers

    try:
        opens = getattr(transformers, door).from_pretrained
        return opens(folder, trust_remote_code=False, **arguments)
    except FAILURES as error:
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise TaskgroveError(f"{file} cannot be read by transformers: {reason}") from error


def _weights(folder: Path, config: PretrainedConfig) -> PreTrainedModel:
    file = min(folder.glob("*.safetensors"))
    how = {"config": config, "use_safetensors": True, "output_loading_info": True}
    model, found = _read(file, "AutoModel", folder, **how)
    if model.main_input_name not in INPUTS:
        raise TaskgroveError(
            f'{folder} reads "{model.main_input_name}", but a backbone reads text or pictures.'
        )
    missing = [name for name in found["missing_keys"] if UNUSED.isdisjoint(name.split("."))]
    if missing:
        raise TaskgroveError(
            f"{file} does not fit the config.json beside it: it lacks {listed(missing, 3)}."
        )
    return model.float()


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    tokens = _read(folder / "tokenizer.json", "AutoTokenizer", folder)
    tokens.padding_side = "right"
    if tokens.pad_token is None:
        tokens.pad_token = tokens.eos_token or tokens.unk_token
    return tokens


@contextmanager
def quiet() -> Iterator[None]:
    """transformers without its progress bars and reports, restored afterwards."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
