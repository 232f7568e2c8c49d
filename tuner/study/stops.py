"""Failures of a worker that end the study: they say nothing of its configuration."""

from __future__ import annotations

import shutil
from pathlib import Path

from tuner.errors import StorageFull, StudyFailed
from tuner.files import full_disk_message
from tuner.records.outcome import Failure

MIN_FREE_BYTES = 1 << 20
"""With less room than this a worker's failure is the disk's, whatever it looks like."""


def stop_if_throttled(failure: Failure) -> None:
    """Raise StudyFailed if heat or the power supply held the GPU back: that says nothing of the baseline."""
    if failure.kind == "throttled":
        raise StudyFailed(
            f"the untouched pipeline could not be timed, the GPU is held back: {failure.message}; "
            "run the same command again when it has recovered"
        )


def stop_if_disk_full(failure: Failure, folder: Path) -> None:
    """Raise StorageFull if a worker failed on a full disk: that says nothing of its configuration."""
    if failure.kind == "disk full" or shutil.disk_usage(folder).free < MIN_FREE_BYTES:
        raise StorageFull(full_disk_message(folder, failure.message))
