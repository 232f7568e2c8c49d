"""A study as one record, made from its folder alone: a finished or a copied study can be reported anywhere."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec

from tuner.errors import BadInput
from tuner.files import StudyFolder
from tuner.quality.metrics import get_metric
from tuner.records.advice import FILE as ADVICE
from tuner.records.advice import Advice
from tuner.records.codec import Count, Record, decode, read
from tuner.records.database import select
from tuner.records.outcome import Outcome
from tuner.records.quality import NoiseFloor
from tuner.records.stages import read_stages
from tuner.report.conclusion import conclusion
from tuner.report.explanation import Explanation, explain
from tuner.report.points import FrontPoint, Standing, front_points, standings
from tuner.report.result_check import result_problem
from tuner.report.studies import State, no_result, read_limits, read_state
from tuner.report.time_account import TimeAccount, make_account
from tuner.result.config import read_best
from tuner.result.objective import as_decided
from tuner.result.records import BestConfig
from tuner.search.history import History
from tuner.search.recorded import read_outcomes, read_repetitions
from tuner.search.request import Refusal, Request, read_request


class StudyReport(Record):
    """A study so far.

    The `outcomes` have the latency over all their processes. `refused` counts the refused candidates by reason,
    `conclusion` has a few lines of text. `explanation` says why this configuration was chosen, `advice` what was
    expected before the search, `standings` where each measured trial stands. `time` is None of a study that an earlier
    version made.
    """

    folder: str
    request: Request
    best: BestConfig
    metric_title: str
    points: tuple[FrontPoint, ...]
    outcomes: tuple[Outcome, ...]
    refused: dict[str, int]
    conclusion: str
    explanation: Explanation
    state: State = "finished"
    time: TimeAccount | None = None
    advice: Advice | None = None
    standings: dict[Count, Standing] = msgspec.field(default_factory=dict)


def read_report(folder: Path) -> StudyReport:
    """Read a study that has a result, at least of its baseline. Raises BadInput naming what is missing or damaged."""
    paths = StudyFolder(folder)
    request = read_request(paths.request)
    if not paths.best_config.exists():
        raise no_result(folder)
    if paths.repricing.exists():
        raise BadInput(f"{paths.repricing}: the costs are between two prices; `tune resume {folder}` completes them")
    best = read_best(paths.best_config)
    history = read_history(paths, request)
    problem = result_problem(best, request, history)
    if problem is None and best.price != request.price:
        problem = "price: not that of study.json"
    if problem is not None:
        raise BadInput(f"{paths.best_config}: {problem}; `tune resume {folder}` writes it anew")
    limits = read_limits(paths.database, "limits")
    return StudyReport(
        folder=str(folder),
        request=request,
        best=as_decided(best),  # one that an earlier version wrote was not
        metric_title=get_metric(request.quality.metric).title,
        points=tuple(front_points(history, best.chosen.trial)),
        outcomes=tuple(history.all_settled()),
        refused=dict(Counter(refusal.reason for refusal in read_refusals(paths.database))),
        conclusion=conclusion(request, history, best.chosen.trial, folder),
        explanation=explain(history, best.chosen.trial),
        state=read_state(paths),
        time=make_account(read_stages(paths.stages), history, limits.budget_s if limits is not None else None),
        advice=history.advice,
        standings=standings(history),
    )


def state_note(report: StudyReport) -> str | None:
    """Return what to know of a report that may still change; None of a finished study."""
    return {
        "running": "State    still running: this is what is known by now",
        "interrupted": f"State    not at its end: tune resume {report.folder}",
    }.get(report.state)


def read_history(paths: StudyFolder, request: Request) -> History:
    """Read the outcomes, repetitions and noise floor of a study."""
    outcomes, advice = read_outcomes(paths, request), paths.root / ADVICE
    return History(
        space=request.space,
        price=request.price,
        outcomes=outcomes,
        repetitions=read_repetitions(paths, request, outcomes),
        advice=read(advice, Advice) if advice.exists() else None,
        late_noise_floor=read(paths.noise_floor, NoiseFloor) if paths.noise_floor.exists() else None,
    )


def read_refusals(database: Path) -> list[Refusal]:
    """Read the refused candidates from Optuna's database without writing to it; none if there is no database."""
    if not database.exists():
        return []
    query = "SELECT value_json FROM trial_user_attributes WHERE key = 'refused' ORDER BY trial_id"
    try:
        rows = select(database, "trial_user_attributes", query)
        texts = [msgspec.json.decode(text, type=str) for (text,) in rows]
    except msgspec.DecodeError as error:
        raise BadInput(f"{database}: damaged: {error}") from None
    return [decode(text, Refusal, f"{database}: refused") for text in texts]
