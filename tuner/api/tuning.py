"""Tune a pipeline from a script or a notebook, as `tune run` does."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from io import StringIO
from typing import Any

from tuner.api.loaded import require_as_saved, source_of
from tuner.api.study import Study
from tuner.commands import run
from tuner.commands.arguments import STRATEGIES, TRACKERS, folder, gpus, positive, seconds
from tuner.commands.conduct import Search, conduct
from tuner.errors import BadInput
from tuner.records.codec import Value
from tuner.records.outcome import Outcome
from tuner.report.plain import PlainDisplay
from tuner.report.written import page_note

TIMES = ("budget", "latency_target")
"""Options that may be seconds or a text such as "20m"."""

OF_THE_COMMAND = {"dry_run", "json", "run"}
"""Options that only mean something at the command line."""


def tune(
    model: Any = "demo",
    *,
    space: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Value | list[Value]] | None = None,
    budget: float | str | None = None,
    out: str | os.PathLike[str] = "traces",
    on_trial: Callable[[Outcome], object] | None = None,
    progress: bool = True,
    **options: Any,
) -> Study:
    """Search for the cheapest configuration of a pipeline whose images are as good as the untouched one's.

    `model` is a hub id, a folder, or a loaded pipeline, which is loaded again from where it came. `space` is a file as
    for --space, `settings` are those of --set, such as {"steps": 28}. `budget` is in seconds or a text such as "20m".
    `out` takes the study, whose folder is the same for the same request: it goes on if it was begun. `on_trial` is
    called with each trial and repetition when it is recorded. With `progress` a line is printed for each event. The
    other options are those of `tune run`, with underscores: trials, quality, scorer, price, latency_target, device,
    gpus, devices, ray, family, warm_start, study, revision, variant, base, metric, log.

    Raises TunerError: BadInput for what is not valid, Unavailable for what is missing, Interrupted after Ctrl-C.
    """
    given = make_options(
        model=source_of(model), space=None if space is None else os.fspath(space),
        set=settings_text({} if settings is None else settings), budget=budget, out=out, **options,
    )  # fmt: skip
    study_folder, request, machines = run.prepare(given)
    with contextlib.closing(machines):
        if not isinstance(model, str | os.PathLike):
            require_as_saved(model, request.model)
        display = Reporter(request.space.baseline, on_trial, progress=progress)
        conduct(study_folder, request, run.limits_of(given), given.model, display, machines, Search.of(given))
    display.note(page_note(study_folder))
    return Study(study_folder)


def make_options(**given: Any) -> argparse.Namespace:
    """Return the options of `tune run` with its defaults. Raises BadInput for an unknown one."""
    parser = argparse.ArgumentParser()
    run.add_parser(parser.add_subparsers())
    options = parser.parse_args(["run"])
    unknown = given.keys() - (vars(options).keys() - OF_THE_COMMAND)
    if unknown:
        raise BadInput(f"tune(): there is no option {', '.join(sorted(unknown))}")
    for name, value in given.items():
        setattr(options, name, converted(name, value))
    return options


def converted(name: str, value: Any) -> Any:
    """Return the value of an option as the command line's parser makes it. Raises BadInput."""
    try:
        if name in TIMES and value is not None:
            return seconds(value if isinstance(value, str) else f"{float(value)}s")
        if name == "strategy" and value not in (None, *STRATEGIES):
            raise ValueError(f"{value!r} is none of {', '.join(STRATEGIES)}")
        if name == "log":
            return checked_trackers([value] if isinstance(value, str) else list(value))
        if name == "gpus" and value is not None:
            return gpus(str(value))
        if name in ("trials", "devices") and value is not None:
            return positive(str(value))
        if name == "warm_start" and value is not None:
            return os.fspath(value)
        return folder(os.fspath(value)) if name == "out" else value
    except (argparse.ArgumentTypeError, TypeError, ValueError) as error:
        raise BadInput(f"tune(): {name}: {error}") from None


def checked_trackers(names: list[str]) -> list[str]:
    """Return the names of trackers. Raises ValueError for another name."""
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"{name!r} is none of {', '.join(TRACKERS)}")
    return names


def settings_text(settings: Mapping[str, Value | list[Value]]) -> list[str]:
    """Return settings as --set takes them. Raises BadInput if they are no mapping."""
    if not isinstance(settings, Mapping):
        kind = type(settings).__name__
        raise BadInput(f'tune(): settings: it is a {kind}; give a mapping of names to values such as {{"steps": 3}}')
    return [f"{name}={json.dumps(value)}" for name, value in settings.items()]


class Reporter(PlainDisplay):
    """Prints a line for each event, if wanted, and calls a function with each recorded trial."""

    def __init__(
        self, baseline: Mapping[str, Value], on_trial: Callable[[Outcome], object] | None, *, progress: bool
    ) -> None:
        super().__init__(sys.stdout if progress else StringIO(), baseline)
        self.on_trial = on_trial

    def trial_ended(self, outcome: Outcome, remark: str) -> None:
        super().trial_ended(outcome, remark)
        if self.on_trial is not None:
            self.on_trial(outcome)
