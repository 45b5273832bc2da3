"""taskgrove serve: a model, or several fused ones, behind an OpenAI-compatible address."""

from pathlib import Path
from typing import Annotated

import typer

from taskgrove.cli import fusion as f
from taskgrove.errors import TaskgroveError


def serve(
    folder: Annotated[
        Path | None,
        typer.Argument(help="One causal language model's folder.", show_default=False),
    ] = None,
    large: f.Large = None,
    small: f.Small = None,
    experts: f.Experts = None,
    method: f.Method = "random",
    alpha: f.Alpha = None,
    host: Annotated[str, typer.Option(help="Who may connect: this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any free one.")] = 8000,
    name: Annotated[
        str | None,
        typer.Option(help="The model's name. [default: its folder's]", show_default=False),
    ] = None,
) -> None:
    """Answers as OpenAI's server does: /v1/completions, /v1/chat/completions, /v1/models.

    - `taskgrove serve MODEL`
    - `taskgrove serve --large L --small S --experts E1 --experts E2 --port 8000`

    `stream`, `stop`, `max_tokens`, `temperature`, `top_p` and `seed` do what they say; what would
    change the answer and is not here (`tools`, `logprobs`, `n`) is refused. One answer is made at
    a time. There are no keys: keep it on this machine or behind a proxy.
    """
    if (folder is None) == (large is None):
        raise TaskgroveError(
            "serve needs one model folder, or --large with --small and --experts; see"
            " `taskgrove serve --help`."
        )
    if folder is not None and (small or experts):
        raise TaskgroveError(
            f"{folder} is one model by itself; expected --large {folder} beside --small and"
            " --experts."
        )
    rule = f.rule(method, alpha)
    if large is not None:
        small, experts = f.beside(small, experts)
    from taskgrove.composing.server import server
    from taskgrove.composing.voice import load_voice

    model = folder or large
    assert model is not None
    voice = load_voice(name or model.resolve().name, model, small, experts or [], rule)
    try:
        running = server(voice, host, port)
    except (OSError, OverflowError) as error:
        raise TaskgroveError(
            f"nothing can listen on {host} port {port} ({error}); choose another --port."
        ) from None
    address = f"http://{host}:{running.server_address[1]}/v1"
    print(f"{voice.name} answers at {address} (Ctrl-C ends)", flush=True)
    try:
        running.serve_forever()
    except KeyboardInterrupt:
        print("ended")
    finally:
        running.server_close()
