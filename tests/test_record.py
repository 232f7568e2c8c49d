"""Records: what is not exactly a record is refused, with the file and the field in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tuner.errors import BadInput
from tuner.records import codec, gate, machine, model, outcome, protocol, quality
from tuner.records.codec import Estimate, decode
from tuner.records.model import Workload
from tuner.records.outcome import Failure, Outcome
from tuner.records.protocol import BuildDone, Job, PointDone, StageStarted

WORKLOAD = {"prompts": ["a", "b"], "seeds": [1, 2], "height": 32, "width": 32}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"hieght": 8}, "hieght"),
        ({"height": "32"}, "height"),
        ({"height": 32.5}, "height"),
        ({"height": True}, "height"),
        ({"prompts": "a"}, "prompts"),
        ({"prompts": ["a", 3]}, "prompts[1]"),
        ({"seeds": [1, 2.5]}, "seeds[1]"),
        ({"seeds": {"0": 1}}, "seeds"),
        ({"guidance_scale": "high"}, "guidance_scale"),
    ],
)
def test_a_wrong_field_is_refused_by_name(change: dict[str, Any], field: str) -> None:
    with pytest.raises(BadInput) as refusal:
        decode(json.dumps({**WORKLOAD, **change}), Workload, "here.json")
    assert str(refusal.value).startswith("here.json: ")
    assert field in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("missing", ["prompts", "seeds"])
def test_a_missing_field_is_refused_by_name(missing: str) -> None:
    fields = {name: value for name, value in WORKLOAD.items() if name != missing}
    with pytest.raises(BadInput, match=missing):
        decode(json.dumps(fields), Workload, "here.json")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{",
        '{"value": NaN, "low": 0, "high": 1}',
        '{"value": Infinity, "low": 0, "high": 1}',
        '{"value": 1e999, "low": 0, "high": 1}',
        '{"value": 1, "low": 0, "high": 1} trailing',
        '{"value": 1, "low": 0, "high": 1, "high": 2}',
        "{'value': 1, 'low': 0, 'high': 1}",
        b"\xff\xfe{\x00",
        b'{"value": 1, "low": 0, "hi\xffgh": 1}',
        '{"a":' * 100_000,
        "[" * 100_000,
    ],
)
def test_what_is_no_estimate_is_refused_in_one_line(text: str | bytes) -> None:
    with pytest.raises(BadInput) as refusal:
        decode(text, Estimate, "here.json")
    assert str(refusal.value).startswith("here.json: ")
    assert "\n" not in str(refusal.value)


def test_a_key_that_stands_twice_is_refused_at_any_depth() -> None:
    build = '{"values": {"steps": 28, "steps": 4}, "reason": "x"}'

    class Example(codec.Record):
        values: dict[str, int]
        reason: str

    with pytest.raises(BadInput, match="duplicate key 'steps'"):
        decode(build, Example, "here.json")
    assert decode(build.replace(', "steps": 4', ""), Example, "here.json").values == {"steps": 28}


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(BadInput, match=str(path)):
            codec.read(path, Estimate)


def test_every_record_is_frozen_and_strict() -> None:
    modules = (codec, gate, machine, model, outcome, protocol, quality)
    named = [kind for module in modules for kind in vars(module).values() if isinstance(kind, type)]
    kinds = {kind for kind in named if issubclass(kind, codec.Record)}
    assert len(kinds) > 40
    for kind in kinds:
        config = kind.__struct_config__
        assert config.frozen, kind
        assert config.forbid_unknown_fields, kind
    with pytest.raises(AttributeError):
        Estimate(value=1, low=0, high=2).value = 3
    with pytest.raises(TypeError):
        Estimate(1, 0, 2)


def test_records_survive_a_round_trip() -> None:
    estimate = Estimate(value=1.5, low=1.0, high=2.0)
    outcome = Outcome(
        number=3, purpose="search", build_key="b",
        values={"steps": 4, "fuse_qkv": True, "cache.threshold": 0.05, "cache.kind": "none"},
        image_key="i", status="failed",
        failure=Failure(kind="timeout", stage="compile", message="ünïcödé \"quoted\"\nnext"),
    )  # fmt: skip
    for encoded in (codec.encode(outcome), codec.encode_pretty(outcome)):
        again = decode(encoded, Outcome, "here")
        assert again == outcome
        assert {name: type(value) for name, value in again.values.items()} == {
            name: type(value) for name, value in outcome.values.items()
        }
    assert decode(codec.encode(estimate), Estimate, "here") == estimate


def test_a_build_and_a_timing_of_before_still_read() -> None:
    build = b'{"changes":{},"load_s":1,"apply_s":1,"first_call_s":1,"trace":null,"verdict":null}'
    assert decode(build, outcome.Build, "here").compile_s is None
    timing = b"""{"latency_s":{"value":1,"low":1,"high":1},"samples":6,"images_per_s":1,
                  "stopped":"time allowance spent","warm_up":{"calls":2,"settled":true}}"""
    before = decode(timing, outcome.Timing, "here")
    assert before.latency_p95_s is None
    assert before.warm_up == outcome.WarmUp(calls=2, settled=True)


def test_messages_are_told_apart_and_take_one_line_each() -> None:
    timing = outcome.Timing(
        latency_s=Estimate(value=1, low=1, high=1), samples=6, images_per_s=1.0, stopped="time allowance spent"
    )
    build = outcome.Build(changes={}, load_s=1, apply_s=1, first_call_s=1, trace=None, verdict=None)
    messages: list[protocol.Message] = [
        StageStarted(stage="load\nand more"),
        BuildDone(build=build),
        PointDone(index=0, timing=timing, memory=machine.Memory(peak_bytes=1, reserved_bytes=None), quality=None),
        protocol.PointFailed(index=1, failure=Failure(kind="error", stage="time", message="x")),
        protocol.WorkerFailed(failure=Failure(kind="crash", stage="load", message="SIGSEGV")),
    ]
    for message in messages:
        line = codec.encode(message)
        assert b"\n" not in line
        assert protocol.decode_message(line) == message
    with pytest.raises(msgspec.ValidationError):
        protocol.decode_message(b'{"type": "shell", "command": "true"}')


def test_a_job_holds_nothing_but_data() -> None:
    with pytest.raises(BadInput, match=r"build.*: must be"):
        decode('{"build": {"compile.scope": ["full"]}}', Job, "job.json")


def test_the_fingerprint_ignores_the_order_and_sees_types() -> None:
    first = codec.fingerprint({"a": 1, "b": True})
    assert first == codec.fingerprint({"b": True, "a": 1})
    assert first != codec.fingerprint({"a": 1, "b": 1})
    assert first != codec.fingerprint({"a": 1})
    assert len(first) == 12
