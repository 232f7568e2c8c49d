"""A best_config.json that chooses given values, for the tests of what is exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from test_export import CPU, example, outcome

from tuner.knobs import KNOBS
from tuner.records.codec import Values, encode_pretty
from tuner.result.config import measured_point
from tuner.result.records import BestConfig


def candidate(different: Values) -> Values:
    """The active knobs' values: the given ones, else the baseline's."""
    values: Values = {}
    for name, knob in KNOBS.items():
        if knob.is_active(values):
            values[name] = {"steps": 4, **different}.get(name, knob.baseline(CPU))
    return values


def choosing(different: Values, **fields: Any) -> BestConfig:
    """A result that chooses these values for the tiny pipeline."""
    best, values = example(), candidate(different)
    changed = {name: value for name, value in values.items() if value != candidate({}).get(name)}
    chosen = measured_point(outcome(5, values, 0.5 * int(values["batch"])), changed, True)
    return msgspec.structs.replace(best, **{"chosen": chosen, "front": (chosen, best.baseline), **fields})


def written(folder: Path, best: BestConfig) -> Path:
    """The file that holds a result."""
    file = folder / f"best-{len(list(folder.iterdir()))}.json"
    file.write_bytes(encode_pretty(best))
    return file
