"""Makes an outcome's row, scalars, text and images for TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from tuner.board import events_file
from tuner.numbers import format_latency, format_number
from tuner.records.gate import Finding
from tuner.records.outcome import Outcome
from tuner.records.text import shown
from tuner.space.candidates import SearchSpace

BASELINE = 0
STRIPS = "strips"
"""In the study's folder: a strip of images for each finalist."""

FINALISTS = "finalists"
"""The group of images that comes before those of all trials. TensorBoard opens two groups."""

STRIP_SIDE = 1200
"""Pixels: a strip has a row of up to four images."""

IMAGES = 4
"""Images shown of each trial."""

NOTHING = "-"
Place = Literal["chosen", "front", "doubtful"] | None
"""A trial's place in the study's result, known at its end."""

SHORT = {
    "graph break": "break",
    "recompile": "recompile",
    "compile work": "compile",
    "device sync": "sync",
    "cuda graph": "graph",
}
"""Short names of findings for a narrow column."""


def write(folder: Path, outcome: Outcome, space: SearchSpace) -> None:
    """Write an outcome's images and its row into its trial folder, which lies beside the baseline's."""
    images = list(trial_images(folder, outcome, space))
    events_file.write_images(folder, events_file.IMAGES, outcome.number, images)
    write_row(folder, outcome, space)


def write_row(folder: Path, outcome: Outcome, space: SearchSpace, place: Place = None) -> None:
    """Write an outcome's row, and the strip of images that a finalist has, in place of earlier ones."""
    row = events_file.Row(
        number=outcome.number,
        status=status(outcome),
        result=result(outcome, place),
        knobs=knobs(outcome, space),
        numbers=numbers(outcome),
        metrics=metrics(outcome),
        text=text(outcome, space),
    )
    events_file.write_images(folder, events_file.STRIP, outcome.number, list(strip_image(folder, outcome, space)))
    events_file.write_row(folder, row)


def knobs(outcome: Outcome, space: SearchSpace) -> dict[str, str]:
    """Return every knob's value; one that the study varies has a value in every trial, to filter the table by."""
    varied = {name: NOTHING for name, values in space.knobs.items() if len(values) > 1}
    return varied | {name: shown(value) for name, value in outcome.values.items()}


def numbers(outcome: Outcome) -> dict[str, float]:
    """Return the metrics that are columns of the table, too, at its left."""
    known = metrics(outcome)
    columns = {events_file.COST: "cost_usd_per_1000_images", events_file.QUALITY: "quality"}
    return {column: known[name] for column, name in columns.items() if name in known}


def metrics(outcome: Outcome) -> dict[str, float]:
    """Return what was measured; what was not is absent."""
    values: dict[str, float | None] = {
        "cost_usd_per_1000_images": outcome.cost_usd_per_1000_images,
        "quality": outcome.quality.mean if outcome.quality else None,
        "quality_difference": outcome.quality.difference.value if outcome.quality else None,
        "latency_s": outcome.timing.latency_s.value if outcome.timing else None,
        "images_per_s": outcome.timing.images_per_s if outcome.timing else None,
        "peak_memory_bytes": float(outcome.memory.peak_bytes) if outcome.memory else None,
        "first_call_s": outcome.build.first_call_s if outcome.build else None,
    }
    return {name: value for name, value in values.items() if value is not None}


def status(outcome: Outcome) -> str:
    """Return `ok` or the like of `rejected:sync` and `failed:timeout`, to filter the table by."""
    if outcome.failure is not None:
        return f"failed:{outcome.failure.kind}"
    verdict = outcome.build.verdict if outcome.build else None
    broken = verdict.undeclared() if verdict else []
    return f"rejected:{SHORT[broken[0].kind]}" if broken and outcome.status == "rejected" else "ok"


def result(outcome: Outcome, place: Place) -> str:
    """Return `baseline`, `chosen`, `front`, `doubtful`, or a dash."""
    baseline = "baseline" if outcome.number == BASELINE else None
    return " ".join(filter(None, (baseline, place))) or NOTHING


def settings(outcome: Outcome, space: SearchSpace) -> str:
    """Return the values that differ from the baseline's, in one line."""
    changed = space.changed(outcome.values)
    return " ".join(f"{name}={shown(value)}" for name, value in changed.items()) or "baseline"


