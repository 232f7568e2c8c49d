"""What a study makes of its advisor: the advice is kept, the best of it is told, and what cannot gain is not tried."""

from __future__ import annotations

from collections.abc import Iterator

from tuner.advisor.advise import advise, best_of_knobs
from tuner.files import atomic_write
from tuner.numbers import format_ratio
from tuner.records.advice import FILE, Advice, Expectation
from tuner.records.codec import encode_pretty, read
from tuner.report.formatting import label, pluralize
from tuner.search.gain import timing_noise
from tuner.search.history import History
from tuner.study.store import Store

TOLD = 4
"""Expectations that are told, one for each knob."""

MAX_NOISE = 0.05
"""On noisier machines a larger gain still shows in pairs."""

NOISES = 2.0
"""A gain of so many standard deviations between processes is no noise."""


def take_advice(store: Store, history: History) -> Iterator[str]:
    """Give the history the study's advice, made of the baseline when there is none yet, and yield what to tell."""
    is_new = not (store.folder / FILE).exists()
    history.advice = find_advice(store, history)
    if is_new:
        atomic_write(store.folder / FILE, encode_pretty(history.advice))
        yield from texts(history.advice)


def find_advice(store: Store, history: History) -> Advice:
    """Return the advice that a study keeps, or make it of what is known of the baseline by now.

    What is made before the timing noise is known is not to be kept: nothing is within the noise yet.
    """
    file = store.folder / FILE
    return read(file, Advice) if file.exists() else make_advice(store, history)


def make_advice(store: Store, history: History) -> Advice:
    """Return what the advisor says after the baseline was measured."""
    noise = timing_noise(history)
    spread = min(MAX_NOISE, NOISES * noise.coefficient_of_variation) if noise else 0.0
    return advise(store.request.space, store.request.environment, history.baseline, spread)


def texts(advice: Advice) -> Iterator[str]:
    """Yield what to tell of advice, in few lines; nothing where the baseline told nothing."""
    best = [found for found in best_of_knobs(advice) if found.knob != "steps"][:TOLD]
    if best and advice.seconds_by_part:
        yield f"expected to gain most: {'; '.join(map(expected_text, best))}"
    if advice.ruled_out:
        count = pluralize(len(advice.ruled_out), "value")
        names = ", ".join(label({found.knob: found.value}) for found in advice.ruled_out)
        yield f"not tried, as they cannot gain more than the timing noise here: {count} ({names})"


def expected_text(found: Expectation) -> str:
    """Format an expectation: the setting, what it is compared beside, what is expected of it, and the most."""
    most = f", at most {format_ratio(found.bound)}x" if found.bound is not None else ""
    beside = f" with {label(found.beside)}" if found.beside else ""
    return f"{label({found.knob: found.value})}{beside} {format_ratio(found.ratio)}x{most}"
