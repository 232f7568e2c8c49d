"""Run a study in a folder, on the devices and with the options that a command has for it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.errors import Interrupted
from tuner.files import StudyFolder

if TYPE_CHECKING:
    from tuner.commands.machines import Machines
    from tuner.records.outcome import Limits
    from tuner.report.display import Display
    from tuner.search.request import Request


@dataclass(frozen=True)
class Search:
    """What options say of a search; None where a study that was begun keeps what it has."""

    strategy: str | None
    warm_start: str | None
    studies: Path
    log: Sequence[str]

    @classmethod
    def of(cls, options: argparse.Namespace) -> Search:
        """Return what the options of `tune run` say; those of `tune resume` have neither of the first two."""
        return cls(getattr(options, "strategy", None), getattr(options, "warm_start", None), options.out, options.log)


def conduct(
    folder: Path, request: Request, limits: Limits, model_name: str, display: Display, machines: Machines,
    wanted: Search,
) -> None:  # fmt: skip
    """Run a study in a folder until it ends within its limits. Raises Interrupted after Ctrl-C."""
    from tuner.commands.notes import start_notes
    from tuner.report.conclusion import interruption
    from tuner.search.strategies import DEFAULT
    from tuner.study.course import keep_strategy
    from tuner.study.loop import Study
    from tuner.study.slots import max_alive, share_of
    from tuner.study.store import Store
    from tuner.study.warm_start import keep_warm_start, warm_start_notes
    from tuner.tracking.trackers import connect

    trackers = connect(wanted.log, folder.name)
    found = machines.devices(request.environment)
    count = f"{len(found)} x " if len(found) > 1 else ""
    title = f"{model_name} ({request.model.pipeline_class}) on {count}{request.environment.device_name}"
    slots = max_alive(share_of(request.environment, found))
    with Store(folder, request) as store, machines.opened(store, slots) as (executor, check):
        limits = with_demo_budget(with_last_budget(folder, limits), request)
        store.study.set_user_attr("gpus", machines.asked)  # for `tune resume`
        keep_strategy(store, wanted.strategy, DEFAULT)
        keep_warm_start(store, wanted.warm_start, wanted.studies)
        study = Study(store, limits, display, executor, check, trackers)
        try:
            recorded = list(study.history.outcomes.values())
            notes = [*start_notes(request, machines), *warm_start_notes(study.history.warm_start)]
            display.started(title, folder, limits, notes, store.spent_s, recorded)
            study.run()
        except KeyboardInterrupt:
            raise Interrupted(interruption(folder)) from None
        finally:
            display.closed()


def with_last_budget(folder: Path, limits: Limits) -> Limits:
    """Return limits without a budget with that of the last run of the study in a folder, if there is one."""
    import msgspec

    from tuner.report.studies import read_limits

    database = StudyFolder(folder).database
    last = read_limits(database, "limits") if limits.budget_s is None and database.exists() else None
    return msgspec.structs.replace(limits, budget_s=last.budget_s) if last else limits


def with_demo_budget(limits: Limits, request: Request) -> Limits:
    """Return limits with the demo's budget, if it is the demo and they have none: however slow the machine."""
    import msgspec

    from tuner.model.pipeline import DEMO
    from tuner.search.budget import QUICK_BUDGET_S

    is_open = limits.budget_s is None and request.model.source == DEMO
    return msgspec.structs.replace(limits, budget_s=QUICK_BUDGET_S) if is_open else limits