def text(outcome: Outcome, space: SearchSpace) -> str:
    """Return a trial as Markdown: its changes, measurements, findings and failure."""
    lines = [f"**trial {outcome.number}: `{settings(outcome, space)}`**", ""]
    lines.append(f"- {status(outcome)}, {origin(outcome)}")
    lines += measurement_lines(outcome)
    build = outcome.build
    if build is not None:
        lines += [f"- {name}: {change}" for name, change in build.changes.items()]
    if build is not None and build.verdict is not None:
        lines += [describe_finding(finding) for finding in build.verdict.findings]
        lines += [f"- not checked: {reason}" for reason in build.verdict.skipped]
    if outcome.failure is not None:
        lines.append(f"- **{outcome.failure.kind}** in {outcome.failure.stage}: {outcome.failure.message}")
    return "\n".join(lines)


def origin(outcome: Outcome) -> str:
    """Return where a trial is from. The baseline's step sweep has its purpose, but other values."""
    if outcome.recipe is not None:
        return f"from the recipe {outcome.recipe}"
    if outcome.purpose == "baseline":
        return "the untouched pipeline" if outcome.number == BASELINE else "the untouched pipeline at other steps"
    return f"from the {outcome.purpose}"


def measurement_lines(outcome: Outcome) -> list[str]:
    """Return lines with the latency and the quality of a trial, as far as they are known."""
    lines = []
    if outcome.timing is not None:
        latency = outcome.timing.latency_s
        value, low, high = map(format_latency, (latency.value, latency.low, latency.high))
        lines.append(f"- latency: {value} [{low}, {high}], {format_number(outcome.timing.images_per_s)} images/s")
    if outcome.quality is not None:
        change, drawn_by = outcome.quality.difference, outcome.quality.reused_from
        against = f", {change.value:+.2f} [{change.low:+.2f}, {change.high:+.2f}] against the baseline"
        lines.append(
            f"- {outcome.quality.metric}: {outcome.quality.mean:.2f}{against if outcome.number != BASELINE else ''}"
            f"{f', from the images of trial {drawn_by}' if drawn_by is not None else ''}"
        )
    if outcome.skipped_share is not None:
        lines.append(f"- the cache skipped work in {outcome.skipped_share:.0%} of the steps")
    return lines


def describe_finding(finding: Finding) -> str:
    """Return a finding as a line of Markdown."""
    price = finding.idle_ms_per_step
    cost = f", {format_number(price)} ms of idle GPU a step" if price is not None else ""
    allowed = f", allowed by {finding.allowed_by}" if finding.allowed_by else ""
    source = f" (`{finding.source}`)" if finding.source else ""
    return f"- **{finding.kind}** x{finding.count}{cost}{allowed}: {finding.reason}{source}"


def strip_path(folder: Path) -> Path:
    """Return the file of a finalist's strip of images, given its trial folder."""
    return folder.parent.parent / STRIPS / f"{folder.name}.png"


def strip_image(folder: Path, outcome: Outcome, space: SearchSpace) -> Iterator[events_file.ShownImage]:
    """Yield a finalist's strip."""
    strip = strip_path(folder)
    if strip.is_file():
        shows = (
            f"trial {outcome.number}: the baseline's images, its own below them, the difference amplified four times"
        )
        of = settings(outcome, space)
        yield events_file.ShownImage(strip, f"{FINALISTS}/strip", shows, of, baseline=None, longest_side=STRIP_SIDE)


def trial_images(folder: Path, outcome: Outcome, space: SearchSpace) -> Iterator[events_file.ShownImage]:
    """Yield a trial's first images, each with the baseline's of the same prompt."""
    prompts = space.workload.prompts
    for file in sorted((folder / "images").glob("*.png"))[:IMAGES]:
        prompt = prompts[int(file.stem)] if file.stem.isdigit() and int(file.stem) < len(prompts) else file.stem
        beside = folder.parent / f"{BASELINE:04}" / "images" / file.name
        tag = f"images/{file.stem}"
        if outcome.number == BASELINE:
            yield events_file.ShownImage(file, tag, prompt, "the baseline's image", baseline=None)
        elif beside.is_file():
            pair = "left the baseline's image, right this trial's"
            yield events_file.ShownImage(file, tag, prompt, pair, baseline=beside)
        else:
            yield events_file.ShownImage(file, tag, prompt, "this trial's image", baseline=None)
