"""Ranks without a launcher: forked after the imports, with the environment that torchrun gives."""

import os
import signal
import socket
import sys
from collections.abc import Callable
from traceback import print_exc

import torch
import torch._dynamo  # what a first optimiser imports: seconds that a fork need not take


def forked(work: Callable[[], None], **environment: object) -> int:
    """A child that does the work and ends; its process number."""
    child = os.fork()
    if child == 0:
        os.environ.update({name: str(value) for name, value in environment.items()})
        try:
            work()
            os._exit(0)
        except BaseException:
            print_exc()
            sys.stderr.flush()
            os._exit(1)
    return child


def finished(child: int) -> bool:
    """Waits; True where it ended of itself, False where it was killed."""
    _, status = os.waitpid(child, 0)
    if status and not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
        raise SystemExit(f"a child failed with status {status}")
    return status == 0


def forked_ranks(work: Callable[[], None], count: int) -> None:
    """The same work by `count` ranks of one process group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free.getsockname()[1]}
    place |= {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}

    def rank() -> None:
        work()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    for child in [forked(rank, **place, RANK=n, LOCAL_RANK=n) for n in range(count)]:
        if not finished(child):
            raise SystemExit("a rank was killed")
