"""The events of a trace that this package reads, by category, and how they lie in the file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import reduce
from operator import or_
from typing import Annotated, Any

import msgspec

STEP_MARKS = ("denoise_step#", "ProfilerStep#")
FIRST_STEP = "first_step"
SCHEDULER = "scheduler step"
MODULE = "nn.Module: "
SYNC_LINE = "sync at "
COPY_LINE = "copy at "
RUNTIME = frozenset(
    f"{device}_{layer}" for device in ("cuda", "hip", "xpu", "privateuse1") for layer in ("runtime", "driver")
)
HOST = frozenset({"cpu_op", "user_annotation"}) | RUNTIME
DEVICE = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})
PYTHON = "python_function"

_EARLIER_NAMES = {
    "Operator": "cpu_op",
    "Runtime": "cuda_runtime",
    "Kernel": "kernel",
    "Memcpy": "gpu_memcpy",
    "Memset": "gpu_memset",
}
"""The categories that torch 1.8 to 1.11 wrote."""

_OF_NO_CATEGORY = {"CPU functions": "cpu_op", "CUDA functions": "kernel"}
"""The processes of `torch.autograd.profiler` before Kineto, whose events have no category."""

_ACCELERATOR = re.compile(
    r"^(?!cuda_|hip_|cpu_|gpu_)([a-z]+\d*)_(?:runtime|driver|op|kernel|memcpy|memset|ccp_events|workloadd?|insight)$",
    re.IGNORECASE,
)
_OF_ASCEND = frozenset({"enqueue", "dequeue"})
_OTHER_PHASES = "BEiICbnesStTfFPMNODVvRcpu()"
"""The phases of the Chrome format other than complete events."""

_Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Args(msgspec.Struct, gc=False):
    """The arguments of an event that this package reads."""

    correlation: _Count = 0
    bytes: _Count = 0
    stack: str = msgspec.field(default="", name="Call stack")


class Event(msgspec.Struct, gc=False, tag_field="ph", tag="X"):
    """A complete event. Times in microseconds."""

    cat: str = ""
    name: str = ""
    ts: float = 0.0
    dur: float = 0.0
    pid: _Id | str = 0
    tid: _Id | str = 0
    args: Args | None = None

    @property
    def end(self) -> float:
        return self.ts + self.dur

    @property
    def correlation(self) -> int:
        return self.args.correlation if self.args else 0

    @property
    def bytes(self) -> int:
        return self.args.bytes if self.args else 0

    @property
    def stack(self) -> str:
        return self.args.stack if self.args else ""


# Flows, instants and thread names are a third of a trace, and none of their fields is needed.
_OTHERS = [msgspec.defstruct(f"Phase{ord(p)}", (), tag_field="ph", tag=p, gc=False) for p in _OTHER_PHASES]
ANY_EVENT: Any = reduce(or_, _OTHERS, Event)
TraceFile: Any = msgspec.defstruct(
    "TraceFile",
    [
        ("events", list[ANY_EVENT], msgspec.field(name="traceEvents")),
        ("gpus", Any, msgspec.field(name="deviceProperties", default=None)),
        ("earlier_gpus", Any, msgspec.field(name="computeProperties", default=None)),
        ("distributed", Any, msgspec.field(name="distributedInfo", default=None)),
    ],
)


class EventGroups(dict[str, Callable[[Event], None]]):
    """The events of the CPU, of the GPU and of Python. The keys are the categories that occur, each with its list."""

    def __init__(self, events: Iterable[Any]) -> None:
        super().__init__()
        self.host: list[Event] = []
        self.device: list[Event] = []
        self.frames: list[Event] = []
        for event in events:
            if type(event) is Event:
                self[event.cat](event)

    def __missing__(self, category: str) -> Callable[[Event], None]:
        self[category] = self._list(category)
        return self[category]

    @property
    def accelerator(self) -> str | None:
        """The name of an accelerator that is neither an NVIDIA nor an AMD GPU, if one occurs."""
        if not self.keys().isdisjoint(_OF_ASCEND):
            return "Ascend NPU"
        names = filter(None, map(_ACCELERATOR.match, self))
        name = next((match[1] for match in names), None)
        return "PrivateUse1" if name == "privateuse1" else name and name.upper()

    def _list(self, category: str) -> Callable[[Event], None]:
        if not category:
            return self._add_by_process
        if category in _EARLIER_NAMES:
            return self._add_renamed
        if category in HOST:
            return self.host.append
        return self.device.append if category in DEVICE else self._add_of_python

    def _add_renamed(self, event: Event) -> None:
        event.cat = _EARLIER_NAMES[event.cat]
        self._list(event.cat)(event)

    def _add_by_process(self, event: Event) -> None:
        event.cat = _OF_NO_CATEGORY.get(event.pid, "none") if isinstance(event.pid, str) else "none"
        self._list(event.cat)(event)

    def _add_of_python(self, event: Event) -> None:
        if event.name.startswith(MODULE):
            self.host.append(event)
        elif event.cat == PYTHON:
            self.frames.append(event)
