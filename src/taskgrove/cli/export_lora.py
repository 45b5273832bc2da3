"""taskgrove export-lora: one task's LoRA as a folder that PEFT opens."""

from pathlib import Path
from typing import Annotated

import typer


def export_lora(
    folder: Annotated[Path, typer.Argument(help="A model folder with LoRA parts.")],
    task: Annotated[str, typer.Option("--task", "-t", help="Whose LoRA.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The new folder.")],
) -> None:
    """Writes a task's LoRA as PEFT does: adapter_config.json, adapter_model.safetensors.

    - `taskgrove export-lora runs/reviews/model --task topic --out topic-lora`

    The base is the folder `backbone/` inside the model folder, whose path is written down. The
    task's head stays in the model folder: PEFT has no place for it.
    """
    from taskgrove.backbones import TransformerEncoder
    from taskgrove.errors import TaskgroveError
    from taskgrove.sharing import peft_folder
    from taskgrove.sharing.folder import load

    model = load(folder)
    if model.sharing is None:
        raise TaskgroveError(
            f"{folder} has no parts of each task's own: train it with `taskgrove train lora`"
        )
    prefix = "model." if isinstance(model.trunks[0], TransformerEncoder) else ""
    base = str((folder / "backbone").resolve())
    peft_folder.export_lora(model.sharing, task, out, prefix=prefix, base=base)
    print(f"{out}: the LoRA of {task}, on {folder / 'backbone'}")
