"""The experiment trackers, by the names of --log."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from tuner.errors import TunerError, Unavailable
from tuner.tracking.mlflow import MLflow
from tuner.tracking.queue import first_line
from tuner.tracking.tracker import Tracker
from tuner.tracking.wandb import WandB

TRACKERS: dict[str, type[Tracker]] = {"mlflow": MLflow, "wandb": WandB}


def check_installed(names: Sequence[str]) -> None:
    """Raise Unavailable unless the packages of all these trackers are installed."""
    for name in names:
        package = TRACKERS[name].package
        if find_spec(package) is None:
            raise Unavailable(f"--log {name}: {package} is not installed; pip install {package}")


def connect(names: Sequence[str], study: str) -> dict[str, Tracker]:
    """Connect to trackers. Raises Unavailable for one that cannot be reached."""
    check_installed(names)
    return {name: _connect(name, study) for name in dict.fromkeys(names)}


def _connect(name: str, study: str) -> Tracker:
    try:
        return TRACKERS[name](study)
    except TunerError as error:
        raise Unavailable(f"--log {name}: {error}") from None
    except Exception as error:
        raise Unavailable(f"--log {name}: {type(error).__name__}: {first_line(error)}") from None
