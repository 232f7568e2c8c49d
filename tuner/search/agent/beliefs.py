"""What is assumed of a setting before it was tried: what an advisor expects, else next to nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np

from tuner.advisor.skipping import BY_THRESHOLD, fewer_steps
from tuner.knobs.graphs import DenoiserGraph
from tuner.records.advice import Expectation
from tuner.records.codec import Value, Values
from tuner.records.warm_start import Part, WarmStart
from tuner.search.agent.features import SCOPE, STEPS, Array, Setting, acts_outside_steps, alike, changes_image
from tuner.search.agent.observed import MIN_S, Seconds
from tuner.search.agent.regression import Pair, Prior
from tuner.timing.intervals import Z_95

STEP = {"mean": 0.0, "deviation": 0.2, "none": 0.005}
"""The log of a step's time: what a setting does, with its deviation, and what one does that acts elsewhere."""

FIXED = {"deviation": 0.5, "other": 0.03, "pair": 0.3}
"""The log of the rest of a call: what a setting of the VAE or the text encoders does, and any other."""

PAIR_DEVIATION = 0.1
SIGMA = 0.01
"""The relative error of a latency: of the measurement, and of the model."""

LOSS = {"mean": 0.15, "deviation": 0.4, "pair": 0.2, "sigma": 0.03}
"""The loss of quality by a setting that changes the image, and errors, as shares of the tolerated loss."""

MAX_HARM = 8.0
"""A number is assumed to be at most so many times as harmful as the untouched pipeline's."""

CACHE, CACHE_KIND, THRESHOLD, GRAPH = "cache.", "cache.kind", "cache.threshold", DenoiserGraph.name

RECIPE_GAIN = 0.1
"""The log ratio that a recipe's settings are assumed to gain, each its part, where nothing else is known of them."""

MIN_DOUBT = 0.05
"""An expectation's log ratio has at least this deviation."""

DOUBT: Mapping[Part, float] = {"step": 0.05, "fixed": 0.05, "first_call": 10.0, "loss": 0.1}
"""How far an effect may be from that in another study on the same device: log ratios, seconds, tolerated losses."""

OTHER_DEVICE = 3.0
"""How many times as far on another device."""

FIRST_CALL_S = 45.0
"""Seconds to compile blocks, as `tuner.search.plan` assumes."""

WHOLE_RATIO, AUTOTUNE_RATIO = 2.5, 15.0
"""How many times as long it takes to compile a whole denoiser (104 to 146 s on an H200), and to autotune: FLUX.1-dev,
whose blocks take 24 s, and SDXL were not done after 330 s."""


def weak(settings: Sequence[Setting], recommended: Sequence[Setting]) -> tuple[Prior, Prior]:
    """Return what is assumed of a step and of the rest without an advisor."""
    outside = np.array([acts_outside_steps(setting) for setting in settings], bool)
    liked = np.array([setting in recommended for setting in settings], bool)
    idle = np.array([setting[0] == "steps" for setting in settings], bool)
    step = Prior(
        mean=np.where(liked & ~outside & ~idle, -RECIPE_GAIN, 0.0),
        deviation=np.where(outside | idle, STEP["none"], STEP["deviation"]),
        pair_deviation=PAIR_DEVIATION,
        sigma=SIGMA,
        alike=alike(settings),
    )
    fixed = Prior(
        mean=np.where(liked & outside, -RECIPE_GAIN, 0.0),
        deviation=np.where(outside, FIXED["deviation"], FIXED["other"]),
        pair_deviation=FIXED["pair"],
        sigma=SIGMA,
    )
    return step, fixed


def advised(
    priors: tuple[Prior, Prior], settings: Sequence[Setting], expectations: Sequence[Expectation], call: Seconds,
    untouched: Values,
) -> tuple[Prior, Prior]:  # fmt: skip
    """Return what is assumed of a step and of the rest, where an advisor expects something of a setting.

    What it expects of a cache's threshold beside one kind of cache is assumed of the pair: it says nothing of the other
    kinds. So is what it expects beside a CUDA graph. Fewer steps do not change a step, but for what a cache skips.
    """
    step, fixed = priors
    steps = int(untouched[STEPS])
    index = {setting: column for column, setting in enumerate(settings)}
    for expectation in expectations:
        column = index.get((expectation.knob, expectation.value))
        if column is None or expectation.knob == STEPS:
            continue
        outside = acts_outside_steps(settings[column])
        prior, part = (fixed, call.fixed) if outside else (step, call.step * steps)
        mean, deviation = _log_of_part(expectation, part, call.fixed + call.step * steps)
        companion = _decisive(expectation)
        if companion in index:
            pair = _pair(index[companion], column)
            prior.pairs[pair], prior.pair_deviations[pair] = mean, max(deviation, MIN_DOUBT)
        else:
            prior.mean[column], prior.deviation[column] = mean, max(deviation, MIN_DOUBT)
    for pair, mean in _of_fewer_steps(settings, untouched):
        step.pairs[pair], step.pair_deviations[pair] = mean, max(abs(mean) / 2, PAIR_DEVIATION)
    return step, fixed


