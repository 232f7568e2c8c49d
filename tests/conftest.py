"""Models with random weights that tests of the whole line share."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """A shell that starts the tests in the background has them ignore Ctrl-C, and what they start inherits that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a FLUX pipeline of random weights."""
    from tiny import write_tiny_flux

    folder = tmp_path_factory.mktemp("tiny") / "flux"
    write_tiny_flux(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_scorer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a CLIP model of random weights."""
    from tiny import write_tiny_clip

    folder = tmp_path_factory.mktemp("tiny") / "clip"
    write_tiny_clip(folder)
    return folder
