"""Find the cheapest way to run a diffusers pipeline at a given quality, and apply it.

>>> import tuner
>>> study = tuner.tune("black-forest-labs/FLUX.1-dev", budget="20m")
>>> study.best.chosen.changed
>>> pipe, call = tuner.load("best_config.json")
>>> images = pipe(["a large red circle"] * call.batch, **call.arguments).images
"""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers know it; typing would be imported before `python -m tuner` is safe to import

if TYPE_CHECKING:
    from typing import Any

    from tuner.api.study import Study
    from tuner.api.tuning import tune
    from tuner.result.apply import Call, Tuned, apply, load
    from tuner.result.records import BestConfig

HOMES = {
    "BestConfig": "tuner.result.config",
    "Call": "tuner.result.apply",
    "Study": "tuner.api.study",
    "Tuned": "tuner.result.apply",
    "apply": "tuner.result.apply",
    "load": "tuner.result.apply",
    "tune": "tuner.api.tuning",
}
"""The module of each public name."""

__all__ = ["BestConfig", "Call", "Study", "Tuned", "apply", "load", "tune"]


def __dir__() -> list[str]:
    """List the public names, for completion."""
    return __all__


def __getattr__(name: str) -> Any:
    """Import a public name on first use. A worker imports this package too and needs none of them."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(HOMES[name]), name)
