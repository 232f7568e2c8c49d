"""The process that holds a pipeline's weights on the GPU and lends them."""

from __future__ import annotations

import contextlib
import os
import signal
import traceback
from select import select
from typing import Any, NoReturn

import msgspec

from tuner.records.codec import Record, encode
from tuner.records.protocol import LentWeights
from tuner.worker.fork_safety import fork
from tuner.worker.lending import checksum, lend, size_bytes
from tuner.worker.prctl import die_with_parent

START_S = 300.0
CHECK_S = 30.0


class HolderFailed(Exception):
    """The weights cannot be lent."""


class Lent(Record):
    """What the holder reports when the weights are on the GPU, or why they are not."""

    catalogue: LentWeights | None = None
    sums: tuple[int, ...] = ()
    device_bytes: int = 0
    failure: str = ""


class Holder:
    """A process forked from the template, with the weights on the GPU until it is killed."""

    def __init__(self, pipe: Any, device_memory_bytes: int | None, max_share: float) -> None:
        """Fork the holder and wait until it lends. Raises HolderFailed saying why it does not."""
        size = size_bytes(pipe)
        if device_memory_bytes is not None and size > max_share * device_memory_bytes:
            raise HolderFailed(f"{size / 1e9:.0f} GB of weights beside a copy do not fit into the GPU's memory")
        self.reading, writing = os.pipe()
        question, self.asking = os.pipe()
        self.pid = fork()
        if self.pid == 0:
            os.close(self.reading)
            os.close(self.asking)
            hold(pipe, question, writing)
        os.close(question)
        os.close(writing)
        lent = self._first_report()
        if lent is None or lent.catalogue is None:
            self.close()
            raise HolderFailed(lent.failure if lent else f"their holder died, or lent nothing within {START_S:.0f} s")
        self.catalogue = lent.catalogue
        self.sums = lent.sums
        self.device_bytes = lent.device_bytes

    def _first_report(self) -> Lent | None:
        data = b""
        while not data.endswith(b"\n"):
            if not select([self.reading], [], [], START_S)[0]:
                return None
            part = os.read(self.reading, 1 << 16)
            if not part:
                return None
            data += part
        return msgspec.json.decode(data, type=Lent)

    def is_sound(self) -> bool:
        """Return whether the holder lives and its weights are as they were."""
        with contextlib.suppress(OSError):
            os.write(self.asking, b"?")
            if select([self.reading], [], [], CHECK_S)[0]:
                return os.read(self.reading, 1) == b"y"
        return False

    def close(self) -> None:
        """Kill the process, which frees its memory once no worker uses it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        os.close(self.reading)
        os.close(self.asking)


def hold(pipe: Any, question: int, answer: int) -> NoReturn:
    """Move the weights to the GPU, report them, and answer whether they are unchanged. Never returns."""
    try:
        die_with_parent(signal.SIGKILL)
        lent, sums = put_on_gpu(pipe)
        _write(answer, encode(lent) + b"\n")
        while os.read(question, 1):
            _write(answer, b"y" if checksum(pipe) == sums else b"n")
    except BaseException as error:
        traceback.print_exc()
        with contextlib.suppress(OSError):
            _write(answer, encode(Lent(failure=f"{type(error).__name__}: {error}")) + b"\n")
    finally:
        os._exit(0)


def put_on_gpu(pipe: Any) -> tuple[Lent, tuple[int, ...]]:
    """Return the report on a pipeline that was moved to the GPU, and the checksum of its weights."""
    import torch

    before, _ = torch.cuda.mem_get_info()
    pipe.to("cuda")
    sums = checksum(pipe)
    torch.cuda.empty_cache()
    torch.cuda.synchronize()
    catalogue = lend(pipe)
    after, _ = torch.cuda.mem_get_info()
    return Lent(catalogue=catalogue, sums=sums, device_bytes=max(0, before - after)), sums


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
