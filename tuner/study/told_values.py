"""Write what Optuna keeps of a trial in one transaction: it writes each attribute in its own, and none of a finished
trial."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from tuner.study.attributes import Attribute

TRIAL_ID = "SELECT trial_id FROM trials WHERE number = ? AND study_id = ?"

VALUE = "UPDATE trial_values SET value = ? WHERE objective = ? AND trial_id = ?"

ATTRIBUTE = """
INSERT INTO trial_user_attributes (value_json, key, trial_id) VALUES (?, ?, ?)
ON CONFLICT (trial_id, key) DO UPDATE SET value_json = excluded.value_json
"""


def describe(study: Any, database: Path, number: int, attributes: Mapping[str, Attribute]) -> None:
    """Write attributes of a trial that goes on."""
    correct(study, database, number, (), attributes)


def correct(
    study: Any, database: Path, number: int, values: Sequence[float], attributes: Mapping[str, Attribute]
) -> None:
    """Replace values and attributes of a trial, all or none. If it is finished, an open study keeps the old ones."""
    with closing(sqlite3.connect(database)) as connection, connection:
        (trial_id,) = connection.execute(TRIAL_ID, (number, study._study_id)).fetchone()
        rows = [(value, objective, trial_id) for objective, value in enumerate(values)]
        connection.executemany(VALUE, rows)
        connection.executemany(ATTRIBUTE, [(json.dumps(value), key, trial_id) for key, value in attributes.items()])
