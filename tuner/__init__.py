"""Finds the cheapest way to run a diffusers pipeline at a given quality, and applies it.

>>> import tuner
>>> pipe, call = tuner.load("best_config.json")
>>> images = pipe(["a large red circle"] * call.batch, **call.arguments).images
"""

from tuner.export import BestConfig, Call, Tuned, apply, load

__all__ = ["BestConfig", "Call", "Tuned", "apply", "load"]
