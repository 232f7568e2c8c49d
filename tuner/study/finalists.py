"""Judge the finalists' images by all metrics, in a process of its own, when the search is over."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from tuner.errors import BadInput
from tuner.execution import python
from tuner.execution.launch import ANYWHERE, Place, worker_environment
from tuner.files import atomic_write
from tuner.model import pipeline
from tuner.records.codec import encode_pretty, read
from tuner.records.outcome import Outcome
from tuner.records.quality import Panel, PanelJob
from tuner.search.history import History
from tuner.study.store import Store

EXAMINER = python.command("tuner.quality.examine")
"""The program that is started; it gets two files, the job and where to write its answer."""

DEADLINE_S = 900.0


def judge_finalists(
    store: Store, history: History, finalists: Sequence[Outcome], note: Callable[[str], None]
) -> Panel | None:
    """Return every metric of the baseline and the finalists, and make a strip of images of each finalist.

    The panel is empty if no other trial has images. It is None, with a note to the user, if the process fails: the
    study's result does not depend on it.
    """
    images = images_of(store, finalists)
    if len(images) < 2:
        return Panel(finalists={}, unavailable_reasons={})
    is_elsewhere = any(device.node is not None for device in history.devices)
    variations = [path for noise in history.noise_floors() for path in noise.variations.values()]
    job = PanelJob(
        workload=history.judged_workload,
        device="cpu" if is_elsewhere else store.request.environment.device,
        scorer=pipeline.scorer_source(store.request.model),
        policy=store.request.quality,
        images={number: str(folder) for number, folder in images.items()},
        strips=str(store.paths.strips),
        variations=tuple(filter(store.paths.holds, variations)),
    )
    atomic_write(store.paths.panel("job.json"), encode_pretty(job))
    is_here = bool(history.devices) and not is_elsewhere
    ending = _run_examiner(store, Place(history.devices[0].uuid) if is_here else ANYWHERE)
    with contextlib.suppress(BadInput):
        return read(store.paths.panel("json"), Panel)
    log = store.paths.panel("log")
    note(f"the finalists' other metrics are missing: their process ended {ending}, see {log}")
    return None


def read_panel(store: Store) -> Panel | None:
    """Return what this or an earlier run found of the finalists. Raises BadInput if the file is malformed."""
    file = store.paths.panel("json")
    return read(file, Panel) if file.exists() else None


def images_of(store: Store, finalists: Sequence[Outcome]) -> dict[int, Path]:
    """Return the folders with the images of the baseline and the finalists, by trial."""
    folders = {0: store.paths.images(0)}
    for outcome in finalists:
        if outcome.quality is not None:
            generated_by = outcome.quality.reused_from
            folders[outcome.number] = store.paths.images(outcome.number if generated_by is None else generated_by)
    return {number: folder for number, folder in folders.items() if folder.is_dir()}


def _run_examiner(store: Store, place: Place) -> str:
    """Run the process to its end and kill what it leaves. Returns how it ended."""
    answer = store.paths.panel("json")
    answer.unlink(missing_ok=True)
    with store.paths.panel("log").open("wb") as log:
        process = subprocess.Popen(
            [*EXAMINER, str(store.paths.panel("job.json")), str(answer)], stdin=subprocess.PIPE, stdout=log,
            stderr=log, start_new_session=True, env=worker_environment(store.paths.cache, place),
        )  # fmt: skip
        try:
            return f"with code {process.wait(DEADLINE_S)}"
        except subprocess.TimeoutExpired:
            return f"after {DEADLINE_S:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
