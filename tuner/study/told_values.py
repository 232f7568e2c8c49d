"""Correct what Optuna was told of a finished trial, which it cannot do itself: a trial is finished once for all."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

TRIAL_ID = "SELECT trial_id FROM trials WHERE number = ? AND study_id = ?"

VALUE = "UPDATE trial_values SET value = ? WHERE objective = ? AND trial_id = ?"

ATTRIBUTE = """
INSERT INTO trial_user_attributes (value_json, key, trial_id) VALUES (?, ?, ?)
ON CONFLICT (trial_id, key) DO UPDATE SET value_json = excluded.value_json
"""


def correct(
    study: Any, database: Path, number: int, values: Sequence[float], attributes: Mapping[str, str | int | float]
) -> None:
    """Replace the values and attributes of a finished trial, all or none. An open study still has the old ones."""
    with closing(sqlite3.connect(database)) as connection, connection:
        (trial_id,) = connection.execute(TRIAL_ID, (number, study._study_id)).fetchone()
        rows = [(value, objective, trial_id) for objective, value in enumerate(values)]
        connection.executemany(VALUE, rows)
        connection.executemany(ATTRIBUTE, [(json.dumps(value), key, trial_id) for key, value in attributes.items()])
