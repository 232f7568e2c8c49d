"""The untouched pipeline that a template has read, for the workers forked from it: on a GPU its weights are lent."""

from __future__ import annotations

import gc
import logging
from typing import Any

import psutil

from tuner.hardware.telemetry import OwnUse
from tuner.knobs import baseline
from tuner.model import pipeline
from tuner.records.machine import Environment
from tuner.records.model import Model
from tuner.records.protocol import Job
from tuner.worker.fork_safety import succeeds_after_fork
from tuner.worker.holder import Holder, HolderFailed
from tuner.worker.host_memory import reset_peak_memory
from tuner.worker.lending import borrow, checksum, size_bytes, storages

log = logging.getLogger(__name__)

MAX_HOST_SHARE = 0.6
"""The largest share of the host's free memory that the template's copy of the weights may take."""

MAX_LENT_SHARE = 0.25
"""The largest share of a GPU's memory that lent weights may take. A worker that changes all of them has the rest."""


class Weights:
    """The pipeline of a study as it was read, and the process that holds its weights on the GPU.

    Without a pipeline each worker loads its own.
    """

    def __init__(self, model: Model, environment: Environment, dtype: str, pipe: Any = None) -> None:
        self.model = model
        self.environment = environment
        self.dtype = dtype
        self.pipe = pipe
        self.lender: Holder | None = None
        self.lent: set[int] = set()
        """Addresses of the lent storages that this process has borrowed."""

    @property
    def holder(self) -> int | None:
        """The process that holds the weights on the GPU."""
        return self.lender.pid if self.lender else None

    def own_use(self, job: Job) -> OwnUse:
        """Return what a study takes of the GPU beside the worker of this job."""
        return OwnUse(job.study_pid, self.lender.device_bytes if self.lender else 0, job.shares_device)

    def lend(self) -> None:
        """Move the weights to the GPU in a process that lends them. Without success workers copy them there."""
        try:
            self.lender = Holder(self.pipe, self.environment.device_memory_bytes, MAX_LENT_SHARE)
            if not can_borrow(self.pipe, self.lender):
                self.lender.close()
                raise HolderFailed("another process that borrowed them read something else")
        except HolderFailed as error:
            self.lender = None
            log.warning("weights are not lent, each worker copies them to the GPU: %s", error)

    def check(self) -> None:
        """Replace the holder if it died or a worker has overwritten lent weights."""
        if self.lender is not None and not self.lender.is_sound():
            log.warning("lent weights were overwritten or their holder died: they are lent again")
            self.lender.close()
            self.lender = None
            self.lend()

    def load(self, job: Job) -> Any:
        """Return the untouched pipeline of a job on its device. Called once, in the worker."""
        dtype = str(job.build["precision.dtype"])
        if self.pipe is None or (job.model, dtype) != (self.model, self.dtype):
            self._drop()
            return pipeline.load(job.model, job.environment, dtype)
        pipe, self.pipe = self.pipe, None
        if self.lender is not None:
            self.lent = borrow(pipe, self.lender.catalogue)
        return pipe.to(job.environment.device)

    def _drop(self) -> None:
        """Free the pipeline that came with the fork, and no longer count it in the peak of this process's memory."""
        if self.pipe is not None:
            self.pipe = None
            gc.unfreeze()
            gc.collect()
            reset_peak_memory()

    def lent_bytes(self, pipe: Any) -> int:
        """Return the bytes of lent weights that a pipeline uses."""
        if not self.lent:
            return 0
        return sum(storage.nbytes() for address, storage in storages(pipe).items() if address in self.lent)


def can_borrow(pipe: Any, lender: Holder) -> bool:
    """Return whether a forked process that borrows the weights finds them as they are."""
    return succeeds_after_fork(lambda: bool(borrow(pipe, lender.catalogue)) and checksum(pipe) == lender.sums)


def read_pipeline(job: Job) -> Any:
    """Read the untouched pipeline of jobs like this one into memory, or return None if it cannot be kept there.

    What cannot be read here is left to the workers, which report why.
    """
    try:
        pipe = pipeline.read(job.model, baseline_dtype(job))
    except Exception as error:
        log.warning("the pipeline could not be read here, each worker loads it: %s", error, exc_info=True)
        return None
    free_bytes = psutil.virtual_memory().available
    if size_bytes(pipe) > MAX_HOST_SHARE * (free_bytes + size_bytes(pipe)):
        log.warning("the weights do not fit twice into memory (%.0f GB free): each worker loads them", free_bytes / 1e9)
        return None
    return pipe


def prepare_weights(job: Job, pipe: Any) -> Weights:
    """Return what workers share of a pipeline that was read, with its weights lent if they are for a GPU."""
    weights = Weights(job.model, job.environment, baseline_dtype(job), pipe)
    if pipe is not None and job.environment.device == "cuda":
        weights.lend()
    return weights


def no_weights(job: Job) -> Weights:
    """Return the weights of a worker that was not forked from a template: it loads its own."""
    return Weights(job.model, job.environment, baseline_dtype(job))


def baseline_dtype(job: Job) -> str:
    """Return the type of numbers of the untouched pipeline."""
    return str(baseline(job.environment)["precision.dtype"])
