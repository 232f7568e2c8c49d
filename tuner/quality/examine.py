"""All metrics of the finalists: python -m tuner.quality.examine JOB RESULT

A process of its own, since it loads networks: JOB is a file with a PanelJob, RESULT the file that it writes a Panel to.
It sees the pictures that the trials kept, and draws none. Standard input is a lifeline: when it closes the parent is
gone, and the process ends.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tuner.errors import TunerError
from tuner.quality import strips
from tuner.quality.metrics import METRICS, Metric, Setting, metric
from tuner.quality.panel import compare, floor_of, load_some
from tuner.quality.pictures import Pictures
from tuner.quality.statistics import verdict
from tuner.record import Judged, Panel, PanelJob, encode_pretty, read


def main(arguments: Sequence[str]) -> int:
    """Read the job, write the panel."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    panel = examine(read(Path(arguments[0]), PanelJob))
    Path(arguments[1]).write_bytes(encode_pretty(panel))
    return 0


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


def examine(job: PanelJob) -> Panel:
    """Every metric that can be had of every finalist, and a strip of pictures for each but the baseline."""
    prompts = job.workload.prompts
    baseline = Pictures.load(Path(job.images[0]), prompts)
    pictures = {trial: load_some(Path(job.images[trial]), prompts, baseline.each) for trial in job.images if trial}
    pictures[0] = baseline
    for trial, own in pictures.items():
        if trial:
            strips.write(own, baseline, Path(job.strips) / f"{trial:04}.png")
    setting = Setting(job.device, job.scorer, job.policy.given)
    variations = [load_some(Path(folder), prompts, baseline.each) for folder in job.variations]
    found: dict[int, dict[str, Judged]] = {trial: {} for trial in pictures}
    lacks: dict[str, str] = {}
    own_metric = [] if job.policy.metric in METRICS else [metric(job.policy.metric)]
    for asked in (*METRICS.values(), *own_metric):
        reason = asked.unavailable(setting, baseline)
        if reason:
            lacks[asked.name] = reason
            continue
        try:
            floor = floor_of(asked, baseline, variations, setting)
            for trial, own in pictures.items():
                found[trial][asked.name] = measure(asked, own, baseline, setting, floor)
        except (TunerError, ImportError, OSError) as error:
            lacks[asked.name] = " ".join(str(error).split())[:300]
    return Panel(finalists=found, lacks=lacks)


def measure(asked: Metric, pictures: Pictures, baseline: Pictures, setting: Setting, floor: float | None) -> Judged:
    """One metric of one set of pictures, compared with the baseline's. The verdict counts more as better."""
    started = time.monotonic()
    value, difference, judged = compare(asked, pictures, baseline.first(len(pictures.prompts)), setting)
    spent_s = time.monotonic() - started
    return Judged(
        title=asked.title,
        unit=asked.unit,
        higher_is_better=asked.higher_is_better,
        value=value,
        difference=difference,
        floor=floor,
        verdict="same" if pictures is baseline else "not judged" if floor is None else verdict(judged, floor),
        ms_per_picture=1000 * spent_s / len(pictures.stills),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
