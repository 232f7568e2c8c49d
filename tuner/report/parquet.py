"""A study's trials as Parquet, with the types that CSV does not keep."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuner.errors import Unavailable
from tuner.records.text import format_value
from tuner.report.study_report import StudyReport
from tuner.report.trial_rows import trial_rows

REMEDY = "--format parquet: neither pyarrow nor fastparquet with pandas is installed; pip install pyarrow, or use csv"


def parquet(report: StudyReport) -> bytes:
    """Write a row for each trial and a column for each figure and each knob.

    A knob whose values are of several types is a column of text. Raises Unavailable without a library for Parquet.
    """
    columns = typed_columns(list(trial_rows(report)))
    with tempfile.TemporaryDirectory(prefix="tune-parquet-") as folder:
        file = Path(folder) / "trials.parquet"
        if _has("pyarrow"):
            _write_with_pyarrow(columns, file)
        elif _has("fastparquet") and _has("pandas"):
            _write_with_fastparquet(columns, file)
        else:
            raise Unavailable(REMEDY)
        return file.read_bytes()


def _has(library: str) -> bool:
    return importlib.util.find_spec(library) is not None


def _write_with_pyarrow(columns: dict[str, list[Any]], file: Path) -> None:
    import pyarrow
    from pyarrow import parquet as writer

    writer.write_table(pyarrow.table(columns), file)


def _write_with_fastparquet(columns: dict[str, list[Any]], file: Path) -> None:
    import pandas

    frame = pandas.DataFrame(columns).convert_dtypes()
    frame.to_parquet(file, engine="fastparquet", index=False)


def typed_columns(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return rows as columns, each of one type, with None for what is not known or not active."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: _of_one_type([row.get(name) for row in rows]) for name in names}


def _of_one_type(values: list[Any]) -> list[Any]:
    types = {type(value) for value in values if value is not None}
    if types <= {int, float} and float in types:
        return [None if value is None else float(value) for value in values]
    return values if len(types) <= 1 else [None if value is None else format_value(value) for value in values]
