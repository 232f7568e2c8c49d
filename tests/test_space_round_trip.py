"""Generated space files: what is accepted is written, read back and equal; what is not is refused by field."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kinds import kind
from test_space import CPU, GOOD

from tuner.errors import BadInput
from tuner.export.facts import setting
from tuner.knobs import KNOBS
from tuner.records.codec import decode, encode_pretty
from tuner.records.model import Model
from tuner.records.protocol import Job
from tuner.records.text import format_value, shown
from tuner.report.formatting import label
from tuner.result.prices import Price
from tuner.search.request import Request
from tuner.space import reader, yaml_file
from tuner.space.plain_data import unwritable_reason

TEXTS = [
    "", " ", "a red circle", "ünïcödé", "日本語 🦊", "\u202ea\u0301", "two\nlines", "tab\tand \\ and \"'", "null", "~",
    "yes", "1e3", "0x10", "2026-01-01", "-", "#x", "&a", "*a", "!x", "%", "{}", "[]", "x" * 3000, "\x7f",
    "\u0085\u2028", "\ufeff", "\ud800", "a\udfff", "\udcff", "\U0010ffff", "\x00", "\x1b[0m",
]  # fmt: skip
WHOLE = [
    0, 1, 2, 4, 28, -1, 7, 8, 64, 16384, 16385, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**40, -(10**30), 10**400,
]  # fmt: skip
REAL = [0.0, -0.0, 0.1, 1.0, -1.5, 1e-300, 5e-324, 1.7976931348623157e308, -1e308, 1e30, 1e31, 3.141592653589793,
        float("nan"), float("inf"), float("-inf")]  # fmt: skip
ODD: list[Any] = [None, True, False, [], {}, [None], [[1]], {"a": {"b": [None]}}, {1: 2}, {None: 1}, [{}], b"bytes"]
NAMES = [
    "negative_prompt",
    "prompt_2",
    "joint_attention_kwargs",
    "true_cfg_scale",
    "nonsense",
    "height",
    "",
    "ü",
    "\ud800",
]
"""Of arguments of a call: some of FluxPipeline's, and others."""


def anything(chance: random.Random) -> Any:
    return chance.choice(chance.choice((TEXTS, WHOLE, REAL, ODD)))


def often(right: Callable[[random.Random], Any]) -> Callable[[random.Random], Any]:
    """Mostly what a field takes, sometimes anything."""
    return lambda chance: anything(chance) if chance.random() < 0.15 else right(chance)


def some(value: Callable[[random.Random], Any], most: int = 4) -> Callable[[random.Random], Any]:
    return lambda chance: [value(chance) for _ in range(chance.randint(0, most))]


def one_of(values: list[Any]) -> Callable[[random.Random], Any]:
    return lambda chance: chance.choice(values)


def named(
    names: list[str], value: Callable[[random.Random], Any], most: int = 3
) -> Callable[[random.Random], dict[str, Any]]:
    return lambda chance: {chance.choice(names): value(chance) for _ in range(chance.randint(0, most))}


text, whole, real = one_of(TEXTS), one_of(WHOLE), one_of(REAL)
FIELDS: dict[str, Callable[[random.Random], Any]] = {
    "pipelines": one_of([["FluxPipeline"], ["any"], ["any", "ü"], ["FluxPipeline", "\ud800"]]),
    "workload.prompts": some(often(text)),
    "workload.seeds": some(often(whole)),
    "workload.height": whole,
    "workload.width": whole,
    "workload.num_frames": whole,
    "workload.guidance_scale": one_of([*REAL, *WHOLE]),
    "workload.max_sequence_length": whole,
    "workload.negative_prompt": text,
    "workload.arguments": named(NAMES, anything),
    "workload.latency_target_s": one_of([*REAL, *WHOLE]),
    "quality.tolerance": one_of([*REAL, *WHOLE, {"clip_score": 0.5}, {"clip_score": -0.0, "ssim": 1e308}]),
    "gate.count_per_step": named(["device sync", "graph break", "recompile", "typo"], one_of([*REAL, *WHOLE])),
    "gate.max_idle_ms_per_step": one_of([*REAL, *WHOLE]),
    "baseline.steps": whole,
    "baseline.batch": whole,
    "knobs.steps": some(often(one_of([4, 3, 2, 1]))),
    "knobs.batch": whole,
    "knobs.cache.threshold": some(often(real)),
    "knobs.compile.scope": one_of([["none", "full"], "full", {"cpu": "regional"}, {"cpu": ["none"], "cuda": "full"}]),
    "recipes": some(lambda chance: {"name": text(chance), "source": text(chance), "values": KNOB_VALUES(chance)}, 2),
    "extends": one_of([*TEXTS, "any", "nope"]),
    "surprise": anything,
}
KNOB_VALUES = named([*KNOBS, "nonsense"], lambda chance: chance.choice(chance.choice(list(KNOBS.values())).choices))


