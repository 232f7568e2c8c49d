"""The denoising schedule: the number of steps, the solver, and a begin index that avoids a device sync."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

from tuner.errors import Unavailable
from tuner.knobs.base import Knob, NoEffect, invalid_count_reason
from tuner.knobs.code import Code
from tuner.model.diffusers_source import class_source
from tuner.records.codec import Value
from tuner.records.machine import Environment
from tuner.records.model import Architecture

MAX_DISTILLED_STEPS = 12


FOR_BOTH = ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler")
SOLVERS: Mapping[str, tuple[str, ...]] = {
    "a flow": ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", *FOR_BOTH),
    "noise": ("EulerDiscreteScheduler", "HeunDiscreteScheduler", *FOR_BOTH),
}
"""Schedulers that can take over one another's configuration, by what the denoiser predicts."""

SHIFTED_BY_MU = ("DPMSolverMultistepScheduler", "DEISMultistepScheduler")
"""Schedulers that require dynamic shifting when they are given its `mu`."""

SIMILAR = {
    "DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "LMSDiscreteScheduler", "EulerAncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "DPMSolverSinglestepScheduler",
}  # fmt: skip
"""Schedulers for noise prediction that can be replaced, but are no better replacement themselves.

Those of CogVideoX, LCM and the like have a noise schedule or a training of their own.
"""


class Steps(Knob):
    """The number of denoising steps: fewer are faster and give another image."""

    name = "steps"
    choices = (28, 20, 14, 10, 6)
    acts = "call"
    may_change_image = True
    uneven_steps = False
    changes_trajectory = True
    changes_noise = False
    other_arithmetic = False
    mixes_batch = False

    def invalid_reason(self, value: Value) -> str | None:
        return invalid_count_reason(value)

    def conflict_reason(self, values: Mapping[str, Value], architecture: Architecture) -> str | None:
        steps = values.get(self.name, 1)
        if values.get("lora.file", "none") != "none" and isinstance(steps, int) and steps > MAX_DISTILLED_STEPS:
            return f"a distilled LoRA is trained for few steps, give at most {MAX_DISTILLED_STEPS}"
        return None

    def call_arguments(self, values: Mapping[str, Value]) -> dict[str, Any]:
        return {"num_inference_steps": values[self.name]}


