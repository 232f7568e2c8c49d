"""List what one more package would enable on this machine."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from tuner.commands.doctor.abilities import well_known_architectures
from tuner.commands.doctor.packages import PURPOSES, requirements
from tuner.commands.doctor.records import Addition
from tuner.knobs import KNOBS, Knob
from tuner.records.codec import Value
from tuner.records.machine import Environment
from tuner.records.model import Architecture

ANY_VERSION = "9999"
"""Stands for the newest version of a package that is not installed."""

INSTALL_HINT = re.compile(r"\(([^()]+)\)$")
"""The remedy in parentheses at the end of a reason."""


class _Refusal(NamedTuple):
    """A value that a knob refuses for an architecture on this machine."""

    architecture: Architecture
    knob: Knob
    value: Value
    reason: str

    def is_lifted(self, env: Environment) -> bool:
        """Return whether the value could be used in another environment."""
        return self.knob.unavailable_reason(self.value, env, self.architecture) is None


def list_additions(env: Environment) -> tuple[Addition, ...]:
    """List what each missing or outdated package would enable by itself.

    Every refused value is checked again as if the newest version of the package were installed.
    """
    refusals = _refusals(env)
    additions = []
    for package, version in env.libraries.items():
        if version is not None and package in requirements():
            continue  # its range of versions is fixed
        with_package = msgspec.structs.replace(env, libraries={**env.libraries, package: ANY_VERSION})
        lifted = [refusal for refusal in refusals if refusal.is_lifted(with_package)]
        if lifted:
            additions.append(_addition(package, lifted))
    return tuple(additions)


def _refusals(env: Environment) -> list[_Refusal]:
    return [
        _Refusal(architecture, knob, value, reason)
        for architecture in well_known_architectures()
        for knob in KNOBS.values()
        for value in knob.choices
        if (reason := knob.unavailable_reason(value, env, architecture)) is not None
    ]


def _addition(package: str, lifted: Sequence[_Refusal]) -> Addition:
    adds: defaultdict[str, list[Value]] = defaultdict(list)
    for refusal in lifted:
        if refusal.value not in adds[refusal.knob.name]:
            adds[refusal.knob.name].append(refusal.value)
    hint = INSTALL_HINT.search(lifted[0].reason)
    pipelines = dict.fromkeys(refusal.architecture.pipeline_class for refusal in lifted)
    return Addition(
        package=package,
        install=hint.group(1) if hint else f"pip install {package}",
        purpose=PURPOSES.get(package, ""),
        adds={name: tuple(values) for name, values in adds.items()},
        pipelines=() if len(pipelines) == len(well_known_architectures()) else tuple(pipelines),
    )
