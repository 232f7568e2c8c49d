"""Find the cheapest way to run a diffusers pipeline at a given quality, and apply it.

>>> import tuner
>>> pipe, call = tuner.load("best_config.json")
>>> images = pipe(["a large red circle"] * call.batch, **call.arguments).images
"""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers know it; typing would be imported before `python -m tuner` is safe to import

if TYPE_CHECKING:
    from typing import Any

    from tuner.result.apply import Call, Tuned, apply, load
    from tuner.result.records import BestConfig

__all__ = ["BestConfig", "Call", "Tuned", "apply", "load"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use. A worker imports this package too and needs none of them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tuner.result import apply, config

    return getattr(config if name == "BestConfig" else apply, name)
