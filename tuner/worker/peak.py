"""The peak of the memory that one process of a worker used."""

from __future__ import annotations

from tuner.knobs.graphs import replays_cuda_graphs
from tuner.records.machine import Memory
from tuner.records.protocol import Job
from tuner.worker.host_memory import peak_memory_bytes


def reset(job: Job) -> None:
    """Forget the peak so far. On a CPU it counts from the start of the process."""
    if job.environment.device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()


def read(job: Job, lent_bytes: int = 0) -> Memory:
    """Return the peak of this process, with the weights on the GPU that were lent to it."""
    if job.environment.device == "cpu":
        return Memory(peak_bytes=peak_memory_bytes(), reserved_bytes=None)
    import torch

    reserved = torch.cuda.max_memory_reserved() + lent_bytes
    in_graphs = replays_cuda_graphs(job.build)  # a replay allocates nothing
    peak = reserved if in_graphs else torch.cuda.max_memory_allocated() + lent_bytes
    return Memory(peak_bytes=peak, reserved_bytes=reserved, lent_bytes=lent_bytes)
