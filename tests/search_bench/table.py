"""Tables that a search is replayed against: what each candidate takes to build, its latency and what it loses."""

from __future__ import annotations

import gzip
import json
import math
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from kinds import kind

from tuner.records.advice import Expectation
from tuner.records.codec import Values, fingerprint
from tuner.records.machine import Environment
from tuner.space import reader
from tuner.space.candidates import SearchSpace, candidate_key, image_key

MIN_ADVICE_ERROR = 0.02
"""The deviation that advice admits at least, and by which it is off where a value changes nothing."""

DATA = Path(__file__).resolve().parent.parent / "data"
SPACES = DATA.parent.parent / "search_spaces"
H200 = Environment(
    device="cuda", device_name="NVIDIA H200", compute_capability="9.0", device_memory_bytes=150 * 2**30, driver="580",
    cpu_count=16, cpp_compiler="/usr/bin/g++", python="3.12", platform="Linux",
    libraries={"torch": "2.11.0", "torchao": "0.18.0", "triton": "3.6.0"},
)  # fmt: skip


@dataclass(frozen=True)
class Point:
    """What a worker finds of a candidate: `status`, seconds per image, first call, and points of quality lost.

    `code` names what is compiled: who compiles the same again finds it in the cache. `denoiser_s` are the seconds of
    the latency in the denoiser, None if the table does not tell.
    """

    status: str
    latency_s: float = 0.0
    build_s: float = 0.0
    penalty: float = 0.0
    code: str = ""
    denoiser_s: float | None = None


@dataclass(frozen=True)
class Effect:
    """What values do together, beyond what fewer of them do."""

    when: Values
    step: float = 1.0
    vae: float = 1.0
    text: float = 1.0
    build_s: float = 0.0
    penalty: float = 0.0


class Table:
    """The candidates of a space, and the point of each."""

    space: SearchSpace
    noise: Mapping[str, float]
    cached_share: float

    def point(self, values: Values) -> Point:
        """Return the point of a candidate, without noise."""
        raise NotImplementedError

    def expectations(self, error: float, seed: int) -> tuple[Expectation, ...]:
        """Return what an advisor would say whose log ratios are off by this share; nothing by default."""
        return ()