class SchedulerKind(Knob):
    """The scheduler: the pipeline's `own`, or another with its configuration. Heun's run the denoiser twice a step."""

    name = "scheduler.kind"
    choices = ("own", *dict.fromkeys(name for names in SOLVERS.values() for name in names))
    may_change_image = True
    order = 1
    uneven_steps = False
    changes_trajectory = True
    changes_noise = True
    other_arithmetic = True
    mixes_batch = False

    def unavailable_reason(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        own, name = architecture.components.get("scheduler", ""), str(value)
        if value == "own":
            return None
        if own == value:
            return "it is the pipeline's own"
        if own not in {*self.choices, *SIMILAR}:
            return f"{own or 'this scheduler'} has a schedule of its own that others do not follow"
        settings = architecture.settings.get("scheduler", {})
        predicts = "a flow" if solves_flow(own, settings) else "noise"
        if name not in SOLVERS[predicts]:
            return f"{name} is not for a denoiser that predicts {predicts}"
        if settings.get("invert_sigmas"):
            return f"{own} runs backwards here (invert_sigmas), {name} has no such setting"
        return schedule_conflict(architecture.pipeline_class, name, settings)

    def is_set(self, pipe: Any, values: Mapping[str, Value]) -> bool:
        return type(pipe.scheduler).__name__ == values[self.name]

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        import diffusers

        own, name, pipeline_class = pipe.scheduler, str(values[self.name]), type(pipe).__name__
        if name == type(own).__name__:
            raise NoEffect(f"{name} is the pipeline's own")
        further = flow_settings(own.config, name) if solves_flow(type(own).__name__, own.config) else {}
        scheduler = getattr(diffusers, name).from_config(own.config, **further)
        try:
            scheduler.set_timesteps(**example_schedule(pipeline_class, name))
        except (TypeError, ValueError, AssertionError) as error:
            raise Unavailable(f"{name} does not take the schedule that {pipeline_class} gives: {error!r}") from None
        pipe.scheduler = scheduler
        return f"{type(pipe.scheduler).__name__} in place of {type(own).__name__}"

    def code(self, values: Mapping[str, Value]) -> Code | None:
        name = str(values[self.name])
        lines = (
            "own = pipe.scheduler",
            "is_flow = solves_flow(type(own).__name__, own.config)",
            f"settings = flow_settings(own.config, {name!r}) if is_flow else {{}}",
            f"pipe.scheduler = {name}.from_config(own.config, **settings)",
        )
        return Code(lines, (f"from diffusers import {name}",), (solves_flow, flow_settings))


def solves_flow(scheduler_class: str, settings: Mapping[str, Any]) -> bool:
    """Return whether a scheduler solves the flow that a denoiser predicts, rather than removing predicted noise."""
    return scheduler_class.startswith("FlowMatch") or bool(settings.get("use_flow_sigmas"))


def flow_settings(config: Any, name: str) -> dict[str, Any]:
    """Return the settings that a scheduler needs besides the old one's configuration to solve the same flow."""
    shift = config.get("shift", config.get("flow_shift", 1.0))
    if name.startswith("FlowMatch"):
        return {"shift": shift}
    return {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift}


@functools.cache
def schedule_arguments(pipeline_class: str, scheduler_class: str) -> frozenset[str]:
    """Return the arguments that a pipeline passes to `set_timesteps` besides the number of steps."""
    text = class_source("pipelines", pipeline_class)
    patterns = {
        "sigmas": r"^ +sigmas = (?!None)",
        "timesteps": r"^ +timesteps = \(\s*np\.linspace",
        "mu": r"\bmu=mu\b|\{\"mu\": mu\}",
    }
    names = frozenset(name for name, pattern in patterns.items() if re.search(pattern, text, re.MULTILINE))
    takes_back = "use_flow_sigmas" in text and "use_flow_sigmas" in class_source("schedulers", scheduler_class)
    return names - {"sigmas"} if takes_back else names


def schedule_conflict(pipeline_class: str, scheduler_class: str, settings: Mapping[str, Any]) -> str | None:
    """Return why a scheduler cannot follow the pipeline's schedule, according to their sources, or None."""
    declared = re.search(r"def set_timesteps\((.*?)\)", class_source("schedulers", scheduler_class), re.DOTALL)
    takes = set(re.findall(r"(\w+):", declared[1])) if declared else set()
    gives = schedule_arguments(pipeline_class, scheduler_class)
    if gives - takes:
        return f"{pipeline_class} gives its own {' and '.join(sorted(gives - takes))}, {scheduler_class} takes none"
    is_list = "sigmas" in gives and not re.search(r"sigmas = np\.", class_source("pipelines", pipeline_class))
    if is_list and not scheduler_class.startswith("FlowMatch"):
        return f"{pipeline_class} gives its sigmas as a list, {scheduler_class} takes an array"
    if "mu" in gives and scheduler_class in SHIFTED_BY_MU and not settings.get("use_dynamic_shifting"):
        return f"{pipeline_class} gives mu, which {scheduler_class} takes with dynamic shifting only"
    return None


def example_schedule(pipeline_class: str, scheduler_class: str) -> dict[str, Any]:
    """Return arguments of `set_timesteps` for four steps, such as the pipeline passes."""
    import numpy as np

    steps = 4
    sigmas = np.linspace(1.0, 1 / steps, steps)
    possible = {"sigmas": sigmas, "timesteps": sigmas * 1000, "mu": 1.0}
    gives = schedule_arguments(pipeline_class, scheduler_class)
    count = {} if gives & {"sigmas", "timesteps"} else {"num_inference_steps": steps}
    return {**count, **{name: value for name, value in possible.items() if name in gives}}


class BeginIndex(Knob):
    """Whether the scheduler is told that it starts at step 0, which it would otherwise look up on the GPU."""

    name = "scheduler.begin_index"
    choices = (False, True)
    order = 2
    uneven_steps = False
    changes_trajectory = True
    changes_noise = True
    other_arithmetic = True
    mixes_batch = False

    def unavailable_reason(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        if not value:
            return None
        if "set_begin_index(0)" in class_source("pipelines", architecture.pipeline_class):
            return f"{architecture.pipeline_class} already does so"
        own = architecture.components.get("scheduler", "")
        if "def set_begin_index" not in class_source("schedulers", own):
            return f"{own or 'this scheduler'} has no begin index to set"
        return None

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        scheduler = pipe.scheduler
        if not hasattr(scheduler, "set_begin_index"):
            raise NoEffect(f"{type(scheduler).__name__} has no begin index to set")
        begin_at_step_0(scheduler)
        scheduler.set_timesteps(**example_schedule(type(pipe).__name__, type(scheduler).__name__))
        if scheduler.begin_index != 0:
            raise NoEffect(f"{type(scheduler).__name__} forgot its begin index")
        return f"{type(scheduler).__name__} begins at step 0 without a look-up"

    def code(self, values: Mapping[str, Value]) -> Code | None:
        return Code(("begin_at_step_0(pipe.scheduler)",), carried=(begin_at_step_0,))


def begin_at_step_0(scheduler: Any) -> None:
    """Set the scheduler's begin index whenever a call of the pipeline begins."""
    set_timesteps = scheduler.set_timesteps

    @functools.wraps(set_timesteps)  # pipelines read its signature
    def from_the_start(*arguments: Any, **named: Any) -> None:
        set_timesteps(*arguments, **named)
        scheduler.set_begin_index(0)

    scheduler.set_timesteps = from_the_start
