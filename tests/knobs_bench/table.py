"""The results as text: for a file, and for the terminal."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from datetime import date

from knobs_bench.rows import MEAN_STEPS, Result, Trial, key, said
from tuner.knobs import KNOBS
from tuner.records.machine import Environment

HEADINGS = ("knob", "on top of", "what", "ms", "times as fast", "peak GB", "build s")

UNEVEN = 1.1
"""From this ratio of the longest step to the shortest on, the table gives both."""


def table(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """Rows in the catalogue's order: knob and value, on top of what, what is timed, ms, times as fast, GB, build s."""
    known = {key(result.trial.values, result.trial.what): result for result in results}
    order = {name: index for index, name in enumerate(KNOBS)}
    rows = []
    for result in sorted(results, key=lambda result: order.get(result.trial.name.partition("=")[0], -1)):
        row = result.trial
        faster = ""
        if row.compared_with is not None and result.seconds is not None:
            base = known.get(row.compared_with)
            faster = f"{base.seconds / result.seconds:.2f}" if base and base.seconds else "no base"
        taken = f"{1e3 * (result.seconds or 0):.1f}"
        if row.what in ("step", "step, an image") and result.samples_s:
            shortest, longest = min(result.samples_s), max(result.samples_s)
            taken += "" if longest / shortest < UNEVEN else f" (of {1e3 * shortest:.0f} to {1e3 * longest:.0f})"
        build = [part for part in (result.apply_s, result.first_call_s) if part is not None]
        rows.append((
            row.name, "" if row.base is None else said(row.base), row.what,
            result.failure or taken, faster,
            "" if result.peak_bytes is None else f"{result.peak_bytes / 1e9:.1f}", f"{sum(build):.0f}" if build else "",
        ))  # fmt: skip
    return rows


def markdown(
    given: argparse.Namespace,
    here: Environment,
    results: Sequence[Result],
    refused: Mapping[str, str],
    left: Sequence[Trial],
) -> str:
    versions = ", ".join(f"{name} {here.libraries[name]}" for name in ("torch", "triton", "diffusers", "torchao"))
    size = "its tiny pipeline" if given.tiny else "its real size, 1024x1024"
    lines = [
        f"# Knobs against measured time: {given.family} at {size}, random weights",
        "",
        f"{here.device_name}, driver {here.driver}, {here.cpu_count} CPU cores, {versions}, {date.today()}; "
        f"{given.parallel} processes built at once, one at a time was timed.",
        "",
        "`ms` is the median over the steps of a call without its first; `mean step` the mean over the steps of a call "
        f"of {MEAN_STEPS}, for what skips steps or runs the denoiser twice (with random weights a cache's own "
        "decisions mean little); `whole call` all of a call. `times as fast` is against the same without that value. "
        "`peak GB` is of what was timed. `build s` is apply and first call while others built too, with a compiler's "
        "cache that all share: who compiles a graph first pays for it.",
        "",
        *in_markdown(table(results)),
        "",
        f"{sum(result.failure is not None for result in results)} of {len(results)} failed.",
    ]
    if left:
        lines += ["", "Not run, for time was up: " + ", ".join(row.name for row in left) + "."]
    lines += ["", "Not available here:", "", *(f"- {name}: {reason}" for name, reason in refused.items())]
    return "\n".join(lines) + "\n"


def in_markdown(rows: Sequence[tuple[str, ...]]) -> list[str]:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (HEADINGS, *rows)]
    return [lines[0], "|" + " --- |" * len(HEADINGS), *lines[1:]]


def console(rows: Sequence[tuple[str, ...]]) -> str:
    widths = (52, 34, 15, 26, 5, 6, 5)
    lines = []
    for row in (HEADINGS, *rows):
        cells = [cell[:width].ljust(width) for cell, width in zip(row, widths, strict=True)]
        if row[3][:1].isalpha() and row is not HEADINGS:  # a failure takes the rest of the line
            cells[3:] = [row[3][:120]]
        lines.append(" ".join(cells).rstrip())
    return "\n".join(lines)
