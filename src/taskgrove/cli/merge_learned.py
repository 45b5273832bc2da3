"""taskgrove merge adamerging, taskgrove merge self_positioning: merges that learn."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Tuned = Annotated[
    list[Path], typer.Option("--tuned", help="The tuned models: --tuned A B C.", show_default=False)
]
Base = Annotated[Path, typer.Option("--base", "-b", help="The model they were tuned from.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of the merged model.")]
Steps = Annotated[int, typer.Option(help="Each takes a batch of every task.")]
Seed = Annotated[int, typer.Option(help="Of the order of the rows.")]


def adamerging(
    base: Base,
    tuned: Tuned,
    unlabelled: Annotated[
        list[Path],
        typer.Option("--unlabelled", help="A file of rows for each model, in the same order."),
    ],
    out: Out,
    text: Annotated[
        list[str] | None, typer.Option(help="The column of texts, or two of a pair.")
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(help="A column of classes, to report accuracy; never learned from."),
    ] = None,
    steps: Steps = 40,
    learning_rate: Annotated[
        float, typer.Option(help="A coefficient moves about so far in a step.")
    ] = 1e-2,
    batch_size: Annotated[int, typer.Option(help="Rows of each task in a step.")] = 16,
    granularity: Annotated[
        Literal["tensor", "task"], typer.Option(help="A coefficient a model and what.")
    ] = "tensor",
    init: Annotated[float, typer.Option(help="Of every coefficient.")] = 0.3,
    plus: Annotated[bool, typer.Option("--plus", help="AdaMerging++: trimmed by TIES.")] = False,
    max_length: Annotated[int, typer.Option(help="Tokens of a row that are read.")] = 128,
    seed: Seed = 0,
) -> None:
    """Learns each model's coefficient in each tensor from rows without labels (Yang et al. 2024).

    - `taskgrove merge adamerging --base B --tuned A1 A2 --unlabelled t1.csv t2.csv --out M`

    For encoders, classifiers (each keeps its own head, in `M/heads`) and causal language models
    of transformers. Task vectors stay on disk. Writes coefficients and a heat map, too. A run that
    was stopped goes on with the same command.
    """
    from taskgrove.cli import options as o
    from taskgrove.methods.learned_report import Learning, told
    from taskgrove.methods.merge_learned import merge_learned

    how = Learning(
        steps, learning_rate, batch_size, granularity, init, plus, max_length=max_length, seed=seed
    )
    with o.bar() as bar:
        found = merge_learned(
            base,
            tuned,
            unlabelled,
            out,
            tuple(text or ["text"]),
            label,
            how,
            lambda done, of, entropy: bar.tell("merge", "adamerging", done / of, {"H": entropy}),
        )
    print(told(found))
    print(f"model    {out}")


def self_positioning(
    base: Base,
    tuned: Tuned,
    probe: Annotated[
        list[Path],
        typer.Option("--probe", help="CSV or JSONL pairs of all tasks, as many of each."),
    ],
    out: Out,
    steps: Steps = 60,
    learning_rate: Annotated[float, typer.Option(help="Adam's.")] = 0.03,
    batch_size: Annotated[int, typer.Option(help="Pairs of each task in a step.")] = 16,
    temperature: Annotated[float, typer.Option(help="Of the cosines.")] = 0.05,
    beta: Annotated[float, typer.Option(help="Weight of the distance from the base.")] = 0.0,
    relative: Annotated[
        bool, typer.Option("--relative", help="Divide each task's loss by its value at the base.")
    ] = False,
    max_length: Annotated[
        int | None, typer.Option(help="Tokens of a text. [default: the models']")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Merges embedding models at the point of their span that a probe likes best (Li et al. 2024).

    - `taskgrove merge self_positioning --base B --tuned A1 A2 --probe probe.jsonl --out M`

    A probe row is `query, positive[, negative]` or `a, b, score`, with a `task` column or a file
    for each task. Half of the probe learns weights and a scale, the other half judges them.
    """
    from taskgrove.cli import options as o
    from taskgrove.methods.merge_embeddings import merge_embeddings, told

    with o.bar() as bar:
        found = merge_embeddings(
            base,
            tuned,
            probe,
            out,
            steps,
            learning_rate,
            batch_size,
            temperature,
            beta,
            relative,
            max_length,
            seed,
            lambda done, of: bar.tell("merge", "self_positioning", done / of, {}),
        )
    print(told(found))
    print(f"model    {out}")
