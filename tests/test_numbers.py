"""Numbers that people read: plain digits over every magnitude, and no format that can write an exponent."""

import ast
import math
import random
import re
from pathlib import Path

import pytest

from tuner import numbers

ROOT = Path(__file__).resolve().parent.parent / "tuner"
MAGNITUDES = range(-13, 18)
ANY = tuple(random.Random(0).uniform(1, 10) * 10**magnitude for magnitude in MAGNITUDES for _ in range(20))
FORMATS = (
    numbers.format_number, numbers.format_short, numbers.format_large, numbers.format_latency, numbers.format_ratio,
    numbers.format_score, numbers.format_exact,
    lambda value: numbers.format_latency_with_error(value, value / 10, "+-"),
    lambda value: numbers.format_difference(value, value / 2, value * 2),
)  # fmt: skip


def plain(text: str) -> float:
    return float(text.replace(",", ""))


@pytest.mark.parametrize("function", FORMATS)
def test_no_magnitude_is_written_in_powers_of_ten(function: object) -> None:
    for value in (*ANY, 0.0, -0.0, math.inf, math.nan):
        assert not re.search(r"\de|e[+-]?\d", function(value)), (function, value)  # type: ignore[operator]


def test_three_digits_are_kept_and_thousands_are_apart() -> None:
    for value in ANY:
        if 1e-6 <= value < 1e12:
            text = numbers.format_number(value)
            assert plain(text) == pytest.approx(value, rel=0.006)
            assert len(text.replace(",", "").replace(".", "").lstrip("0")) == max(3, math.floor(math.log10(value)) + 1)
            assert "," not in text or re.fullmatch(r"\d{1,3}(,\d{3})+", text)
    assert [numbers.format_number(v) for v in (1380.4, 9.996, 0.0, -0.0001234, 1e300)] == [
        "1,380", "10.0", "0", "-0.000123", "over 1,000,000,000,000,000",
    ]  # fmt: skip


def test_a_setting_can_be_typed_in_again() -> None:
    for value in ANY:
        assert float(numbers.format_exact(value)) == value
    assert [numbers.format_exact(value) for value in (1e-5, 0.5, 28.0, 1e6)] == ["0.00001", "0.5", "28", "1000000"]


def test_a_time_has_the_unit_that_fits_after_rounding() -> None:
    times_s = (0.012, 0.9999, 61.25, 7200.0, 0.0003, 0.0000031, 0.0)
    assert [numbers.format_latency(value) for value in times_s] == [
        "12.0 ms", "1.00 s", "61.2 s", "7,200 s", "0.300 ms", "3.10 us", "0 ms",
    ]  # fmt: skip
    for value in ANY:
        if 1e-6 <= value < 1e6:
            number, unit = numbers.format_latency(value).split()
            assert plain(number) * {"s": 1, "ms": 1e-3, "us": 1e-6}[unit] == pytest.approx(value, rel=0.006)


def test_ratios_scores_and_differences_show_what_is_small() -> None:
    assert [numbers.format_ratio(value) for value in (175.0, 1.0, 2.371, 0.0042, 1380.0)] == [
        "175.00", "1.00", "2.37", "0.0042", "1,380.00",
    ]  # fmt: skip
    assert [numbers.format_score(value) for value in (52.93431, 0.00001234, 0.0)] == ["52.93", "0.00001234", "0.0000"]
    assert numbers.format_difference(-1e-7, -3e-7, 1e-7) == "-0.00000010 [-0.00000030, +0.00000010]"
    assert numbers.format_signed(-0.0001, 2) == "+0.00"
    assert [numbers.difference_places([(0.0, 0.0)], score) for score in (-12.3872, 0.8363, 0.0)] == [2, 4, 4]


def specs_of(file: Path) -> list[str]:
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return [
        ast.unparse(node.format_spec) for node in nodes if isinstance(node, ast.FormattedValue) and node.format_spec
    ]


def test_no_format_of_the_package_can_write_an_exponent() -> None:
    """`g` and `e` do, and so does a bare `str` of a float; the first two can be seen in the source."""
    files = [file for file in ROOT.rglob("*.py") if file != ROOT / "numbers.py"]
    found = [
        (file, spec) for file in files for spec in specs_of(file) if spec.rstrip("'").endswith(("g", "e", "G", "E"))
    ]
    assert not found