class Composed(Table):
    """A table composed from effects."""

    def __init__(self, written: Mapping[str, Any], effects: Sequence[Effect], settings: Sequence[str] = ()) -> None:
        self.space = reader.load(SPACES / f"{written['space']}.yaml", kind(), H200, [*written["settings"], *settings])
        self.noise, self.cached_share, self.untouched = written["noise"], written["cached_share"], written["untouched"]
        self.failures = written["failures"]
        self.effects = effects
        self.by_value: dict[tuple[str, object], list[Effect]] = defaultdict(list)
        for effect in effects:
            self.by_value[next(iter(effect.when.items()))].append(effect)

    def applying(self, values: Values) -> Iterator[Effect]:
        """Yield the effects of a candidate."""
        for item in values.items():
            for effect in self.by_value.get(item, ()):
                if len(effect.when) == 1 or effect.when.items() <= values.items():
                    yield effect

    def point(self, values: Values) -> Point:
        code = fingerprint({name: value for name, value in values.items() if name not in CALL})
        for failure in self.failures:
            if failure["when"].items() <= values.items():
                return Point(failure["status"], build_s=self.build_s(values), code=code)
        step, vae, text = (self.untouched[name] for name in ("step_s", "vae_s", "text_s"))
        build_s = penalty = 0.0
        for effect in self.applying(values):
            step, vae, text = step * effect.step, vae * effect.vae, text * effect.text
            build_s, penalty = build_s + effect.build_s, penalty + effect.penalty
        denoiser_s = int(values["steps"]) * step
        return Point("measured", denoiser_s + vae + text, build_s, penalty, code, denoiser_s)

    def build_s(self, values: Values) -> float:
        """Return the seconds of the first call."""
        return sum(effect.build_s for effect in self.applying(values))

    def shuffled(self, seed: int) -> Composed:
        """Return a table in which the figures of single values, and those of pairs, have changed their places."""
        chance = random.Random(seed)
        effects = [*self.effects]
        for count in (1, 2):
            of = [index for index, effect in enumerate(effects) if len(effect.when) == count]
            for fields in (("step", "build_s"), ("penalty",)):
                shown = [
                    index for index in of if any(getattr(effects[index], f) != getattr(Effect({}), f) for f in fields)
                ]
                source = chance.sample(shown, len(shown))
                changes = [{f: getattr(self.effects[index], f) for f in fields} for index in source]
                for index, change in zip(shown, changes, strict=True):
                    effects[index] = replace(effects[index], **change)
        other = Composed.__new__(Composed)
        other.__dict__.update(self.__dict__)
        other.effects, other.by_value = effects, defaultdict(list)
        for effect in effects:
            other.by_value[next(iter(effect.when.items()))].append(effect)
        return other

    def expectations(self, error: float, seed: int) -> tuple[Expectation, ...]:
        """Return what an advisor would say: like a real one, also of values that change nothing."""
        chance, baseline = random.Random(seed), self.space.candidate({})
        plain = {"step": 1.0, "vae": 1.0, "text": 1.0}
        found = []
        told = [effect for effect in self.effects if {part: getattr(effect, part) for part in plain} != plain]
        for effect in (*told, *self.without_effect()):
            ((name, value), *more) = effect.when.items()
            if more or value not in self.space.knobs.get(name, ()):
                continue
            call_s = self.call_s(int(baseline["steps"]), effect)
            log = math.log(self.call_s(int(baseline["steps"]), Effect({})) / call_s)
            deviation = error * abs(log) or MIN_ADVICE_ERROR
            said, half = log + chance.gauss(0, deviation), 1.96 * max(error * abs(log), MIN_ADVICE_ERROR)
            found.append(
                Expectation(
                    knob=name,
                    value=value,
                    ratio=math.exp(said),
                    low=math.exp(said - half),
                    high=math.exp(said + half),
                    reason="a figure of the table, made inexact",
                )
            )
        return tuple(found)

    def without_effect(self) -> Iterator[Effect]:
        """Yield the values of the knobs that the table does not have: they change nothing."""
        known = {name for effect in self.effects for name in effect.when}
        for name, choices in self.space.knobs.items():
            if name not in known:
                yield from (Effect({name: value}) for value in choices if value != self.space.baseline.get(name))

    def call_s(self, steps: int, effect: Effect) -> float:
        """Return the seconds of a call of the untouched pipeline with one effect."""
        own = self.untouched
        return steps * own["step_s"] * effect.step + own["vae_s"] * effect.vae + own["text_s"] * effect.text


class Recorded(Table):
    """A table of measured points. What was not measured fails."""

    def __init__(self, written: Mapping[str, Any]) -> None:
        family = written.get("pipeline", "FluxPipeline")
        self.space = reader.load(SPACES / f"{written['space']}.yaml", kind(family), H200)
        self.noise, self.cached_share = written["noise"], written["cached_share"]
        self.points = {candidate_key(point.pop("values")): Point(**point) for point in written["points"]}

    def point(self, values: Values) -> Point:
        return self.points.get(candidate_key(values), Point("failed"))


CALL = ("steps",)
"""What another build need not compile again for."""


def load(file: Path, settings: Sequence[str] = ()) -> Table:
    """Read a table: effects to compose (YAML), or measured points (JSON, compressed)."""
    if file.suffix == ".gz":
        return Recorded(json.loads(gzip.decompress(file.read_bytes())))
    written = yaml.safe_load(file.read_text())
    fields = Effect.__dataclass_fields__
    effects = [Effect(**{k: v for k, v in effect.items() if k in fields}) for effect in written["effects"]]
    return Composed(written, effects, settings)


def noise_of(table: Table, values: Values, seed: int) -> tuple[float, float]:
    """Return the relative error of a build's timing and the error of an image's score: the same whenever asked."""
    of_build = random.Random(f"{seed} {fingerprint({n: v for n, v in values.items() if n != 'steps'})}")
    of_image = random.Random(f"{seed} {image_key(values)}")
    return of_build.gauss(0, table.noise["timing"]), of_image.gauss(0, table.noise["penalty"])


@cache
def flux(*settings: str) -> Table:
    """Return the table of FLUX.1-dev."""
    return load(DATA / "flux_effects.yaml", settings)
