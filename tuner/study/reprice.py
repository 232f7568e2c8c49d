"""Give a study another price of the device: its costs are computed again from its timings, its trials stay."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tuner.files import StudyFolder, atomic_write
from tuner.records import database
from tuner.records.codec import encode_pretty, read
from tuner.records.outcome import Outcome
from tuner.result.prices import Price, cost_of
from tuner.search.recorded import outcome_files

UPDATE = """
UPDATE trial_values SET value = :cost WHERE objective = 0
AND trial_id IN (SELECT trial_id FROM trials WHERE number = :number)
"""


def reprice(paths: StudyFolder, price: Price) -> None:
    """Compute the costs of all outcomes again, in their files and in Optuna's database.

    Do it again after a crash at any instant: what is done already stays the same.
    """
    outcomes = [_reprice_file(file, price) for _, file in outcome_files(paths.trials)]
    for _, file in outcome_files(paths.repetitions):
        _reprice_file(file, price)
    if paths.database.exists():
        _reprice_database(paths, outcomes)


def _reprice_file(file: Path, price: Price) -> Outcome:
    outcome = read(file, Outcome)
    if outcome.timing is None or outcome.cost_usd_per_1000_images is None:
        return outcome
    repriced = msgspec.structs.replace(outcome, cost_usd_per_1000_images=cost_of(outcome.timing, price))
    if repriced != outcome:
        atomic_write(file, encode_pretty(repriced))
    return repriced


def _reprice_database(paths: StudyFolder, outcomes: list[Outcome]) -> None:
    """Update the costs in one transaction, as they were before any repetition: the store corrects them by these."""
    from sqlalchemy import create_engine, text

    costs = [
        {"cost": outcome.cost_usd_per_1000_images, "number": outcome.number}
        for outcome in outcomes
        if outcome.cost_usd_per_1000_images is not None
    ]
    engine = create_engine(database.url(paths.database))
    try:
        with engine.begin() as connection:
            for cost in costs:
                connection.execute(text(UPDATE), cost)
    finally:
        engine.dispose()
