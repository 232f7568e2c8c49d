"""Models with random weights that tests of the whole line share."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from drawing import own_process_state
from forked import ForkedWorkers
from inline_study import Bench, MemoryStudies, Workers
from machine import Machine

gc.disable()  # until all is collected: what is imported and parametrized stays, and was looked through again and again
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of processes would each compile this package

if "PYTEST_XDIST_WORKER" in os.environ:
    # Two processes whose threads wait for each other take five times as long.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

CORE = ("flux", "sdxl")
"""Families on which every knob is tried each time: a transformer and a UNet. The others are for -m exhaustive."""


FIRST = (
    "test_end_to_end.py", "test_prediction.py", "test_quality.py",
    "test_families.py", "test_compile.py", "test_compiled.py", "test_cache.py", "test_inductor.py", "test_memory.py",
    "test_graphs.py", "test_knobs.py", "test_schedule.py", "test_quantization.py", "test_disk_full.py",
    "test_parent_dies.py", "test_worker_dies.py", "test_damaged_study.py", "test_bench_knobs.py", "test_real_worker.py",
    "test_viewer_in_browser.py", "test_matrix.py", "test_pipelines.py", "test_lora.py",
    "test_worker.py", "test_gate.py", "test_vae.py", "test_attention.py", "test_shipped.py", "test_study.py",
    "test_study_confirmation.py",
)  # fmt: skip
"""Files that start first: the study that has a core of its own, and beside it those with tests that want the machine to
themselves and those whose tests are one process; then the longest, so that none is left at the end."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(FIRST)))
    for item in items:
        chosen = getattr(item, "callspec", None)
        family = chosen.params.get("family") if chosen is not None else None
        if isinstance(family, str) and family not in CORE and item.path.name != "test_pipelines.py":
            item.add_marker("exhaustive")
        if item.path.name == "test_families.py" and chosen and is_tried_elsewhere(chosen.params.get("name"), family):
            item.add_marker("exhaustive")


def is_tried_elsewhere(knob: str | None, family: str) -> bool:
    """Whether a file of its own has each value of a knob once, on FLUX. Only here is a UNet captured whole."""
    is_graph = str(knob).startswith(("inductor.", "compile.", "graphs."))
    return is_graph and (knob, family) != ("compile.scope", "sdxl")


def pytest_collection_finish() -> None:
    """Leave what was collected and imported out of the garbage collections of all tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    gc.enable()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA GPU")


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the processes of a test run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def machine(shared_folder: Path) -> Machine:
    """The machine that the processes of a test run share."""
    return Machine(shared_folder)


@pytest.fixture(autouse=True)
def turn(request: pytest.FixtureRequest, machine: Machine) -> Iterator[None]:
    """Tests share the machine, but for those that measure it."""
    if request.node.get_closest_marker("own_core"):
        yield
    else:
        with machine.alone() if request.node.get_closest_marker("alone") else machine.shared():
            yield


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """A shell that starts the tests in the background has them ignore Ctrl-C, nohup has them ignore that a terminal
    closes, and what they start would inherit that. It does not inherit a handler that does nothing."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)


@pytest.fixture(scope="session", autouse=True)
def compiled_code(shared_folder: Path) -> None:
    """What inductor compiles, and what it finds out about the compiler in ten seconds, is for all tests of this run."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(shared_folder / "inductor")
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # processes that compile import torch first, in each process


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's tiny pipeline of random weights, written when it is first asked for."""
    from pipelines import write

    root = tmp_path_factory.mktemp("pipelines")

    @cache
    def folder(family: str) -> Path:
        write(family, root / family)
        return root / family

    return folder


@pytest.fixture(scope="session")
def tiny_pipeline(pipeline_folder: Callable[[str], Path]) -> Path:
    """A folder with a FLUX pipeline of random weights."""
    return pipeline_folder("flux")


@pytest.fixture(scope="session")
def tiny_scorer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a CLIP model of random weights."""
    from tiny import write_tiny_clip

    folder = tmp_path_factory.mktemp("tiny") / "clip"
    write_tiny_clip(folder)
    return folder


@pytest.fixture(scope="session")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkedWorkers]:
    """Workers that need not import the libraries. Their environment is that of the first test that uses them."""
    workers = ForkedWorkers(tmp_path_factory.mktemp("forked"))
    yield workers
    workers.close()


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Workers:
    """The work of an inline executor. Optuna's database is in memory except for tests that use `real_database`."""
    monkeypatch.setattr("tuner.search.optuna_sampler.MAX_KNOWN_PROPOSALS", 10)
    monkeypatch.setattr("tuner.board.trial_events.write_row", lambda *_: None)
    monkeypatch.setattr("tuner.board.events_file.write_images", lambda *_: None)
    if "real_database" not in request.fixturenames:
        studies = MemoryStudies()
        monkeypatch.setattr("tuner.study.store.open_study", studies.open)
        monkeypatch.setattr("tuner.study.trial_rows.write", studies.write)
    return Workers()


@pytest.fixture
def real_database() -> Iterator[None]:
    """Inline studies write their study.db, which most of their time goes to, but do not wait for the disk."""
    from sqlalchemy import Engine, event

    def do_not_wait(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", do_not_wait)
    yield
    event.remove(Engine, "connect", do_not_wait)


@pytest.fixture
def bench(tmp_path: Path, workers: Workers) -> Bench:
    """Studies in one folder, with that executor."""
    return Bench(tmp_path, workers)


@pytest.fixture(scope="session")
def recorded_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished study with made-up workers and a refused candidate: copy it to change it."""
    from faults.sabotaged_tune import EMPTY_PANEL

    bench = Bench(tmp_path_factory.mktemp("recorded"), Workers())
    bench.strategy = "tpe"  # begins with the recipe, and tries whole rows
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tuner.search.optuna_sampler.MAX_KNOWN_PROPOSALS", 10)
        patch.setattr("tuner.study.finalists.EXAMINER", (sys.executable, "-c", EMPTY_PANEL))
        with bench.study(trials=10) as study:
            study.run()
            values = study.history.space.candidate({})
            study.store.refuse(study.store.enter(values), values, "compile.mode needs compile.scope")
    return bench.folder / "study"


@pytest.fixture
def study_copy(recorded_study: Path, tmp_path: Path) -> Path:
    """A copy of the finished study."""
    return Path(shutil.copytree(recorded_study, tmp_path / "study"))


@pytest.fixture
def process_state() -> Iterator[None]:
    """What knobs set for the whole process is put back."""
    with own_process_state():
        yield


@pytest.fixture
def only_dynamo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are captured for real and then run as they are: inductor's C++ takes 20 s a build and breaks no graph.

    How long guards take, which torch logs, is not measured: it empties the processor's caches for that.
    """
    import torch
    from torch._dynamo import guards
    from torch._inductor import compile_fx

    def run_as_captured(graph: Any, inputs: Any, *_: Any, **__: Any) -> Any:
        assert isinstance(graph, torch.fx.GraphModule)
        return graph.forward

    monkeypatch.setattr(compile_fx, "compile_fx", run_as_captured)
    monkeypatch.setattr(guards, "profile_guard_manager", lambda *_: 0.0)
