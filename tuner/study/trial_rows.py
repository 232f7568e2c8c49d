"""Write a trial's attributes and values in one transaction: Optuna writes each attribute in its own, and nothing of a
finished trial."""

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


def write(
    study: Any, database: Path, number: int, attributes: Mapping[str, Attribute], values: Sequence[float] = ()
) -> None:
    """Write attributes of a trial, and its values if it is finished: all or none. An open study keeps the old ones of a
    finished trial."""
    with closing(sqlite3.connect(database)) as connection, connection:
        (trial_id,) = connection.execute(TRIAL_ID, (number, study._study_id)).fetchone()
        rows = [(value, objective, trial_id) for objective, value in enumerate(values)]
        connection.executemany(VALUE, rows)
        connection.executemany(ATTRIBUTE, [(json.dumps(value), key, trial_id) for key, value in attributes.items()])
