"""How fast a large trace is read and judged: `python tests/trace/bench_read.py [EVENTS]` (default 900,000, 200 MB).

The trace is written by this program in the layout of torch's exporter, every event inside the three marked steps; it
was not recorded. Each figure is taken on one core, in a process that does nothing else.
"""

from __future__ import annotations

import gzip
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from tuner.trace import gate, read
from tuner.trace.summary import summarise

STEPS = 3
PER_OPERATOR = 9
"""Events that one operator leaves: four nested operators, a launch, a kernel, two arrows, a second launch's call."""

KERNELS = (
    "nvjet_hsh_128x256_64x4_2x1_v_bz_coopA_TNT",
    "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<c10::BFloat16> >(int)",
    "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_3_64x128x128_4x1x1_kernel0_0",
)
EVENT = """  {
    "ph": "X", "cat": "%s", "name": "%s", "pid": %d, "tid": %d,
    "ts": %.3f, "dur": %.3f,
    "args": {
      %s
    }
  }"""
ARROW = """  {
    "ph": "%s", "id": %d, "pid": %d, "tid": %d, "ts": %.3f,
    "cat": "ac2g", "name": "ac2g"
  }"""
KERNEL_ARGS = (
    '"External id": %d,"queued": 0, "device": 0, "context": 1,"stream": 7, "correlation": %d,'
    '"registers per thread": 168,"shared memory": 213504,"blocks per SM": 1.0,"warps per SM": 12.0,'
    '"grid": [132, 1, 1],"block": [384, 1, 1],"est. achieved occupancy %%": 0,'
    '"priority": 0,"cooperative": 0,"graph node id": 0,"graph id": 0,"cluster": [2, 1, 1]'
)
T = TypeVar("T")


def events(count: int) -> Iterator[str]:
    """The marks and, operator after operator, what a profiled step is made of."""
    operators = count // PER_OPERATOR
    length = operators * 10.0 / STEPS
    for step in range(STEPS):
        for mark in ("ProfilerStep", "denoise_step"):
            yield EVENT % ("user_annotation", f"{mark}#{step + 2}", 100, 100, step * length, length, '"External id": 1')
    for index in range(operators):
        yield from operator(index, index * 10.0)


def operator(index: int, ts: float) -> Iterator[str]:
    own = f'"External id": {index + 2},"Record function id": 0, "Ev Idx": {index}'
    names = ("aten::linear", "aten::matmul", "aten::addmm", "aten::mm")
    for depth, name in enumerate(names):
        yield EVENT % ("cpu_op", name, 100, 100, ts + depth * 0.5, 9 - depth, own)
    call = f'"External id": {index + 2},"cbid": 211,"correlation": {index + 1}'
    yield EVENT % ("cuda_runtime", "cudaFuncGetAttributes", 100, 100, ts + 2.0, 0.5, '"cbid": 15')
    yield EVENT % ("cuda_runtime", "cudaLaunchKernelExC", 100, 100, ts + 2.5, 3.0, call)
    yield ARROW % ("s", index + 1, 100, 100, ts + 2.5)
    kernel_args = KERNEL_ARGS % (index + 2, index + 1)
    yield EVENT % ("kernel", KERNELS[index % len(KERNELS)], 0, 7, ts + 20.0, 8.0, kernel_args)
    yield ARROW % ("f", index + 1, 0, 7, ts + 20.0)


def write(path: Path, count: int) -> None:
    with path.open("w") as file:
        file.write('{"schemaVersion": 1, "deviceProperties": [{"id": 0, "name": "planted GPU"}], "traceEvents": [\n')
        for index, event in enumerate(events(count)):
            file.write((",\n" if index else "") + event)
        file.write('\n], "traceName": "planted"}')


def timed(name: str, work: Callable[[], T]) -> T:
    start, used = time.perf_counter(), time.process_time()
    result = work()
    print(f"{name:<28} {time.process_time() - used:6.2f} s of CPU, {time.perf_counter() - start:6.2f} s of wall time")
    return result


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        plain, zipped = Path(folder, "large.json"), Path(folder, "large.json.gz")
        write(plain, count)
        zipped.write_bytes(gzip.compress(plain.read_bytes(), compresslevel=1))
        print(f"{plain.stat().st_size / 1e6:.0f} MB, {zipped.stat().st_size / 1e6:.0f} MB gzipped")
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(f"{resident:.2f} GB at most while it was written")
        timed("gunzip alone", lambda: gzip.decompress(zipped.read_bytes()) and None)
        timed("read, gzipped", lambda: read.load(zipped) and None)
        trace = timed("read, plain", lambda: read.load(plain))
        verdict = timed("verdict", lambda: gate.judge_without_log(trace))
        timed("summary", lambda: summarise(trace))
        assert verdict.status == "clean"
    print(f"{trace.events} events; {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB at most")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 900_000)
