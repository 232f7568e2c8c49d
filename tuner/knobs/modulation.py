"""The modulation of adaptive norms (shift, scale and gate), computed for all steps of a call at once."""

from __future__ import annotations

import ast
import functools
import inspect
import re
from collections.abc import Mapping
from typing import Any

from tuner.knobs.base import Knob, NoEffect, denoisers, for_each_denoiser
from tuner.knobs.code import Code
from tuner.knobs.modulated_layers import Layers, find_layers
from tuner.model.diffusers_source import class_source, class_tree
from tuner.records.codec import Value
from tuner.records.machine import Environment
from tuner.records.model import Architecture

EMBEDDING = re.compile(r"\bt?emb = self\.\w+\(")
"""Matches where a denoiser embeds the timestep, and what goes with it, in one module."""

ADAPTIVE = re.compile(r"\bAdaLayerNorm(Zero|ZeroSingle|Continuous)\(|\w+NormZero\(|nn\.SiLU\(\),\s*nn\.Linear\(")
MAX_BRANCHES = 4
MAX_SCHEDULES = 32
MAX_UNKEPT = 2
"""Calls in a row whose timesteps could not be kept, after which the reason is taken to be the pipeline's. A single one
may have been interrupted."""


class ModulationOnce(Knob):
    """Whether what adaptive norms derive from the timestep is computed once for all steps, before the first.

    Shift, scale and gate depend on the timestep, guidance and pooled text only. Each step then reads its row of a table
    instead of multiplying these weights again, which are a quarter of FLUX.1's.
    """

    name = "modulation.once"
    choices = (False, True)
    order = 43  # around the denoiser's compiled or captured call
    other_arithmetic = True  # a step reads a row of a table instead of these weights

    def unavailable_reason(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        if not value:
            return None
        for denoiser in architecture.denoisers:
            if not embeds_once(denoiser.class_name):
                return f"{architecture.pipeline_class}'s denoiser has no adaptive norms fed by one embedding"
        return None

    def conflict_reason(self, values: Mapping[str, Value], architecture: Architecture) -> str | None:
        if not values.get(self.name):
            return None
        if values.get("memory.group_offload") or values.get("memory.layerwise_casting"):
            return "the norms' weights are used between the steps, where they are offloaded or stored in 8 bits"
        if values.get("cache.kind") == "dbcache":
            return "cache-dit replaces the blocks whose norms are looked for"
        return None

    def is_set(self, pipe: Any, values: Mapping[str, Value]) -> bool:
        return any(isinstance(denoiser._compiled_call_impl, Modulation) for denoiser in denoisers(pipe))

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        names = []
        for denoiser in denoisers(pipe):
            denoiser._compiled_call_impl = Modulation(pipe, denoiser)
            names.append(type(denoiser).__name__)
        if not names:
            raise NoEffect("the pipeline has no denoiser")
        return f"{', '.join(names)}: from the second call with the same timesteps on, computed once a call"

    def code(self, values: Mapping[str, Value]) -> Code | None:
        return for_each_denoiser("denoiser._compiled_call_impl = Modulation(pipe, denoiser)", carried=(Modulation,))

    def idle_reason(self, pipe: Any, values: Mapping[str, Value]) -> str | None:
        calls = (denoiser._compiled_call_impl for denoiser in denoisers(pipe))
        return next((call.problem for call in calls if isinstance(call, Modulation) and call.problem), None)


@functools.cache
def embeds_once(class_name: str) -> bool:
    """Return whether a denoiser's forward embeds the timestep in one module, which adaptive norms read as it is."""
    tree = class_tree("models", class_name)
    forward = ast.unparse(tree) if tree else ""
    is_read = "silu(temb)" not in forward and ADAPTIVE.search(class_source("models", class_name))
    return bool(is_read and EMBEDDING.search(forward))


class Modulation:
    """A denoiser's call before which the step's modulation is written to the memory that its layers give back.

    The first call is watched, and the layers that it finds are replaced. The timesteps that a pipeline gives its
    denoiser follow from the scheduler's, but how differs between pipelines. So the first call of the pipeline with new
    timesteps of the scheduler computes each step's modulation in that step and keeps the timesteps. Later ones compute
    all of them at their first step, anew if an input other than latents and timestep is another object or was changed.
    """

    def __init__(self, pipe: Any, denoiser: Any) -> None:
        self.problem: str | None = None
        self._call = denoiser._compiled_call_impl or denoiser._call_impl
        self._pipe = pipe
        self._denoiser = denoiser
        self._names = list(inspect.signature(denoiser.forward).parameters)
        self._layers: Layers | None = None
        self._given = GivenTimesteps(pipe.scheduler)
        self._begun: Any = None
        self._key: Any = None
        self._known: Any = None
        self._unkept = 0
        self._branches: list[Branch] = []
        self._schedules: dict[Any, Any] = {}

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        named = dict(zip(self._names, arguments, strict=False)) | named
        if self._layers is None and self.problem is None:
            self._layers = find_layers(self._denoiser, named)
            self.problem = None if self._layers else "no layer of the denoiser reads an embedding of one row an image"
        if self._layers is not None:
            self._layers.fill(self._rows(self._layers, named))
        return self._call(**named)

    def _rows(self, layers: Layers, named: dict[str, Any]) -> Any:
        """Return the modulation of this call, a row for each image."""
        timestep = named["timestep"]
        if self._pipe.scheduler.timesteps is not self._begun:
            self._begin(timestep)
        branch = self._branch(named) if self.problem is None else None
        if branch is None:
            return layers.compute(named, timestep.flatten()[:1])[0]
        branch.calls += 1
        if self._known is None:
            branch.passed.append(timestep.flatten()[:1])
            return layers.compute(named, timestep.flatten()[:1])[0]
        if branch.table is None:
            branch.table = layers.compute(named, self._known)
        if branch.calls == len(self._begun):  # its last step: what follows, as the VAE, needs the memory
            self._branches.remove(branch)
        return row_of(branch.table, self._known, timestep)

    def _begin(self, timestep: Any) -> None:
        """Begin a call of the pipeline: keep the timesteps of the last one, if it had all its steps."""
        if self._known is None and self._branches:
            self._keep()
        scheduler = self._pipe.scheduler
        self._begun, self._branches = scheduler.timesteps, []
        given = self._given.key_of(scheduler)
        self._key = None if given is None else (timestep.dtype, given)
        self._known = self._schedules.get(self._key)

    def _keep(self) -> None:
        """Keep the timesteps of a call with a new schedule. Waits for the GPU, once a schedule."""
        import torch

        if self._key is None or self._branches[0].calls != len(self._begun):
            self._unkept += 1
            if self._unkept == MAX_UNKEPT:
                self.problem = "the pipeline does not give its denoiser each timestep that it asked its scheduler for"
            return
        self._unkept = 0
        while len(self._schedules) >= MAX_SCHEDULES:
            self._schedules.pop(next(iter(self._schedules)))
        self._schedules[self._key] = torch.unique(
            torch.cat([each for branch in self._branches for each in branch.passed])
        )

    def _branch(self, named: dict[str, Any]) -> Branch | None:
        """Return the branch of guidance with these inputs, a new one if they are new; None if they never repeat."""
        given = {name: value for name, value in named.items() if name not in ("hidden_states", "timestep")}
        for branch in self._branches:
            if branch.has(given):
                return branch
        if any(map(is_unversioned, given.values())):
            self.problem = "the pipeline is called in torch.inference_mode, where a change of its inputs is not seen"
            return None
        if len(self._branches) == MAX_BRANCHES:
            self.problem = "the pipeline gives its denoiser other inputs in each step"
            return None
        self._branches.append(Branch(given))
        return self._branches[-1]


class GivenTimesteps:
    """What a scheduler's timesteps were made from, known without reading them from the GPU."""

    def __init__(self, scheduler: Any) -> None:
        self._timesteps: Any = None
        self._key: Any = None
        set_timesteps = scheduler.set_timesteps

        @functools.wraps(set_timesteps)  # pipelines read its signature
        def noted(*arguments: Any, **named: Any) -> None:
            set_timesteps(*arguments, **named)
            self._timesteps = scheduler.timesteps
            self._key = plain_data((arguments, named, dict(scheduler.config), getattr(scheduler, "shift", None)))

        scheduler.set_timesteps = noted

    def key_of(self, scheduler: Any) -> Any:
        """Return what the timesteps follow from; None if they were set in another way, or from a tensor."""
        return self._key if scheduler.timesteps is self._timesteps else None


class Branch:
    """The calls of a denoiser within one call of the pipeline that differ in latents and timestep only."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.calls = 0
        self.passed: list[Any] = []
        self.table: Any = None
        self._given = given
        self._versions = {name: version_of(value) for name, value in given.items()}

    def has(self, given: dict[str, Any]) -> bool:
        """Return whether these inputs are the same objects, and were not changed in place since."""
        return given.keys() == self._given.keys() and all(
            value is self._given[name] and version_of(value) == self._versions[name] for name, value in given.items()
        )


def plain_data(value: Any) -> Any:
    """Return arguments and settings in a form that can be a key, or None if a tensor is among them."""
    import torch

    if isinstance(value, torch.Tensor):
        return None
    if isinstance(value, dict):
        value = [each for item in sorted(value.items()) for each in item]
    if not isinstance(value, (list, tuple)):
        return repr(value.tolist() if hasattr(value, "tolist") else value)
    plain = tuple(map(plain_data, value))
    return None if None in plain else plain


def version_of(value: Any) -> int:
    """Return how often a tensor was changed in place, 0 for anything else."""
    import torch

    return value._version if isinstance(value, torch.Tensor) else 0


def is_unversioned(value: Any) -> bool:
    """Return whether a value is a tensor that does not count its changes."""
    import torch

    return isinstance(value, torch.Tensor) and value.is_inference()


def row_of(table: Any, known: Any, timestep: Any) -> Any:
    """Return the rows of a table of (timesteps, images, columns) that belong to the timestep of each image.

    Nothing waits for the GPU, so a timestep that is not known cannot be computed: its row is not a number.
    """
    import torch

    images = torch.arange(table.shape[1], device=table.device)
    is_same = known[:, None] == timestep.flatten().expand(len(images))
    rows = table[is_same.int().argmax(0), images]
    return torch.where(is_same.any(0)[:, None], rows, torch.nan)
