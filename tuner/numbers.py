"""Numbers as people write them: significant digits, thousands separators, units that fit, never a power of ten."""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import Decimal

MAX_DECIMALS = 9
"""Decimals beyond these are rounding errors of anything that is measured here."""

SCORE_DIGITS = 4
"""Significant digits of a score."""

SHORT_S = 600.0
"""A shorter budget is written in seconds."""

UNREADABLE = 1e15
"""From here on a number is no longer written out."""


def rounded(value: float, digits: int) -> float:
    """Round a number to `digits` significant digits."""
    return float(f"{value:.{max(1, digits) - 1}e}")


def decimals(value: float, digits: int) -> int:
    """Return the decimals that show `digits` significant digits of a value."""
    value = rounded(value, digits) if math.isfinite(value) else 0.0
    if value == 0:
        return 0
    return min(max(0, digits - 1 - math.floor(math.log10(abs(value)))), MAX_DECIMALS)


def format_fixed(value: float, places: int) -> str:
    """Format a number with `places` decimals and commas between thousands."""
    if math.isnan(value):
        return "not a number"
    if abs(value) >= UNREADABLE:
        return f"{'over ' if value > 0 else 'under -'}{UNREADABLE:,.0f}"
    text = f"{value:,.{places}f}"
    return text.removeprefix("-") if not text.strip("-0.") else text


def format_number(value: float, digits: int = 3) -> str:
    """Format a number with `digits` significant digits; a whole number of more digits keeps them all."""
    return format_fixed(value, decimals(value, digits))


def format_short(value: float, digits: int = 3) -> str:
    """Format a number with at most `digits` significant digits, without zeros at its end."""
    return _without_zeros(format_number(value, digits))


def format_exact(value: float) -> str:
    """Format a setting with all its digits and no others, as it can be typed in again."""
    text = f"{Decimal(repr(value)):f}" if math.isfinite(value) else str(value)
    return _without_zeros(text)


def _without_zeros(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_large(value: float) -> str:
    """Format a number with three digits, from 10 000 on with k, M or G."""
    for least, power, unit in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if rounded(value, 3) >= least:
            return f"{format_number(value / power)}{unit}"
    return format_number(value)


def format_ratio(value: float) -> str:
    """Format a ratio, such as a speed-up, with at least two decimals."""
    return format_fixed(value, max(2, decimals(value, 2)))


def format_gain(value: float, low: float, high: float) -> str:
    """Format a ratio with its interval; an end that is not known as "?"."""
    shown = (format_ratio(each) if math.isfinite(each) else "?" for each in (value, low, high))
    return "{}x [{}, {}]".format(*shown)


def format_score(value: float) -> str:
    """Format a score with four significant digits."""
    return format_fixed(value, score_places(value))


def score_places(value: float) -> int:
    """Return the decimals of a score."""
    return decimals(value, SCORE_DIGITS) if value else SCORE_DIGITS


# ---- times ----------------------------------------------------------------------------------------------------------


def time_unit(value_s: float) -> tuple[float, str]:
    """Return how many of the unit that fits a time make one second, and the unit."""
    value_s = rounded(abs(value_s), 3) if math.isfinite(value_s) else math.inf
    return (1.0, "s") if value_s >= 1 else (1e3, "ms") if value_s >= 1e-5 or value_s == 0 else (1e6, "us")


def format_latency(value_s: float) -> str:
    """Format seconds, in milliseconds below one second and in microseconds below a hundredth of a millisecond."""
    scale, unit = time_unit(value_s)
    return f"{format_number(value_s * scale)} {unit}"


def format_latency_with_error(value_s: float, half_s: float, plus_minus: str) -> str:
    """Format a latency and the half-width of its interval, with decimals for two digits of the half-width."""
    scale, unit = time_unit(value_s)
    places = min(decimals(half_s * scale, 2), 3)
    return f"{format_fixed(value_s * scale, places)} {plus_minus} {format_fixed(half_s * scale, places)} {unit}"


def format_clock(value_s: float) -> str:
    """Format seconds as M:SS, or H:MM:SS from an hour on."""
    minutes, rest = divmod(max(0, round(value_s)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def format_duration(value_s: float) -> str:
    """Format seconds as hours, minutes and seconds, without those that are 0, as "1 h 30 min" or "5 min 30 s"."""
    minutes, rest = divmod(max(0, round(value_s)), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{count} {unit}" for count, unit in ((hours, "h"), (minutes, "min"), (rest, "s")) if count]
    return " ".join(parts) or "0 s"


def format_budget(seconds: float) -> str:
    """Format seconds as --budget takes them, in whole minutes, rounded up, or as they are if they are few."""
    if seconds < SHORT_S:
        return f"{math.ceil(seconds)}s"
    hours, minutes = divmod(-(-round(seconds) // 60), 60)
    return "".join(f"{count}{unit}" for count, unit in ((hours, "h"), (minutes, "m")) if count)


# ---- differences ----------------------------------------------------------------------------------------------------


def format_signed(value: float, places: int) -> str:
    """Format a difference with its sign and `places` decimals."""
    text = format_fixed(value, places)
    return text if text.startswith("-") else f"+{text}"


def format_difference(difference: float, low: float, high: float, places: int | None = None) -> str:
    """Format a paired difference with its interval."""
    if places is None:
        places = difference_places([(low, high)])
    return f"{format_signed(difference, places)} [{format_signed(low, places)}, {format_signed(high, places)}]"


def difference_places(intervals: Iterable[tuple[float, float]], score: float = 1.0) -> int:
    """Return the decimals that show two digits of half the narrowest interval; if all are points, those of a score."""
    halves = [(high - low) / 2 for low, high in intervals if high > low]
    return max(decimals(min(halves), 2), 2) if halves else score_places(score)
