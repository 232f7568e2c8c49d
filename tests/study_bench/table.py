"""The figures of a study beside what is asked, from the JSON that `tune show` prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from tuner.report.time_account import AFTER_TIMING

Report = Mapping[str, Any]
NEAR = 0.01
"""Composed and whole latencies are asked to differ by no more, for 19 of 20 finalists."""


def seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 120 else f"{int(value // 60)}:{round(value % 60):02} min"


def call(value: float) -> str:
    return f"{value:.3g} s"


def count(value: float) -> str:
    return f"{value:.0f}"


def times(value: float) -> str:
    return f"{value:.2f}x"


def share(value: float) -> str:
    return f"{value:.1%}"


def of_time(name: str) -> Callable[[Report], float | None]:
    """A figure of the account of the time."""
    return lambda report: (report.get("time") or {}).get(name)


def whole_compiles(report: Report) -> float:
    """Builds whose whole denoiser was compiled and that were measured."""
    compiled = [o for o in report["outcomes"] if o["values"].get("compile.scope") == "full"]
    return len({outcome["build_key"] for outcome in compiled if outcome["status"] == "measured"})


def chosen_call_s(report: Report) -> float | None:
    """The latency of the chosen configuration, if its gain is confirmed."""
    best = report["best"]
    return best["chosen"]["latency_s"]["value"] if best["speed_up_confirmed"] and best["chosen"]["trial"] else None


def chosen_gain(report: Report) -> float | None:
    return report["best"]["speed_up"]["value"] if chosen_call_s(report) is not None else None


def gain_with_untouched_steps(report: Report) -> float | None:
    """The largest confirmed gain inside the tolerance that does not come from fewer steps or a larger batch."""
    best = report["best"]
    untouched, gains = best["baseline"]["values"], {p["number"]: p["speed_up"] for p in report["points"]}
    found = [
        gains[point["trial"]]
        for point in {p["trial"]: p for p in (*best["front"], best["chosen"])}.values()
        if point["confirmed"]
        and point["trial"] != best["baseline"]["trial"]
        and all(point["values"][name] == untouched[name] for name in ("steps", "batch"))
        and point["quality_difference"]["low"] > -best["quality_tolerance"]
    ]
    return max(found, default=None)


def builds_timed(report: Report) -> float | None:
    """Return how many builds were timed, those that were stopped before they were judged among them."""
    time = report["time"]
    if time is None:
        return None
    return float(time["builds"] + sum(stage in AFTER_TIMING for stage in time.get("unfinished", {}).values()))


@dataclass(frozen=True)
class Figure:
    """A figure by the name under which it is asked for, and whether less is better."""

    name: str
    read: Callable[[Report], float | None]
    shown: Callable[[float], str]
    is_limit: bool = False


FIGURES = (
    Figure("builds", of_time("builds"), count),
    Figure("builds timed", builds_timed, count),
    Figure("whole compiles", whole_compiles, count),
    Figure("first confirmed gain", of_time("first_gain_s"), seconds, is_limit=True),
    Figure("gain with the untouched steps", gain_with_untouched_steps, times),
    Figure("gain of the choice", chosen_gain, times),
    Figure("chosen call", chosen_call_s, call, is_limit=True),
    Figure("device at work", of_time("useful_share"), share),
    Figure("start of a worker", of_time("start_s"), seconds, is_limit=True),
    Figure("repetition", of_time("repetition_s"), seconds, is_limit=True),
    Figure("parent's CPU time", of_time("parent_cpu_share"), share, is_limit=True),
)


def rows(report: Report, asked: Mapping[str, float]) -> Iterator[tuple[str, str, str, str]]:
    """Yield each figure, what was seen, what is asked, and whether that is met."""
    for figure in FIGURES:
        seen, limit = figure.read(report), asked.get(figure.name)
        text = "none" if seen is None else figure.shown(seen)
        if limit is None:
            yield figure.name, text, "", ""
            continue
        met = seen is not None and (seen <= limit if figure.is_limit else seen >= limit)
        bound = "at most" if figure.is_limit else "at least"
        yield figure.name, text, f"{bound} {figure.shown(limit)}", "met" if met else "NOT MET"
    yield composed_row(report)


def composed_row(report: Report) -> tuple[str, str, str, str]:
    """How far composed latencies of trials that were measured again are from their whole calls."""
    errors = [abs(check["error"]) for check in report["best"]["predictions"]]
    name, asked = "composed against whole calls", "95% within 1%"
    if not errors:
        return name, "none", asked, ""
    near = sum(error <= NEAR for error in errors) / len(errors)
    text = f"{len(errors)}, at most {max(errors):.1%} off, {near:.0%} within 1%"
    return name, text, asked, "met" if near >= 0.95 else "NOT MET"


def print_report(report: Report, asked: Mapping[str, float], title: str, console: Console) -> None:
    """Print the machine, where the time went, the figures and the choice as one table."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in ("figure", "seen", "asked", ""):
        table.add_column(heading, no_wrap=heading != "seen", overflow="fold")
    for row in rows(report, asked):
        table.add_row(*row)
    table.add_section()
    for name, spent in ((report.get("time") or {}).get("activities") or {}).items():
        table.add_row(f"time: {name}", f"{seconds(spent['seconds'])}, {spent['share']:.0%}", "", "")
    for name, text in (*chosen_rows(report), *machine_rows(report)):
        table.add_row(name, text, "", "")
    console.print(table)


def chosen_rows(report: Report) -> Iterator[tuple[str, str]]:
    best = report["best"]
    gain, changed = best["speed_up"], best["chosen"]["changed"]
    confirmed = "confirmed" if best["speed_up_confirmed"] else "in doubt"
    yield "chosen", " ".join(f"{name}={value}" for name, value in changed.items()) or "the untouched pipeline"
    if changed:
        yield "its gain", f"{gain['value']:.2f}x [{gain['low']:.2f}, {gain['high']:.2f}], {confirmed}"
    yield "untouched call", call(best["baseline"]["latency_s"]["value"])
    yield "state", report["state"]


def machine_rows(report: Report) -> Iterator[tuple[str, str]]:
    here = report["request"]["environment"]
    libraries = here.get("libraries", {})
    versions = ", ".join(f"{name} {libraries[name]}" for name in ("torch", "diffusers", "torchao") if name in libraries)
    yield "machine", f"{here['device_name']}, {versions}"
