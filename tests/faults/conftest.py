"""Studies to do harm to."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from faults.forked_tune import Commands
from faults.harness import Tune


@pytest.fixture(scope="session")
def no_pipeline(tiny_pipeline: Path) -> Path:
    """What the parent wants to see of a pipeline, for studies whose workers are simulated."""
    return tiny_pipeline


@pytest.fixture(scope="session")
def commands() -> Iterator[Commands]:
    """Where commands are forked from."""
    commands = Commands()
    yield commands
    commands.close()


@pytest.fixture
def quick_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, if the system has one with room: a study whose trials take no time waits for its disk."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or shutil.disk_usage(memory).free < 1 << 30:
        yield tmp_path
        return
    with TemporaryDirectory(dir=memory, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture
def tune(commands: Commands, quick_folder: Path, no_pipeline: Path) -> Iterator[Tune]:
    """A study with simulated workers."""
    tune = Tune(commands, quick_folder, no_pipeline)
    yield tune
    tune.end()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no disk can be mounted here: {getattr(error, 'stderr', b'').decode().strip() or error}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
