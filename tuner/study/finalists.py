"""What all metrics say of the finalists' images, asked of a process of its own when the search is over."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from tuner.board.trial_events import STRIPS
from tuner.errors import BadInput
from tuner.execution.process import worker_environment
from tuner.files import atomic_write
from tuner.model import pipeline
from tuner.records.codec import encode_pretty, read
from tuner.records.outcome import Outcome
from tuner.records.quality import Panel, PanelJob
from tuner.study.ledger import Ledger

EXAMINER = (sys.executable, "-m", "tuner.quality.examine")
"""The program that is started; it gets two files, the job and where to put its answer."""

DEADLINE_S = 900.0


def examine(ledger: Ledger, finalists: Sequence[Outcome]) -> Panel | None:
    """Every metric of the baseline and of these trials, and a strip of images of each; nothing where no other trial
    has images. None, with a note to the user, when the process fails: the study's result does not depend on it."""
    store, request = ledger.store, ledger.store.request
    images = {0: store.trial_folder(0) / "images"}
    for outcome in finalists:
        if outcome.quality is not None:
            drawn_by = outcome.quality.reused_from
            images[outcome.number] = store.trial_folder(outcome.number if drawn_by is None else drawn_by) / "images"
    images = {number: folder for number, folder in images.items() if folder.is_dir()}
    if len(images) < 2:
        return Panel(finalists={}, unavailable_reasons={})
    job = PanelJob(
        workload=ledger.space.workload,
        device=request.environment.device,
        scorer=pipeline.scorer_source(request.model),
        policy=request.quality,
        images={number: str(folder) for number, folder in images.items()},
        strips=str(store.folder / STRIPS),
        variations=tuple(path for noise in ledger.noise_floors() for path in noise.variations.values()),
    )
    asked, answer, log = (store.folder / f"panel.{suffix}" for suffix in ("job.json", "json", "log"))
    atomic_write(asked, encode_pretty(job))
    answer.unlink(missing_ok=True)
    with log.open("wb") as said:
        process = subprocess.Popen(
            [*EXAMINER, str(asked), str(answer)], stdin=subprocess.PIPE, stdout=said, stderr=said,
            start_new_session=True, env=worker_environment(store.cache),
        )  # fmt: skip
        try:
            process.wait(DEADLINE_S)
            return read(answer, Panel)
        except (subprocess.TimeoutExpired, BadInput):
            code = process.poll()
            ended = f"after {DEADLINE_S:.0f} s" if code is None else f"code {code}"
            ledger.display.note(f"the finalists' other metrics are missing: their process ended ({ended}), see {log}")
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