def _decisive(expectation: Expectation) -> Setting | None:
    """Return the setting without which an expectation says nothing, of those that it is beside, or None."""
    if GRAPH in expectation.beside:
        return GRAPH, expectation.beside[GRAPH]
    is_of_cache = expectation.knob.startswith(CACHE) and CACHE_KIND in expectation.beside
    return (CACHE_KIND, expectation.beside[CACHE_KIND]) if is_of_cache else None


def _of_fewer_steps(settings: Sequence[Setting], untouched: Values) -> Iterator[tuple[Pair, float]]:
    """Yield pairs of a kind of cache, or its threshold, with fewer steps, and the log by which a step takes longer."""
    steps, threshold = int(untouched[STEPS]), untouched.get(THRESHOLD)
    kinds = [str(value) for name, value in settings if name == CACHE_KIND and value in BY_THRESHOLD]
    if not kinds or threshold is None:
        return
    index = {setting: column for column, setting in enumerate(settings)}

    def longer(kind: str, at: Value, count: int) -> float:
        return math.log(fewer_steps(kind, float(at), count, steps))

    for count in [int(value) for name, value in settings if name == STEPS]:
        for kind in kinds:
            yield _pair(index[CACHE_KIND, kind], index[STEPS, count]), longer(kind, threshold, count)
        for at in [value for name, value in settings if name == THRESHOLD]:
            more = fmean(longer(kind, at, count) - longer(kind, threshold, count) for kind in kinds)
            yield _pair(index[THRESHOLD, at], index[STEPS, count]), more


def _pair(one: int, other: int) -> Pair:
    return min(one, other), max(one, other)


def _log_of_part(expectation: Expectation, part_s: float, call_s: float) -> tuple[float, float]:
    """Return the log by which a part of a call changes so that the whole has the expected ratio, with its deviation."""
    logs = [
        math.log(max(part_s - call_s * (1 - 1 / ratio), 0.02 * part_s, MIN_S) / max(part_s, MIN_S))
        for ratio in (expectation.ratio, expectation.low, expectation.high)
    ]
    return logs[0], abs(logs[1] - logs[2]) / 2 / Z_95


def of_loss(settings: Sequence[Setting], tolerance: float, untouched: Values) -> Prior:
    """Return what is assumed of the loss of quality: more of fewer steps, and of higher thresholds of a cache."""
    changing = np.array([changes_image(setting) for setting in settings], bool)
    harm = np.array([_harm(name, value, untouched.get(name)) for name, value in settings])
    return Prior(
        mean=np.where(changing, LOSS["mean"] * harm * tolerance, 0.0),
        deviation=np.where(changing, LOSS["deviation"] * tolerance, 1e-6),
        pair_deviation=LOSS["pair"] * tolerance,
        sigma=LOSS["sigma"] * tolerance,
    )


def _harm(name: str, value: Value, untouched: Value | None) -> float:
    """Return how many times as harmful a number is as the untouched pipeline's; 1 for what is no number.

    Larger numbers of a cache let it skip more. Of other knobs smaller numbers, as of steps, leave more out.
    """
    numbers = [float(each) for each in (value, untouched) if isinstance(each, (int, float)) and each > 0]
    if len(numbers) < 2 or isinstance(value, bool):
        return 1.0
    ratio = numbers[0] / numbers[1] if name.startswith(CACHE) else numbers[1] / numbers[0]
    return min(max(ratio, 1 / MAX_HARM), MAX_HARM)


def of_first_call(settings: Sequence[Setting], rows: Array, seconds: Array) -> Prior:
    """Return what is assumed of the seconds of a first call, at the scale of those of the builds that were seen."""
    ratios = compile_ratios(settings)
    blocks = rows @ ratios
    mean = ratios * float((FIRST_CALL_S + seconds[blocks > 0].sum()) / (1.0 + blocks.sum()))
    return Prior(mean=mean, deviation=np.maximum(mean, 4.0), pair_deviation=FIRST_CALL_S, sigma=3.0)


def compile_ratios(settings: Sequence[Setting]) -> Array:
    """Return how many times as long as blocks each setting takes to compile; 0 of what compiles nothing."""
    return np.array([_compile_ratio(*setting) for setting in settings], float)


def _compile_ratio(name: str, value: Value) -> float:
    if name == "compile.mode":
        return AUTOTUNE_RATIO if "autotune" in str(value) else 0.0
    if name == SCOPE:
        return WHOLE_RATIO if value == "full" else 1.0
    return 1.0 if name in ("compile.vae", "compile.text_encoders") else 0.0


def warmed(prior: Prior, part: Part, index: Mapping[Setting, int], warm: WarmStart, unit: float) -> Prior:
    """Return what is assumed of a part where another study tells of a setting, or of a pair."""
    doubt = DOUBT[part] * unit * (1.0 if warm.is_same_device or part == "loss" else OTHER_DEVICE)
    mean, deviation, pairs = prior.mean.copy(), prior.deviation.copy(), dict(prior.pairs)
    for effect in warm.effects:
        columns = sorted(index[setting] for setting in effect.settings.items() if setting in index)
        if effect.part != part or len(columns) != len(effect.settings):
            continue
        if len(columns) == 2:
            pairs[columns[0], columns[1]] = effect.mean
        else:
            column = columns[0]
            mean[column] = effect.mean
            deviation[column] = min(deviation[column], math.hypot(effect.error, doubt))
    return replace(prior, mean=mean, deviation=deviation, pairs=pairs)
