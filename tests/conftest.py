"""Models with random weights that tests of the whole line share."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from drawing import own_process_state


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """A shell that starts the tests in the background has them ignore Ctrl-C, and what they start inherits that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.fixture
def process_state() -> Iterator[None]:
    """What knobs set for the whole process is put back."""
    with own_process_state():
        yield


@pytest.fixture
def only_dynamo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are captured for real and then run as they are: inductor's C++ takes 20 s a build and breaks no graph."""
    import torch
    from torch._inductor import compile_fx

    def run_as_captured(graph: Any, inputs: Any, *_: Any, **__: Any) -> Any:
        assert isinstance(graph, torch.fx.GraphModule)
        return graph.forward

    monkeypatch.setattr(compile_fx, "compile_fx", run_as_captured)