def generated(seed: int) -> tuple[dict[str, Any], list[str]]:
    """A space file, and its fields that were generated."""
    chance = random.Random(seed)
    content = json.loads(json.dumps(GOOD))
    fields = chance.sample(list(FIELDS), chance.choice((1, 1, 2, 3)))
    for field in fields:
        group, _, name = field.partition(".")
        value = often(FIELDS[field])(chance)
        if not name:
            content[group] = value
        elif isinstance(content.setdefault(group, {}), dict):
            content[group][name] = value
    return content, fields


def check(folder: Path, seed: int) -> str:
    """Read a generated file. Returns "accepted" or "refused"."""
    content, fields = generated(seed)
    file = folder / "given.yaml"
    file.write_text(yaml.dump(content, allow_unicode=seed % 2 == 0, sort_keys=False), encoding="utf-8")
    try:
        space = reader.load(file, kind(), CPU)
    except BadInput as refusal:
        message = str(refusal)
        message.encode()  # it can be printed
        assert message.startswith(str(file)), message
        assert "\n" not in message and len(message) < 700
        words = {word for field in fields for word in (field.partition(".")[0], field.rpartition(".")[2])}
        consequences = {"workload.prompts": "seeds", "workload.seeds": "prompts", "baseline.steps": "steps"}
        words |= {consequences[field] for field in fields if field in consequences}
        assert "not YAML" in message or any(word in message for word in words), (message, fields)
        return "refused"
    request = Request(
        model=Model(source="/model", revision=None, pipeline_class="FluxPipeline", scorer="demo"), environment=CPU,
        space=space, price=Price(usd_per_hour=1.0, source="--price"),
    )  # fmt: skip
    written = encode_pretty(request)
    again = decode(written, Request, "study.json")
    assert again == request
    assert repr(again) == repr(request), "also -0.0, and 1 is not 1.0"
    assert encode_pretty(again) == written
    assert again.fingerprint() == request.fingerprint()
    job = Job(
        model=request.model, environment=CPU, workload=space.workload, build={}, points=(), allowance_s=1.0,
        gate=space.gate, tolerance=space.tolerance,
    )  # fmt: skip
    assert decode(encode_pretty(job), Job, "job.json") == job
    return "accepted"


def check_many(folder: Path, seeds: range) -> None:
    outcomes = [check(folder, seed) for seed in seeds]
    assert min(outcomes.count("accepted"), outcomes.count("refused")) > len(seeds) // 10


def test_generated_space_files(tmp_path: Path) -> None:
    check_many(tmp_path, range(400))


@pytest.mark.exhaustive
@pytest.mark.parametrize("part", range(6))
def test_thousands_of_generated_space_files(tmp_path: Path, part: int) -> None:
    check_many(tmp_path, range(1000 + 1000 * part, 2000 + 1000 * part))


ARGUMENTS = [
    (".nan", "not a finite number"), (".inf", "not a finite number"), ("-.inf", "not a finite number"),
    ("null", "must be a value"), ("~", "must be a value"), ('"\\ud800"', "Unicode"), ("[1]", "must be a value"),
    ("{a: 1}", "must be a value"), ("1" * 301, "digits"), ("2026-01-01", "true_cfg_scale"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "reason"), ARGUMENTS, ids=[value[:20] for value, _ in ARGUMENTS])
def test_an_argument_that_cannot_be_read_back_is_refused(tmp_path: Path, value: str, reason: str) -> None:
    file = tmp_path / "given.yaml"
    content = {**GOOD, "workload": {**GOOD["workload"], "arguments": {"true_cfg_scale": 0}}}
    file.write_text(yaml.safe_dump(content).replace("true_cfg_scale: 0", f"true_cfg_scale: {value}"))
    with pytest.raises(BadInput) as refusal:
        reader.load(file, kind(), CPU)
    assert str(refusal.value).startswith(f"{file}: ")
    assert "workload.arguments.true_cfg_scale: " in str(refusal.value) and reason in str(refusal.value)


def test_a_list_that_holds_itself_and_half_a_pair_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "given.yaml"
    file.write_text('pipelines: [any]\nworkload: {seeds: &a [[*a, *a], "\\ud800", *a]}\n')
    with pytest.raises(BadInput, match="seeds"):
        reader.load(file, kind(), CPU)


@pytest.mark.parametrize("value", [0, -0.0, 1e308, 10**299, "ü", "", True, 2**64])
def test_what_json_can_hold_is_not_refused(value: Any) -> None:
    assert unwritable_reason(value) is None


@pytest.mark.parametrize("name", KNOBS)
def test_what_a_person_reads_of_a_value_is_what_set_and_space_files_take(name: str) -> None:
    knob = KNOBS[name]
    for value in knob.choices:
        read = knob.canonical(yaml_file.load_value(format_value(value), "--set"))
        assert read == value and (type(read) is type(value) or isinstance(value, float))
        assert shown(value) == format_value(value) == setting(name, value).removeprefix(f"{name}=")
        assert label({name: value}) == f"{name}={format_value(value)}"
    if any(choice is True for choice in knob.choices):
        assert knob.invalid_reason("x") in ("must be one of false, true", "must be one of true, false")
