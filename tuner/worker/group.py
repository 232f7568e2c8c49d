"""The group of processes in which ranks exchange tensors."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

HOST = "127.0.0.1"
EXCHANGE_LIMIT = timedelta(hours=2)
"""Longer than any stage's deadline, which ends a worker whose exchanges hang."""


def open_store() -> Any:
    """Open the store by which ranks find each other, on a free port of this host."""
    from torch.distributed import TCPStore

    return TCPStore(HOST, 0, is_master=True, wait_for_workers=False)


def find_store(port: int) -> Any:
    """Return the store that rank 0 opened on a port of this host."""
    from torch.distributed import TCPStore

    return TCPStore(HOST, port, is_master=False)


def join_group(store: Any, rank: int, count: int, device: str) -> None:
    """Join the group of all ranks, on an equal share of the CPU's threads."""
    import torch
    from torch import distributed

    torch.set_num_threads(max(1, torch.get_num_threads() // count))
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=EXCHANGE_LIMIT)
