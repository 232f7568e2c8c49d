"""All metrics of the finalists: python -m tuner.quality.examine JOB RESULT

A process of its own, since it loads networks: JOB is a file with a PanelJob, RESULT the file that it writes a Panel to.
It sees the images that the trials kept, and draws none. Standard input is a lifeline: when it closes the parent is
gone, and the process ends.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean

from tuner.errors import TunerError
from tuner.quality import strips
from tuner.quality.device_memory import free_memory
from tuner.quality.images import Images
from tuner.quality.metrics import METRICS, Metric, MetricContext, get_metric
from tuner.quality.panel import compare, noise_floor, on_all_prompts
from tuner.quality.statistics import verdict
from tuner.records.codec import encode_pretty, read
from tuner.records.quality import MetricResult, Panel, PanelJob


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
    """Measure every available metric of every finalist, and make a strip of images for each but the baseline.

    Whatever goes wrong costs the metric, the finalist or the variation it goes wrong with: it is in
    `unavailable_reasons`, and the rest is measured. Raises OSError when the baseline's images are not there.
    """
    prompts = job.workload.prompts
    baseline = Images.load(Path(job.images[0]), prompts)
    unavailable_reasons: dict[str, str] = {}
    images = {0: baseline}
    for trial, folder in job.images.items():
        if trial:
            with _noted(unavailable_reasons, f"trial {trial}"):
                images[trial] = Images.load(Path(folder), prompts, stills_per_prompt=baseline.stills_per_prompt)
                strips.write(f"trial {trial}", images[trial], baseline, Path(job.strips) / f"{trial:04}.png")
    variations = []
    for folder in job.variations:
        with _noted(unavailable_reasons, f"noise floor of {Path(folder).name}"):
            variations.append(Images.load(Path(folder), prompts, stills_per_prompt=baseline.stills_per_prompt))
    context = MetricContext(
        job.device, job.scorer, job.policy.metric_paths, frozenset({job.policy.metric, *job.policy.metric_paths})
    )
    found: dict[int, dict[str, MetricResult]] = {trial: {} for trial in images}
    own_metric = [] if job.policy.metric in METRICS else [get_metric(job.policy.metric)]
    for asked in (*METRICS.values(), *own_metric):
        with _noted(unavailable_reasons, asked.name):
            reason = asked.skip_reason(context, baseline)
            if reason:
                unavailable_reasons[asked.name] = reason
                continue
            floor = noise_floor(asked, baseline, variations, context) if asked.has_verdict else None
            suited = {trial: own for trial, own in images.items() if asked.unsuitable_reason(own) is None}
            judged = {trial: measure(asked, own, baseline, context, floor) for trial, own in suited.items()}
            for trial, one in judged.items():
                found[trial][asked.name] = one
    return Panel(finalists=found, unavailable_reasons=unavailable_reasons)


@contextmanager
def _noted(unavailable_reasons: dict[str, str], name: str) -> Iterator[None]:
    """Whatever is raised is noted in a line under the name, and what it held of the GPU's memory is freed."""
    try:
        yield
    except Exception as error:  # other people's code and weights: nothing of it may cost the rest of the panel
        said = " ".join(str(error).split()) or "no reason given"
        known = isinstance(error, (TunerError, OSError, ArithmeticError))
        unavailable_reasons[name] = (said if known else f"{type(error).__name__}: {said}")[:300]
    else:
        return
    free_memory()


def measure(
    asked: Metric, images: Images, baseline: Images, context: MetricContext, floor: float | None
) -> MetricResult:
    """Measure one metric of a set of images against the baseline's. The verdict counts more as better."""
    started = time.monotonic()
    value, difference, judged = compare(asked, images, baseline.first(len(images.prompts)), context)
    if difference is not None and len(images.prompts) < len(baseline.prompts):
        value = on_all_prompts(value, difference, fmean(asked.scores(baseline, baseline, context)))
    spent_s = time.monotonic() - started
    return MetricResult(
        title=asked.title,
        unit=asked.unit,
        higher_is_better=asked.higher_is_better,
        value=value,
        difference=difference,
        floor=floor,
        verdict="same" if images is baseline else "not judged" if floor is None else verdict(judged, floor),
        ms_per_image=1000 * spent_s / len(images.stills),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
