"""How many workers live on a device at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec
import psutil

from tuner.records.machine import Environment
from tuner.records.outcome import Device, Outcome
from tuner.search.budget import Budget
from tuner.search.history import History

MAX_SLOTS = {"cpu": 2, "cuda": 4}
"""The largest number of workers. On a CPU all share the cores, and two keep them busy."""

CORES_EACH = {"cpu": 1, "cuda": 4}
"""Cores that a worker needs to build while others do."""

PARTNER = 1
"""The second of a pair takes no room of its own: either of them stands still while the other is timed."""

COPIED_SHARE = 0.5
"""The share of the lent weights of which a build is assumed to have its own copy: in 8 bits, or some fused layers. What
runs out of memory beside others is run again alone."""

MAX_WAITING = {"cpu": 0, "cuda": 4}
"""How many workers more may live because as many wait to be judged: these need memory, and no core."""

FREE_SHARE = 0.9
"""The share of a memory that workers may fill."""


def max_slots(environment: Environment) -> int:
    """Return how many workers a device may have at most."""
    return max(1, min(MAX_SLOTS[environment.device], environment.cpu_count // CORES_EACH[environment.device]))


def max_alive(environment: Environment) -> int:
    """Return how many workers may live on a device at most, with those that wait and the second of a pair."""
    return max_slots(environment) + MAX_WAITING[environment.device] + PARTNER


def limit_compiling(history: History, budget: Budget, environment: Environment) -> None:
    """Set how long a build may compile now, by the budget."""
    history.compile_limit_s = compile_share(environment, history.devices) * budget.compile_limit_s


def compile_share(environment: Environment, devices: Iterable[Device]) -> int:
    """Return how many times as long a build may compile because others do at once: on a CPU they share its cores."""
    return max_slots(share_of(environment, devices)) if environment.device == "cpu" else 1


def share_of(environment: Environment, devices: Iterable[Device]) -> Environment:
    """Return what a device has of a host with several: its share of the cores."""
    most = max(Counter(device.node for device in devices).values(), default=1)
    return msgspec.structs.replace(environment, cpu_count=max(1, environment.cpu_count // most))


def slots(environment: Environment, baseline: Outcome | None, waiting: int = 0) -> int:
    """Return how many workers may live when so many `waiting` ones are not at work.

    One until the baseline's peak memory is known, which tells how many fit.
    """
    if baseline is None or baseline.memory is None:
        return 1
    lent = min(baseline.memory.lent_bytes, baseline.memory.peak_bytes)
    own = baseline.memory.peak_bytes - lent + COPIED_SHARE * lent
    fitting = int((FREE_SHARE * memory_bytes(environment) - lent) / max(1.0, own))
    return max(1, min(max_slots(environment) + min(waiting, MAX_WAITING[environment.device]), fitting))


def memory_bytes(environment: Environment) -> int:
    """Return the size of the memory that workers share: the GPU's, or the host's."""
    return environment.device_memory_bytes or psutil.virtual_memory().total
