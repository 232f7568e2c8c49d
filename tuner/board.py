"""A study as TensorBoard shows it: what of an outcome becomes a row, a scalar, a text, a picture."""

from __future__ import annotations

from pathlib import Path

from tuner.knobs import KNOBS
from tuner.record import Outcome
from tuner.space import Space, show
from tuner.trace import board

INACTIVE = "-"
METRICS = (
    "cost_usd_per_1000_images",
    "clip_score",
    "clip_score_difference",
    "latency_s",
    "images_per_s",
    "peak_memory_bytes",
    "first_call_s",
)


def write(folder: Path, outcome: Outcome, space: Space) -> None:
    """Write the outcome's events file into its trial folder. Every trial of a study gets the same columns."""
    listed = {name: (*space.knobs.get(name, ()), space.baseline[name]) for name in KNOBS}
    domains = {name: sorted({INACTIVE, *map(show, values)}) for name, values in listed.items()}
    board.write_trial(
        folder,
        hparams={name: show(outcome.values[name]) if name in outcome.values else INACTIVE for name in KNOBS},
        domains=domains,
        metrics=metrics(outcome),
        metric_names=METRICS,
        status=status(outcome),
        text=text(outcome),
        images=sorted((folder / "images").glob("*.png")),
    )


def metrics(outcome: Outcome) -> dict[str, float]:
    """What was measured of an outcome, under the names of METRICS; what was not is absent."""
    found: dict[str, float | None] = {
        "cost_usd_per_1000_images": outcome.cost_usd_per_1000_images,
        "clip_score": outcome.quality.mean if outcome.quality else None,
        "clip_score_difference": outcome.quality.difference.value if outcome.quality else None,
        "latency_s": outcome.timing.latency_s.value if outcome.timing else None,
        "images_per_s": outcome.timing.images_per_s if outcome.timing else None,
        "peak_memory_bytes": float(outcome.memory.peak_bytes) if outcome.memory else None,
        "first_call_s": outcome.build.first_call_s if outcome.build else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def status(outcome: Outcome) -> str:
    """`ok`, `rejected:graph break` or `failed:timeout`: one word to filter the table by."""
    if outcome.failure is not None:
        return f"failed:{outcome.failure.kind}"
    verdict = outcome.build.verdict if outcome.build else None
    broken = verdict.undeclared() if verdict else []
    return f"rejected:{broken[0].kind}" if broken else "ok"


def text(outcome: Outcome) -> str:
    """The verdict in Markdown: what was changed, what the gate found, why it failed."""
    lines = [f"**trial {outcome.number}** ({outcome.recipe or outcome.purpose}): {status(outcome)}", ""]
    build = outcome.build
    if build is not None:
        lines += [f"- {name}: {change}" for name, change in build.changes.items()]
        for finding in build.verdict.findings if build.verdict else ():
            allowed = f", allowed by {finding.allowed_by}" if finding.allowed_by else ""
            lines.append(f"- **{finding.kind}** x{finding.count}{allowed}: {finding.reason} (`{finding.source}`)")
        lines += [f"- not checked: {reason}" for reason in (build.verdict.skipped if build.verdict else ())]
    if outcome.failure is not None:
        lines.append(f"- {outcome.failure.kind} in {outcome.failure.stage}: {outcome.failure.message}")
    return "\n".join(lines)
