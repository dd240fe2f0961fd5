"""Train on every GPU of the pod: one process a GPU, which accelerate, beneath the Trainer, brings together."""

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
from torch import multiprocessing
from torch.multiprocessing.spawn import ProcessRaisedException, start_processes

from reviewloop.errors import ReviewLoopError

Figures = dict[str, float]

_LOOPBACK = "127.0.0.1"


def process_count() -> int:
    """How many processes train together, this one among them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def run_on_every_gpu(train: Callable[..., Figures], processes: int | None = None, **arguments: Any) -> Figures:
    """Call ``train(**arguments)`` in one process a GPU (or in so many), and return what the first returned.

    With at most one GPU it is called here. All must be picklable.

    Raises:
        ReviewLoopError: one of the processes raised it; the others are ended.
    """
    count = torch.cuda.device_count() if processes is None else processes
    if count <= 1:
        return train(**arguments)
    outcomes: Any = multiprocessing.get_context("spawn").SimpleQueue()
    try:
        start_processes(
            _train_as_one_of_several,
            args=(count, _free_port(), train, arguments, outcomes),
            nprocs=count,
            start_method="spawn",
        )
    except ProcessRaisedException:
        if not outcomes.empty() and isinstance(error := outcomes.get(), ReviewLoopError):
            raise error from None
        raise
    figures: Figures = outcomes.get()
    return figures


def _train_as_one_of_several(
    rank: int, count: int, port: int, train: Callable[..., Figures], arguments: dict[str, Any], outcomes: Any
) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(count),
        LOCAL_WORLD_SIZE=str(count),
        MASTER_ADDR=_LOOPBACK,
        MASTER_PORT=str(port),
    )
    if rank:
        arguments = arguments | {"report_progress": _say_nothing}
    try:
        figures = train(**arguments)
    except ReviewLoopError as error:
        outcomes.put(error)
        raise
    if rank == 0:
        outcomes.put(figures)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _say_nothing(line: str) -> None:
    pass


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((_LOOPBACK, 0))
        return int(listener.getsockname()[1])
