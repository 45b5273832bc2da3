"""What both sides share: encoders, batches, and the loop that answers the parent's questions.

Encoders are BERT's of transformers with random weights (seeded), 4 layers, vocabulary 1000, no
dropout; adapters have rank 8 and act on all linear layers (query, key, value, three denses). 64
adapters are in memory in all cases. A batch has 64 rows, sorted by task.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel

TASKS, BATCH, RANK, ALPHA, LAYERS = 64, 64, 8, 16.0, 4
LEAST = 0.3  # seconds of CPU that one measurement takes at least, in as many calls


@dataclass(frozen=True)
class Mix:
    """Which tasks a batch holds, in the order of their numbers, and how many rows of each."""

    tasks: tuple[int, ...]
    sizes: tuple[int, ...]


def mixes() -> dict[str, Mix]:
    """Even: N tasks, spread over the 64, equally many rows. Uneven: rows draw their task, from 16
    tasks with odds 1, 1/2, ... 1/16 or from all 64 with equal odds, so that some are absent."""
    found = {
        f"N={n}": Mix(tuple(range(0, TASKS, TASKS // n)), (BATCH // n,) * n) for n in (1, 16, 64)
    }
    generator = torch.Generator().manual_seed(0)
    for n in (16, 64):
        odds = 1 / torch.arange(1.0, n + 1) if n == 16 else torch.ones(n)
        drawn = torch.multinomial(odds, BATCH, replacement=True, generator=generator)
        tasks, sizes = torch.unique(drawn * (TASKS // n), return_counts=True)
        found[f"N={n} uneven"] = Mix(tuple(tasks.tolist()), tuple(sizes.tolist()))
    return found


def encoder(dim: int) -> BertModel:
    """The same weights on both sides."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=1000, hidden_size=dim, num_hidden_layers=LAYERS, num_attention_heads=dim // 64,
        intermediate_size=4 * dim, max_position_embeddings=16, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return BertModel(config, add_pooling_layer=False).eval()


def tokens(seq: int) -> Tensor:
    """[row token]."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(1000, (BATCH, seq), generator=generator)


def train(model: nn.Module, ids: Tensor, signal: Tensor) -> None:
    """Forward and backward of a linear loss."""
    (model(input_ids=ids).last_hidden_state * signal).sum().backward()


def drop_gradients(parameters: Sequence[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = None


def answer(ways: dict[str, Callable[[], object]], facts: dict[str, object]) -> None:
    """Prints the ways and facts, then answers each line of standard input, a way's name, by the
    CPU seconds of a call, or, behind "flops ", by the FLOPs of its matrix products."""
    torch.set_num_threads(1)
    own = {torch.ops.aten.baddbmm_: in_place}
    print(json.dumps({"ways": list(ways), **facts}), flush=True)
    for line in sys.stdin:
        name = line.strip()
        if name.startswith("flops "):
            with FlopCounterMode(display=False, custom_mapping=own) as counter:
                ways[name.removeprefix("flops ")]()
            print(json.dumps(counter.get_total_flops()), flush=True)
        else:
            print(json.dumps(seconds(ways[name])), flush=True)


def in_place(y: Sequence[int], h: Sequence[int], B: Sequence[int], **_: object) -> int:
    """FLOPs of y += h B by the three shapes: torch's counter does not know the form in place."""
    return 2 * y[0] * h[1] * h[2] * B[2]


def seconds(run: Callable[[], object]) -> float:
    """CPU seconds of a call: the least of at least two, the first left out."""
    run()
    best, spent, calls = float("inf"), 0.0, 0
    while spent < LEAST or calls < 2:
        best, calls = min(best, took := once(run)), calls + 1
        spent += took
    return best


def once(run: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    run()
    return time.process_time() - start
