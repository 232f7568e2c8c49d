"""What a study does with advice: told once after the baseline, kept, and what cannot gain costs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from inline_study import SMALL, Bench, Workers

from tuner.errors import BadInput
from tuner.records.advice import Advice
from tuner.records.codec import Values, read
from tuner.records.outcome import Device, Failure, Outcome
from tuner.records.protocol import BuildDone, Job, Message, PointDone
from tuner.report.study_report import read_report
from tuner.search.bounds import refusal_reason, slow_compile_reason
from tuner.study.advising import take_advice

FLUX = read(Path(__file__).resolve().parent / "data" / "advisor" / "flux_h200.json", Outcome)
SPACE = f"""{SMALL}
knobs:
  attention.backend: [native, _native_math]
  cache.kind: [none, taylorseer]
  vae.tiling: [false, true]
  steps: [28, 14]
"""


class Traced(Workers):
    """Workers whose baseline has the trace and the components of FLUX.1-dev on an H200."""

    def __call__(self, job: Job) -> Iterator[Message]:
        for message in super().__call__(job):
            if isinstance(message, BuildDone) and job.is_baseline and FLUX.build:
                yield BuildDone(build=FLUX.build)
            elif isinstance(message, PointDone) and job.is_baseline and FLUX.timing:
                parts = FLUX.timing.components
                yield msgspec.structs.replace(message, timing=msgspec.structs.replace(message.timing, components=parts))
            else:
                yield message


@pytest.fixture
def advised(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path, Traced())
    (tmp_path / "space.yaml").write_text(SPACE)
    return bench


def test_a_study_tells_keeps_and_follows_its_advice(advised: Bench) -> None:
    advised.run(trials=4)
    told = [note for note in advised.told.notes if "expected to gain most" in note or "not tried" in note]
    assert len(told) == 2
    assert told[0].startswith("expected to gain most: cache.kind=taylorseer 1.76x, at most 1.87x")
    assert told[1].endswith("the timing noise here: 1 value (attention.backend=_native_math)")
    file = advised.folder / "study" / "advice.json"
    kept = read(file, Advice)
    assert [(each.knob, each.value) for each in kept.ruled_out] == [("attention.backend", "_native_math")]
    with advised.study() as study:
        assert list(take_advice(study.store, study.history)) == []
        values = study.history.space.candidate({"attention.backend": "_native_math", "vae.tiling": True})
        reason = refusal_reason(study.history, values)
        assert reason is not None and reason.startswith("attention.backend=_native_math cannot gain more than the")
        assert refusal_reason(study.history, {**values, "attention.backend": "native"}) is None


LATE = Failure(kind="timeout", stage="compile", message="still in stage 'compile' after 200 s")
FULL: Values = {"compile.scope": "full"}
TUNED: Values = {"inductor.coordinate_descent_tuning": True}
EIGHT: Values = {**FULL, "quantization.scheme": "int8-dynamic"}
VAE: Values = {"compile.scope": "none", "compile.vae": True}


@pytest.mark.parametrize(
    ("compiled", "other", "failure", "reason"),
    [
        (FULL, {}, LATE, "compile.scope=full: trial 9 was still in stage 'compile' after 200 s"),
        (FULL, TUNED, LATE, "compile.scope=full: trial 9 was still in stage 'compile' after 200 s"),
        (FULL, {"compile.scope": "none"}, LATE, None),
        (EIGHT, {}, LATE, f"compile.scope=full quantization.scheme=int8-dynamic: trial 9 was {LATE.message}"),
        (EIGHT, {"quantization.scheme": "none"}, LATE, None),
        (FULL | TUNED, {"inductor.coordinate_descent_tuning": False}, LATE, None),
        (VAE, {}, LATE, "compile.vae=true: trial 9 was still in stage 'compile' after 200 s"),
        (VAE, {"compile.vae": False}, LATE, None),
        (VAE | {"compile.scope": "regional"}, {"compile.vae": False}, LATE, None),
        (FULL, {}, msgspec.structs.replace(LATE, stage="score"), None),
        (FULL, {}, msgspec.structs.replace(LATE, limit_s=100.0), f"compile.scope=full: trial 9 was {LATE.message}"),
        (FULL, {}, msgspec.structs.replace(LATE, limit_s=99.0), None),
    ],
)
def test_what_compiled_for_too_long_is_not_compiled_in_that_way_again(
    advised: Bench, compiled: Values, other: Values, failure: Failure, reason: str | None
) -> None:
    with advised.study() as study:
        space, history = study.store.request.space, study.history
        history.compile_limit_s = 100.0
        late = {**space.candidate({}), **compiled}
        history.outcomes[9] = Outcome(
            number=9, purpose="search", values=late, build_key="", image_key="", device=Device(name="cpu"), build=None,
            wall_s=200.0, status="failed", failure=failure,
        )  # fmt: skip
        values = {**late, "attention.backend": "native", **other}
        assert slow_compile_reason(history, values) == reason


def test_a_resumed_study_keeps_the_advice_that_it_was_given(advised: Bench) -> None:
    advised.run(trials=4)
    file = advised.folder / "study" / "advice.json"
    before = file.read_bytes()
    advised.run(trials=6)
    assert file.read_bytes() == before
    assert not [note for note in advised.told.notes if "expected to gain most" in note]
    file.write_text('{"noise": 0}')
    with pytest.raises(BadInput, match=r"advice\.json"):
        advised.run(trials=8)
    with pytest.raises(BadInput, match=r"advice\.json"):
        read_report(advised.folder / "study")
    file.unlink()
    assert read_report(advised.folder / "study").explanation is not None
