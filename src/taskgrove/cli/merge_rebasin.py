"""taskgrove merge rebasin: models without a common base, brought into one order."""

from pathlib import Path
from typing import Annotated

import typer


def rebasin(
    tuned: Annotated[
        list[Path], typer.Option("--tuned", help="Two or more model folders: --tuned A B.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the aligned models, one each.")
    ],
    seed: Annotated[int, typer.Option(help="Of the order in which layers are matched.")] = 0,
) -> None:
    """Permutes hidden units of models of one shape to match the first (Ainsworth et al. 2023).

    - `taskgrove merge rebasin --tuned A B --out aligned`
    - `taskgrove merge average --tuned aligned/A aligned/B --out merged`

    For models that were trained apart, so that their weights do not line up. Each aligned model
    computes exactly what it did. What may be permuted is found by tracing the model, and checked.
    """
    from taskgrove.methods.merge_rebasin import align_folders

    aligned = align_folders(tuned, out, seed=seed)
    print(aligned.symmetries)
    print(f"mean cosine of weight matrices: {aligned.before:.3f} before, {aligned.after:.3f} after")
    for folder in tuned:
        print(f"model    {out / folder.resolve().name}")
