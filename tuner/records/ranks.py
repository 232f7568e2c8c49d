"""Records that cross between the first process of a worker on several devices and the others: commands and reports."""

from __future__ import annotations

from typing import Literal

from tuner.records.codec import Count, PositiveCount, Record
from tuner.records.machine import Memory
from tuner.records.protocol import WorkerFailed


class Join(Record, tag="join"):
    """A command: join the group of processes by the store on this port of this host, and apply the knobs."""

    port: PositiveCount


class Draw(Record, tag="draw"):
    """A command: call the pipeline as the first process does. With `trace_folder` the call is profiled."""

    indices: tuple[Count, ...]
    steps: PositiveCount
    batch: PositiveCount
    output_type: Literal["pil", "np"]
    trace_folder: str | None = None


class ResetPeak(Record, tag="reset peak"):
    """A command: forget the peak of memory so far."""


class ReportPeak(Record, tag="report peak"):
    """A command: report the peak of memory."""


Command = Join | Draw | ResetPeak | ReportPeak


class Peak(Record, tag="peak"):
    """A report: the peak of a process's memory."""

    memory: Memory


class Traced(Record, tag="traced"):
    """A report: the file with the trace of a process."""

    file: str


Report = Peak | Traced | WorkerFailed
