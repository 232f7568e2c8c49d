"""Optuna's study in a study folder, and its damages."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tuner.errors import BadInput
from tuner.records.database import check, url

METRICS = ("cost_usd_per_1000_images", "quality")


def open_study(folder: Path, afresh: bool = False) -> Any:
    """Open the study of a folder, or make it, also in place of one that is there. Raises BadInput if it is damaged."""
    import optuna

    check(folder / "study.db")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("sqlalchemy").setLevel(logging.CRITICAL)  # it reports cursors that Ctrl-C interrupts
    with damage(folder / "study.db"), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = optuna.storages.RDBStorage(url(folder / "study.db"))
        names = optuna.get_all_study_names(storage)
        name = names[0] if len(names) == 1 else folder.name  # a folder may have been renamed
        if afresh:
            optuna.delete_study(study_name=name, storage=storage)
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            directions=("minimize", "maximize"),
            load_if_exists=True,
        )
        study.sampler = optuna.samplers.RandomSampler(seed=0)  # until a strategy brings its own
        if [direction.name for direction in study.directions] != ["MINIMIZE", "MAXIMIZE"]:
            raise ValueError("its directions are not those of cost and quality")
        study.set_metric_names(list(METRICS))
    return study


@contextmanager
def damage(database: Path) -> Iterator[None]:
    """Turn what Optuna raises for a study that it did not write like that into one line."""
    try:
        yield
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        what = (str(error).splitlines() or [""])[0][:200]
        raise BadInput(f"{database}: damaged: {type(error).__name__}: {what}") from None
