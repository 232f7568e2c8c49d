"""A real worker on a real pipeline: what fails inside it has the right name, and after it the next one is healthy."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from faults.harness import MARK, SPACE, end, marked, wait_until
from faults.sabotaged_tune import TEMPLATE, WORKER
from forked import ForkedWorkers
from one_job import run_job

from tuner.execution import launch, template
from tuner.hardware import environment
from tuner.model import pipeline
from tuner.records.codec import Value, encode
from tuner.records.outcome import Failure
from tuner.records.protocol import BuildDone, Job, Message, Point, PointDone, PointFailed, WorkerFailed
from tuner.space import reader
from tuner.space.candidates import build_values

PARENT = """
import sys
from pathlib import Path
from one_job import run_job
from tuner.records.codec import read
from tuner.records.protocol import Job
run_job(read(Path(sys.argv[1]), Job), Path(sys.argv[3]), Path(sys.argv[2]))
"""


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Marks the workers of this test, and makes sure that none is left."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    yield mark
    left = marked(mark)
    end(mark)
    assert left == []


@pytest.fixture
def make_job(tmp_path: Path, tiny_pipeline: Path, tiny_scorer: Path) -> Callable[..., Job]:
    """One build of the tiny pipeline, or of a copy with other weights, and one point to measure on it."""

    def make(model: Path = tiny_pipeline, pixels: int = 32, trace: bool = False, **build: Value) -> Job:
        here = environment.detect("cpu")
        found, kind = pipeline.resolve(str(model), None, str(tiny_scorer))
        known = reader.load(SPACE, kind, here)
        different = {name.replace("__", "."): value for name, value in build.items()}
        return Job(
            model=found,
            environment=here,
            workload=msgspec.structs.replace(known.workload, height=pixels, width=pixels),
            build=build_values(known.candidate(different)),
            points=(Point(index=0, folder=str(tmp_path / "trial"), steps=2, batch=1),),
            allowance_s=0.1,
            trace=trace,
        )

    return make


def run(job: Job, tmp_path: Path) -> list[Message]:
    return run_job(job, tmp_path / "cache", tmp_path / "trial")


def failure(received: list[Message]) -> Failure:
    """The one failure among the messages, which is the last of them."""
    failures = [message.failure for message in received if isinstance(message, (PointFailed, WorkerFailed))]
    assert len(failures) == 1, received
    assert isinstance(received[-1], (PointFailed, WorkerFailed))
    return failures[0]


def spoil(model: Path, folder: Path, change: Callable[[str, object], object]) -> Path:
    """A copy of the pipeline whose VAE has changed weights."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, folder)
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({name: change(name, tensor) for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    return folder


def compiler(file: Path, does: str) -> str:
    """A C++ compiler that has a version, and apart from that does something else."""
    file.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then exec g++ --version; fi\n{does}\n')
    file.chmod(0o755)
    return str(file)


@pytest.mark.slow
def test_out_of_memory_and_then_a_healthy_worker(
    forked: ForkedWorkers, make_job: Callable[..., Job], tmp_path: Path
) -> None:
    job = make_job()
    workload = msgspec.structs.replace(job.workload, arguments={"num_images_per_prompt": 1 << 40})
    found = failure(forked.run(msgspec.structs.replace(job, workload=workload), tmp_path / "trial"))
    assert (found.kind, found.stage) == ("out of memory", "first call")
    assert "memory" in found.message
    received = forked.run(make_job(), tmp_path / "trial")
    assert isinstance(received[-1], PointDone), received


def test_nan_weights_are_an_invalid_image(
    forked: ForkedWorkers, make_job: Callable[..., Job], tmp_path: Path, tiny_pipeline: Path
) -> None:
    def nan(name: str, tensor: object) -> object:
        return tensor * float("nan") if name.startswith("decoder.conv_out") else tensor  # type: ignore[operator]

    found = failure(forked.run(make_job(spoil(tiny_pipeline, tmp_path / "nan", nan)), tmp_path / "trial"))
    assert (found.kind, found.stage) == ("invalid image", "score")


@pytest.mark.slow
def test_a_cache_that_skips_nothing_has_no_effect_and_one_that_skips_says_how_much(
    forked: ForkedWorkers, make_job: Callable[..., Job], tmp_path: Path
) -> None:
    found = failure(forked.run(make_job(cache__kind="first-block", cache__threshold=1e-9), tmp_path / "trial"))
    assert (found.kind, found.stage, found.knob) == ("no effect", "score", "cache.kind")
    assert re.fullmatch(
        r"cache.kind=first-block: it skipped nothing in \d+ steps, as if it were not set", found.message
    )
    done = forked.run(make_job(cache__kind="first-block", cache__threshold=1.9), tmp_path / "skips")[-1]
    assert isinstance(done, PointDone) and done.skipped_share == 0.5, "the second of two steps"


def test_constant_images_are_invalid(
    forked: ForkedWorkers, make_job: Callable[..., Job], tmp_path: Path, tiny_pipeline: Path
) -> None:
    def zero(name: str, tensor: object) -> object:
        return tensor * 0 if name.startswith("decoder.conv_out") else tensor  # type: ignore[operator]

    found = failure(forked.run(make_job(spoil(tiny_pipeline, tmp_path / "zero", zero)), tmp_path / "trial"))
    assert (found.kind, found.stage) == ("invalid image", "score")
    assert "constant" in found.message


def test_a_missing_package_is_unavailable(
    mark: str, make_job: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "WORKER", WORKER)
    monkeypatch.setenv("TUNER_FAULTS", '{"*": "missing package@load"}')
    found = failure(run(make_job(), tmp_path))
    assert (found.kind, found.stage) == ("unavailable", "load")
    assert "diffusers" in found.message


def test_a_failing_compiler_and_a_full_disk_have_their_names(
    mark: str, make_job: Callable[..., Job], tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers of one template, whose environment they inherit: the first never comes to its images."""
    monkeypatch.setattr(template, "TEMPLATE", TEMPLATE)
    monkeypatch.setenv("TUNER_TEMPLATE", "1")
    monkeypatch.setenv("CXX", compiler(tmp_path / "g++", "echo no such luck >&2; exit 1"))
    monkeypatch.setenv("TUNER_FAULTS", '{"*": "disk@score"}')
    monkeypatch.setenv("TUNER_DISK", str(disk))
    sabotaged = ForkedWorkers(tmp_path)
    try:
        compiled = failure(sabotaged.run(make_job(compile__scope="regional"), tmp_path / "trial"))
        assert (compiled.kind, compiled.stage) == ("compile error", "compile"), compiled
        job = make_job()
        points = (msgspec.structs.replace(job.points[0], folder=str(disk)),)
        found = failure(sabotaged.run(msgspec.structs.replace(job, points=points), tmp_path / "full"))
        assert (found.kind, found.stage) == ("disk full", "score")
    finally:
        sabotaged.close()


@pytest.mark.slow
def test_worker_and_compilers_end_with_their_parent(mark: str, make_job: Callable[..., Job], tmp_path: Path) -> None:
    job = tmp_path / "job.json"
    job.write_bytes(encode(make_job(compile__scope="regional")))
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(job), str(tmp_path / "trial"), str(tmp_path / "cache")],
        env=os.environ | {"CXX": compiler(tmp_path / "g++", "sleep 3600"), "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_until(lambda: [process for process in marked(mark) if "sleep" in process.name()], 120)
        time.sleep(0.5)
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: not marked(mark), 10)


def test_a_graph_that_breaks_is_rejected_at_its_line_and_inductor_is_not_asked(
    make_job: Callable[..., Job], tmp_path: Path, forked: ForkedWorkers
) -> None:
    job = make_job(trace=True, compile__scope="full", cache__kind="first-block", cache__threshold=0.1)
    (done,) = [message for message in forked.run(job, tmp_path / "trial") if isinstance(message, BuildDone)]
    assert done.build.verdict is not None
    assert done.build.verdict.status == "rejected"
    (finding,) = done.build.verdict.undeclared()
    assert (finding.kind, finding.source.partition(":")[0]) == ("graph break", "diffusers/hooks/first_block_cache.py")
    assert finding.count == finding.count_per_step * 3 > 0
    assert len(list((tmp_path / "trial").glob("denoise.*.pt.trace.json.gz"))) == 1
    assert not list(forked.cache.rglob("*.so")), "compiled"
