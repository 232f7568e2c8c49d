"""The template of workers: imports the libraries, reads the weights, and forks a worker for each request.

Run as `python -m tuner.worker.template FD JOB`: FD is a socket to the parent, JOB a file with a job like those to come.
The template never uses the GPU itself: CUDA does not survive a fork. When the parent goes, it ends with all that it
forked.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from select import select

import msgspec
import psutil

from tuner.records.codec import encode, read
from tuner.records.protocol import Forked, ForkRequest, Job, TemplateMessage, WorkerEnded
from tuner.worker import __main__ as worker
from tuner.worker.fork_safety import cuda_asleep, fork, unfit_reason
from tuner.worker.prctl import become_subreaper, die_with_parent
from tuner.worker.weights import Weights, prepare_weights, read_pipeline

LIBRARIES = (
    "diffusers", "transformers", "torch._dynamo", "torch.profiler", "torchao.quantization", "scipy.special",
    "scipy.stats", "torchmetrics", "PIL.Image",
)  # fmt: skip
"""What most workers import. Inductor is not among them: it starts processes of its own."""

MAX_MESSAGE_BYTES = 1 << 16


class Template:
    """The socket to the parent, the weights, and the workers that run."""

    def __init__(self, channel: socket.socket, weights: Weights, threads: int) -> None:
        self.channel = channel
        self.weights = weights
        self.threads = threads
        self.workers: dict[int, str] = {}
        """Marks of the running workers, by process."""

    def serve(self) -> None:
        """Fork a worker for each request until the parent goes, then end what was forked."""
        try:
            self._serve()
        finally:
            for child in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    child.kill()

    def _serve(self) -> None:
        become_subreaper()
        wake_up, self.wake_up = os.pipe()
        os.set_blocking(wake_up, False)
        os.set_blocking(self.wake_up, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wake_up)
        while True:
            ready, _, _ = select([self.channel.fileno(), wake_up], [], [])
            if wake_up in ready:
                os.read(wake_up, 4096)
                self.reap()
            if self.channel.fileno() in ready:
                self.weights.check()  # before a request is read, whose files a new holder would inherit
                data, descriptors, _, _ = socket.recv_fds(self.channel, MAX_MESSAGE_BYTES, 3)
                if not data:
                    return
                self.fork(msgspec.json.decode(data, type=ForkRequest), *descriptors)

    def fork(self, request: ForkRequest, messages: int, log: int, lifeline: int) -> None:
        """Fork a worker, which inherits the pipe for its messages, its log, and its lifeline as standard input."""
        pid = fork()
        if pid == 0:
            be_worker(self, request, messages, log, lifeline)
        for descriptor in (messages, log, lifeline):
            os.close(descriptor)
        self.workers[pid] = request.mark
        self.send(Forked(mark=request.mark, pid=pid))

    def reap(self) -> None:
        """Report the workers that have ended, and kill what they left behind."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid in self.workers:
                    mark = self.workers.pop(pid)
                    self.send(WorkerEnded(mark=mark, code=os.waitstatus_to_exitcode(status)))
        kept = {*self.workers, self.weights.holder}
        for child in psutil.Process().children():
            if child.pid not in kept:
                with contextlib.suppress(psutil.Error):
                    child.kill()

    def send(self, message: TemplateMessage) -> None:
        """Send a message to the parent, which may be gone."""
        with contextlib.suppress(OSError):
            self.channel.send(encode(message))


def be_worker(template: Template, request: ForkRequest, messages: int, log: int, lifeline: int) -> None:
    """Run a job in the forked process, and exit."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        become_subreaper()
        template.channel.close()
        for descriptor, place in ((lifeline, 0), (log, 1), (log, 2)):
            os.dup2(descriptor, place)
        os.environ["TUNER_WORKER"] = request.mark
        set_threads(template.threads)
        code = worker.main([request.job, str(messages)], template.weights)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def set_threads(threads: int) -> None:
    """Set how many threads an operator of torch uses."""
    import torch

    torch.set_num_threads(threads)


def main(arguments: list[str]) -> None:
    """Prepare everything that workers share, and serve."""
    gc.disable()  # what is imported stays, and to look through it again and again takes a tenth of the time
    die_with_parent(signal.SIGKILL)
    channel, job = socket.socket(fileno=int(arguments[0])), read(Path(arguments[1]), Job)
    import torch
    import tqdm

    threads = torch.get_num_threads()
    set_threads(1)  # a pool of threads would not survive the fork
    tqdm.tqdm.monitor_interval = 0  # and its progress bars would start one
    with cuda_asleep():
        for name in LIBRARIES:
            importlib.import_module(name)
        pipe = read_pipeline(job)
    gc.enable()
    reason = unfit_reason(job.environment, threads)
    if reason is not None:
        raise SystemExit(f"workers start afresh, this process must not be forked: {reason}")
    weights = prepare_weights(job, pipe)
    gc.collect()
    gc.freeze()
    die_with_parent(0)  # from here on it sees that the socket closes, and ends what it forked
    Template(channel, weights, threads).serve()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    main(sys.argv[1:])
