"""taskgrove serve: a language model, or several fused ones, as OpenAI's server; or predictions."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from taskgrove.cli import fusion as f
from taskgrove.errors import TaskgroveError


def serve(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="A causal language model's folder, or one that `train` wrote.", show_default=False
        ),
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
    - `taskgrove serve runs/reviews/model`       predictions: POST /predict, rows of mixed tasks

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
    model = folder or large
    assert model is not None
    name = name or model.resolve().name
    if folder is not None and (folder / "taskgrove.json").is_file():
        from taskgrove.methods.prediction_server import prediction_server
        from taskgrove.sharing.folder import load

        listen, path = partial(prediction_server, load(folder)), "predict"
    else:
        from taskgrove.composing.server import server
        from taskgrove.composing.voice import load_voice

        listen, path = partial(server, load_voice(name, model, small, experts or [], rule)), "v1"
    try:
        running = listen(host, port)
    except (OSError, OverflowError) as error:
        raise TaskgroveError(
            f"nothing can listen on {host} port {port} ({error}); choose another --port."
        ) from None
    address = f"http://{host}:{running.server_address[1]}/{path}"
    print(f"{name} answers at {address} (Ctrl-C ends)", flush=True)
    try:
        running.serve_forever()
    except KeyboardInterrupt:
        print("ended")
    finally:
        running.server_close()
