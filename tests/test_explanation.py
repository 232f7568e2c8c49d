"""The explanation of a choice: what each setting is worth, what was expected, what was not tried, in twenty lines."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kinds import kind

from tuner.advisor.advise import advise
from tuner.hardware import environment
from tuner.records.codec import Estimate, Value, decode, encode, read
from tuner.records.outcome import Components, Failure, Outcome, Timing
from tuner.report.console import make_console
from tuner.report.explanation import Explanation, Forecast, Worth, explain
from tuner.report.explanation_text import MAX_UNTRIED, ExplanationText, forecasts_title, furthest_off, lines
from tuner.result.prices import Price
from tuner.search.expectation import ratio_beside
from tuner.search.history import History
from tuner.space import reader
from tuner.space.candidates import build_key, image_key

FLUX = read(Path(__file__).resolve().parent / "data" / "advisor" / "flux_h200.json", Outcome)
H200 = msgspec.structs.replace(
    environment.detect("cpu"),
    device="cuda",
    compute_capability="9.0",
    libraries={"torchao": "0.18.0", "triton": "3.6.0"},
)
SPACE = """
pipelines: [FluxPipeline]
workload: {prompts: [a red circle], height: 1024, width: 1024}
quality: {tolerance: 1.0}
baseline: {steps: 28, batch: 1}
knobs:
  compile.scope: [none, regional, full]
  compile.vae: [false, true]
  attention.backend: [native, _native_math, _native_cudnn]
  quantization.scheme: [none, fp8-dynamic-row]
  vae.tiling: [false, true]
  fuse_qkv: [false, true]
  steps: [28, 20, 14]
"""
CHOSEN: dict[str, Value] = {
    "compile.scope": "regional", "quantization.scheme": "fp8-dynamic-row", "vae.tiling": True, "steps": 14,
}  # fmt: skip


def timing(seconds: float) -> Timing:
    latency = Estimate(value=seconds, low=seconds * 0.999, high=seconds * 1.001)
    return Timing(latency_s=latency, samples=6, images_per_s=1 / seconds, stopped="interval within target")


class Recorded:
    """A study's history, made trial by trial."""

    def __init__(self, folder: Path, noise: float = 0.0) -> None:
        (folder / "space.yaml").write_text(SPACE)
        self.history = History(reader.load(folder / "space.yaml", kind(), H200), Price(usd_per_hour=1.0, source="here"))
        self.add({}, 5.0)
        baseline = msgspec.structs.replace(FLUX, values=self.history.outcomes[0].values)
        self.history.advice = advise(self.history.space, H200, baseline, noise)

    def add(self, changed: dict[str, Value], seconds: float | None, **result: Any) -> int:
        values, number = self.history.space.candidate(changed), len(self.history.outcomes)
        self.history.outcomes[number] = Outcome(
            number=number, purpose="search", values=values, build_key=build_key(values), image_key=image_key(values),
            status="measured" if seconds else "failed", timing=timing(seconds) if seconds else None, **result,
        )  # fmt: skip
        return number


@pytest.fixture
def recorded(tmp_path: Path) -> Recorded:
    """A study that tried the chosen configuration, two of it without one setting, and one that failed."""
    made = Recorded(tmp_path)
    made.add({"compile.scope": "regional"}, 3.9)
    made.add({name: value for name, value in CHOSEN.items() if name != "steps"}, 3.0)
    made.add({name: value for name, value in CHOSEN.items() if name != "vae.tiling"}, 1.5)
    made.add({"fuse_qkv": True}, None, failure=Failure(kind="error", stage="apply", message="no such layer\nat line 1"))
    made.add(CHOSEN, 1.51)
    return made


def worth(found: Explanation, name: str) -> Worth:
    (one,) = [each for each in found.settings if each.knob == name]
    return one


def test_what_a_setting_is_worth_is_measured_where_a_trial_tells(recorded: Recorded) -> None:
    found = explain(recorded.history, 5)
    steps, tiling = worth(found, "steps"), worth(found, "vae.tiling")
    assert (steps.source, steps.trial_without) == ("measured", 2)
    assert steps.ratio and steps.ratio.value == pytest.approx(3.0 / 1.51)
    assert tiling.ratio and tiling.ratio.high < 1.0, "a setting that costs time is seen to"
    scheme = worth(found, "quantization.scheme")
    assert (scheme.source, scheme.trial_without) == ("expected", None)
    assert worth(found, "compile.scope").needed_by == {"quantization.scheme": "fp8-dynamic-row"}
    assert found.settings[0].knob == "steps", "the largest first"
    assert decode(encode(found), Explanation, "here") == found


