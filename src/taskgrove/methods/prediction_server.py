"""A server of predictions: rows of mixed tasks in, one batch, answers out.

    GET  /tasks, /health
    POST /predict   {"rows": [{"task": "topic", "text": "..."}, ...]}
                    -> {"predictions": [{"task", "prediction", "probabilities"}, ...]}

The rows of a request run as one batch whatever tasks they belong to. A mistake in a row is told
with status 400, and no row is answered. Requests take turns.
"""

import json
import threading
from http.server import ThreadingHTTPServer
from typing import Any

import pyarrow as pa

from taskgrove.composing.transport import WireError, http_server
from taskgrove.errors import did_you_mean, listed
from taskgrove.methods.mixed import common_inputs, say
from taskgrove.sharing.model import MultiTaskModel
from taskgrove.tasks.readers import from_table

MOST = 4096  # rows of a request


def prediction_server(model: MultiTaskModel, host: str, port: int) -> ThreadingHTTPServer:
    """Bound, not yet running. Port 0 takes a free one."""
    inputs, turn = common_inputs(model), threading.Lock()

    def get(path: str) -> dict[str, Any]:
        if path == "/health":
            return {"status": "ok"}
        if path == "/tasks":
            return {"inputs": list(inputs.columns), "tasks": _about(model)}
        raise WireError(f"there is no {path}; see /tasks.", status=404)

    def post(path: str, body: bytes) -> dict[str, Any]:
        if path != "/predict":
            raise WireError(f"there is no {path} to post to; post to /predict.", status=404)
        rows = _rows(model, list(inputs.columns), body)
        tasks = [row["task"] for row in rows]
        columns = {name: [row[name] for row in rows] for name in inputs.columns}
        part = from_table(pa.table(columns), inputs.columns, "the request")
        with turn:
            said = say(model, part, inputs, tasks)
        answers = [
            {"task": task, "prediction": answer, "probabilities": shares}
            for task, (answer, shares) in zip(tasks, said, strict=True)
        ]
        return {"predictions": answers}

    return http_server(host, port, get, post)


def _about(model: MultiTaskModel) -> dict[str, Any]:
    return {
        name: {"kind": task.kind, "classes": list(task.classes)}
        for name, task in model.tasks.items()
    }


def _rows(model: MultiTaskModel, columns: list[str], body: bytes) -> list[dict[str, Any]]:
    """The request's rows, checked."""
    try:
        asked = json.loads(body)
    except ValueError:
        raise WireError("the body is no JSON.") from None
    rows = asked.get("rows") if isinstance(asked, dict) else None
    if not isinstance(rows, list) or not rows or not all(isinstance(r, dict) for r in rows):
        raise WireError('expected {"rows": [{"task": ..., COLUMN: ...}, ...]} with a row or more.')
    if len(rows) > MOST:
        raise WireError(f"a request may have {MOST} rows, this has {len(rows)}.", "rows")
    only = next(iter(model.tasks)) if len(model.tasks) == 1 else None
    for n, row in enumerate(rows):
        task = row.setdefault("task", only)
        if task not in model.tasks:
            hint = did_you_mean(str(task), model.tasks)
            raise WireError(
                f'row {n} names the task "{task}"; there are {listed(model.tasks)}.{hint}', "rows"
            )
        lacking = [name for name in columns if name not in row]
        beyond = [name for name in row if name not in (*columns, "task")]
        if lacking or beyond:
            what = f'lacks "{lacking[0]}"' if lacking else f'has "{beyond[0]}"'
            raise WireError(f"row {n} {what}; expected task, {listed(columns)}.", "rows")
    return rows
