"""taskgrove generate: answers from several models at once."""

from pathlib import Path
from typing import Annotated

import typer

from taskgrove.cli import fusion as f
from taskgrove.errors import TaskgroveError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Answers from several models at once; their weights stay as they are.",
)


@app.callback()
def generate() -> None:
    """Keeps `logits-fusion` a command of its own."""


@app.command("logits-fusion")
def logits_fusion(
    prompts: Annotated[Path, typer.Option("--prompts", "-p", help='JSONL rows {"prompt": "..."}.')],
    out: Annotated[Path, typer.Option("--out", "-o", help="JSONL to write; a page beside it.")],
    large: f.Large = None,
    small: f.Small = None,
    experts: f.Experts = None,
    method: f.Method = "random",
    alpha: f.Alpha = None,
    column: Annotated[str, typer.Option(help="Where the prompt stands.")] = "prompt",
    max_new_tokens: Annotated[int, typer.Option(help="The longest answer.")] = 64,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Share of the probability that is kept.")] = 1.0,
    beams: Annotated[int, typer.Option(help="Of beam search.")] = 1,
    batch_size: Annotated[int, typer.Option(help="Prompts at a time.")] = 8,
    seed: Annotated[int, typer.Option(help="Makes sampling repeatable.")] = 0,
) -> None:
    """Lets a large model answer with the skills of small tuned ones, none of them changed.

    - `taskgrove generate logits-fusion --large L --small S --experts E1 E2 --prompts p.jsonl
      --out outputs.jsonl`

    What tuning changed in a small model's logits is added to the large model's, weighted anew at
    each token. Writes outputs with each token's weights, and `outputs.html`, where each token has
    the colour of the expert that moved it most. All models need one tokenizer and are loaded
    together.
    """
    rule = f.rule(method, alpha)
    if large is None:
        raise TaskgroveError("--large is missing; expected the large model's folder.")
    small, experts = f.beside(small, experts)
    if batch_size < 1:
        raise TaskgroveError(f"--batch-size is {batch_size}; expected 1 or more.")
    if out.suffix == ".html" or not out.parent.is_dir():
        raise TaskgroveError(
            f"--out is {out}; expected a JSONL file, such as outputs.jsonl, in a folder that"
            " exists."
        )
    from taskgrove.composing import answers
    from taskgrove.composing.context import check_room
    from taskgrove.composing.load import load_fused

    texts = answers.read_prompts(prompts, column)
    fused = load_fused(large, small, experts, rule)
    chosen = answers.options(max_new_tokens, temperature, top_p, beams, fused.tokenizer)
    models = [fused.large, fused.small, *fused.experts]
    check_room(models, fused.tokenizer, texts, max_new_tokens)
    names = f.names(experts)
    cost = answers.answer_file(fused, texts, out, names, chosen, batch_size, seed)
    speed = 1000 * cost.seconds / max(1, cost.tokens)
    print(f"{cost.prompts} answers, {cost.tokens} tokens, {speed:.1f} ms a token")
    print(f"each token: 1 forward of the large model, {len(experts) + 1} of small ones")
    print(f"outputs  {out}")
    print(f"page     {out.with_suffix('.html')}")