def test_a_trial_in_doubt_tells_nothing_of_a_setting(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    assert worth(explain(recorded.history, 5), "steps").trial_without == 2
    monkeypatch.setattr("tuner.report.explanation.is_in_doubt", lambda _, trial: trial.number == 2)
    found = explain(recorded.history, 5)
    assert worth(found, "steps").source == "expected"
    assert not any(2 in (each.trial, each.trial_without) for each in found.forecasts)
    untried = {(each.knob, each.value) for each in found.untried}
    assert ("compile.scope", "regional") not in untried, "it was tried all the same"


def test_forecasts_stand_beside_what_was_measured(recorded: Recorded) -> None:
    forecasts = {(each.knob, each.value): each for each in explain(recorded.history, 5).forecasts}
    compiled = forecasts["compile.scope", "regional"]
    assert (compiled.trial, compiled.trial_without, compiled.beside) == (1, 0, {})
    assert compiled.measured.value == pytest.approx(5.0 / 3.9)
    assert compiled.held and compiled.expected.low < compiled.measured.value < compiled.expected.high
    recorded.add({"compile.scope": "full"}, 10.0)
    forecasts = {(each.knob, each.value): each for each in explain(recorded.history, 5).forecasts}
    assert not forecasts["compile.scope", "full"].held


def test_a_wide_interval_agrees_with_nothing() -> None:
    def forecast(knob: str, low: float, high: float, *, held: bool = True) -> Forecast:
        measured, expected = Estimate(value=max(1.7, low), low=low, high=high), Estimate(value=1.6, low=1.5, high=1.7)
        return Forecast(
            knob=knob, value=True, expected=expected, bound=None, measured=measured, trial=1, trial_without=0,
            beside={}, held=held,
        )  # fmt: skip

    rough, sharp, off = forecast("a", 0.9, 3.3), forecast("b", 1.65, 1.75), forecast("c", 1.75, 4.0, held=False)
    assert [each.tells for each in (rough, sharp, off)] == [False, True, True]
    assert furthest_off([rough, sharp, off]) == [off, sharp, rough]
    assert forecasts_title([rough, sharp, off]) == (
        "Expected gains agree, within the intervals, with 1 of 2 settings tried; 1 other measured too roughly to tell; "
        "the furthest off:"
    )
    assert forecasts_title([rough]) == "Expected gains: 1 setting was measured too roughly to compare"


def test_an_expectation_is_compared_where_what_it_is_beside_is_set(recorded: Recorded) -> None:
    history, fused = recorded.history, ("fuse_qkv", True)
    assert history.advice is not None
    beside = [
        msgspec.structs.replace(each, beside={"compile.scope": "regional"}) if each.knob == "fuse_qkv" else each
        for each in history.advice.expectations
    ]
    history.advice = msgspec.structs.replace(history.advice, expectations=tuple(beside))
    alone = recorded.add({"fuse_qkv": True}, 4.9)
    assert fused not in [(each.knob, each.value) for each in explain(history, 5).forecasts]
    assert worth(explain(history, alone), "fuse_qkv").source == "measured"
    compiled = recorded.add({"compile.scope": "full"}, 3.8)
    both = recorded.add({"compile.scope": "full", "fuse_qkv": True}, 3.7)
    (forecast,) = [each for each in explain(history, 5).forecasts if (each.knob, each.value) == fused]
    assert (forecast.trial, forecast.trial_without) == (both, compiled)
    tiled = recorded.add({"vae.tiling": True, "fuse_qkv": True}, 4.8)
    assert worth(explain(history, tiled), "fuse_qkv").source == "unknown", "nothing is expected of it uncompiled"


def test_what_is_expected_follows_the_shares_of_a_call_beside_other_settings(recorded: Recorded) -> None:
    """Decoding is 2.7 % of the untouched call of 5 s, and 27 % of one of 0.5 s; advice is of the untouched one."""
    history, vae = recorded.history, ("compile.vae", True)
    baseline = history.outcomes[0]
    parts = Components(total_s=5.0, text_encoders_s=None, denoiser_s=4.865, vae_s=0.135, rest_s=0.0)
    few_steps = msgspec.structs.replace(parts, denoiser_s=0.365, total_s=0.5)
    for outcome, components in ((baseline, parts), (history.outcomes[recorded.add({"steps": 14}, 0.5)], few_steps)):
        assert outcome.timing is not None
        timed = msgspec.structs.replace(outcome.timing, components=components)
        history.outcomes[outcome.number] = msgspec.structs.replace(outcome, timing=timed)
    recorded.add({"steps": 14, "compile.vae": True}, 0.42)
    assert history.advice is not None
    expected = history.advice.of(*vae)
    assert expected is not None
    (forecast,) = [each for each in explain(history, 5).forecasts if (each.knob, each.value) == vae]
    saved_s = 5.0 * (1 - 1 / expected.ratio)
    assert forecast.beside == {"steps": 14}
    assert forecast.expected.value == pytest.approx(0.5 / (0.5 - saved_s))
    assert forecast.expected.value > 1.1 > expected.high
    assert forecast.bound is not None and forecast.expected.high <= forecast.bound * (1 + 1e-9)


@pytest.mark.parametrize("has_setting", [False, True])
def test_what_is_expected_beside_nothing_else_is_what_the_advisor_said(has_setting: bool) -> None:
    for ratio in (0.8, 1.0, 1.26, 1.9):
        share = 0.97 if not has_setting else 1 - 0.03 * ratio  # of the call with the setting, the part is smaller
        assert ratio_beside(ratio, 0.97, share, has_setting=has_setting) == pytest.approx(ratio)
    assert ratio_beside(3.0, 0.5, 0.9, has_setting=has_setting) == 3.0, "more than this part of a call can give"


def test_what_was_not_tried_has_its_reason_and_what_is_next_goes_with_the_choice(recorded: Recorded) -> None:
    found = explain(recorded.history, 5)
    reasons = {(each.knob, each.value): each.reason for each in found.untried}
    assert reasons["fuse_qkv", True] == "trial 4 failed: no such layer"
    assert reasons["attention.backend", "_native_math"] == "it cannot gain more than the timing noise"
    assert reasons["steps", 20] == "the search ended before it"
    assert ("compile.scope", "regional") not in reasons and ("compile.scope", "none") not in reasons
    is_next = [each.is_next for each in found.untried]
    assert is_next == sorted(is_next, reverse=True), "what is next stands on top"
    assert [(each.knob, each.value) for each in found.untried if each.is_next] == [("compile.scope", "full")], (
        "tiling forbids compile.vae, and 20 steps are slower than the chosen 14"
    )


def test_what_needs_another_setting_is_next_beside_it(tmp_path: Path) -> None:
    found = explain(Recorded(tmp_path).history, 0)
    quantized = next(each for each in found.untried if each.knob == "quantization.scheme")
    assert (quantized.beside, quantized.is_next) == ({"compile.scope": "regional"}, True)
    assert quantized.reason == "the search ended before it"


def test_a_list_that_is_cut_says_how_much_is_left_out(tmp_path: Path) -> None:
    found = explain(Recorded(tmp_path).history, 0)
    shown = [line for line, _ in lines(found)]
    count = sum(each.is_next for each in found.untried)
    assert shown[0] == f"Untried  {len(found.untried)} values, {count} of them worth trying with a longer --budget"
    assert len(shown) == MAX_UNTRIED + 1 and shown[-1] == f"  and {len(found.untried) - MAX_UNTRIED + 1} other values"


def test_without_advice_it_says_what_was_measured(recorded: Recorded) -> None:
    recorded.history.advice = None
    found = explain(recorded.history, 5)
    assert worth(found, "steps").source == "measured"
    assert worth(found, "quantization.scheme").source == "unknown"
    assert found.forecasts == () and not any(each.is_next for each in found.untried)
    assert all(each.reason for each in found.untried)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_terminal_has_at_most_twenty_lines(recorded: Recorded, width: int) -> None:
    for scope in ("regional", "full"):
        for vae in (False, True):
            recorded.add({"compile.scope": scope, "compile.vae": vae, "steps": 20}, 2.0)
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        make_console(stream, width).print(ExplanationText(explain(recorded.history, 5)))
    text = re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue())
    lines = text.splitlines()
    assert 8 < len(lines) <= 20 and max(map(len, lines)) <= width
    assert "measured (trial 2, not in pairs)" in text or width < 80
    assert "..." not in file.getvalue() and "it cannot gain more than the timing noise" in " ".join(
        file.getvalue().split()
    )


def test_a_chosen_baseline_needs_no_worth(recorded: Recorded) -> None:
    assert explain(recorded.history, 0).settings == ()


def test_what_the_search_refuses_is_untried_for_that_reason(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "tuner.report.explanation.refusal_reason", lambda _, values: "too slow" if values["steps"] == 20 else None
    )
    (reason,) = [
        each.reason for each in explain(recorded.history, 5).untried if (each.knob, each.value) == ("steps", 20)
    ]
    assert reason == "too slow"
