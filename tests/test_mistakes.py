"""What people get wrong at the command line and in space files: one line with the field and what to do, exit code 2.

Nothing here reaches a worker: a study that would start raises Started instead.
"""

from __future__ import annotations

import math
import random
import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from tuner import cli, errors
from tuner.knobs import KNOBS, aliases
from tuner.search.request import Request
from tuner.space import checks, settings, yaml_file


class Started(Exception):
    """The study would have started, with this request."""

    def __init__(self, request: Request) -> None:
        super().__init__()
        self.request = request


@pytest.fixture(autouse=True)
def _no_study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def store(_: Path, request: Request) -> Any:
        raise Started(request)

    monkeypatch.setattr("tuner.study.store.Store", store)
    monkeypatch.chdir(tmp_path)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The only line that a command prints when it refuses its arguments."""
    try:
        code = cli.main(arguments)
    except SystemExit as end:
        code = int(end.code or 0)
    streams = capsys.readouterr()
    assert code == 2 and not streams.out
    assert streams.err.count("\n") == 1 and streams.err.startswith("tune")
    return streams.err


def accepted(*arguments: str) -> Request:
    """The request of a study that would start."""
    with pytest.raises(Started) as started:
        cli.main(["run", *arguments])
    return started.value.request


ARGUMENTS = {
    "--budget -5m": ("--budget", "'-5m' is not a time above 0 like 300ms, 90s, 20m"),
    "--budget 10%": ("--budget", "20m or 1h30m"),
    "--budget 0": ("--budget", "above 0"),
    "--budget 20": ("argument --budget: 20 has no unit: write 20s or 20m",),
    "--latency-target 1.5": ("argument --latency-target: 1.5 has no unit: write 1.5s or 1.5m",),
    "--budget": ("--budget", "expected one argument"),
    "--buget 5m": ("did you mean --budget?",),
    "--latency-target -2s": ("--latency-target", "'-2s' is not a time"),
    "--trials 0": ("--trials", "at least 1"),
    "--price free": ("--price", "like 2.49"),
    "--device cuda:0": ("--device", "CUDA_VISIBLE_DEVICES=N"),
    "--device tpu": ("--device", "use auto, cuda or cpu"),
    "--provider x": ("it is an option of tune cost",),
    "--space fluxx": ("--space fluxx", "did you mean flux?"),
    "--space nope.yaml": ("--space nope.yaml", "the shipped ones are any, demo"),
    "--quality clip": ("--quality clip", "did you mean one of clip_score, clip_similarity?"),
    "--quality ssmi": ("did you mean ssim?",),
    "--set workload.hight=64": ("workload.hight: unknown field; did you mean height?",),
    "--set worklod.height=64": ("worklod.height", "did you mean workload.height?"),
    "--set WORKLOAD.height=64": ("did you mean workload.height?",),
    "--set workload=3": ("name a field of workload: prompts, seeds, height",),
    "--set workload.height=64px": ("workload.height: must be a whole number in pixels, such as 1024, not the text",),
    "--set workload.height=63.5": ("workload.height: must be a whole number", "not 63.5"),
    "--set workload.height=-8": ("workload.height: must be at least 8, not -8",),
    "--set workload.prompts=none": ("workload.prompts=none: no such file", "one prompt a line"),
    "--set workload.seeds=5": ("workload.seeds: must be a list such as [0, 1, 2]",),
    "--set workload.guidance_scale=high": ("workload.guidance_scale: must be a number such as 3.5",),
    "--set workload.latency_target_s=2s": ("workload.latency_target_s: must be a number in seconds, such as 2.5",),
    "--set workload.arguments.foo=1": ("workload.arguments.foo", "its call has no argument foo"),
    "--set workload.arguments.negative_prompt=x": ("set it with workload.negative_prompt",),
    "--set workload.arguments.prompt=x": ("set it with workload.prompts",),
    "--set workload.arguments.num_inference_steps=4": ("set it with steps",),
    "--set workload.arguments.true_cfg_scal=4": ("did you mean true_cfg_scale?",),
    "--set quality.tolerance=5%": ("quality.tolerance: must be a number in points of the metric",),
    "--set quality.tolerance=-1": ("quality.tolerance: must be at least 0",),
    "--set gate.max_idle=1": ("gate.max_idle: unknown field; did you mean max_idle_ms_per_step?",),
    "--set precision=bf16": ("did you mean precision.dtype?",),
    "--set dtype=bf16": ("did you mean precision.dtype?",),
    "--set compile=full": ("did you mean one of compile.scope, compile.backend",),
    "--set quantization.scheme=fp8": (
        "write one of fp8-weight-only (weights",
        "fp8-dynamic-row (",
        "fp8-dynamic-tensor (",
    ),
    "--set quantization.scheme=int8": ("write one of int8-weight-only (", "int8-dynamic (", "quanto-int8 ("),
    "--set quantization.scheme=[none,float8]": ("quantization.scheme: float8 is ambiguous", "fp8-dynamic-row ("),
    "--set quantization.scheme=yes": ("int4-weight-only (weights take a quarter",),
    "--set quantization.dtype=fp8": (
        "did you mean quantization.scheme? There fp8 is ambiguous; write one of fp8-weight-only (",
    ),
    "--set quantize=int8": (
        "did you mean quantization.scheme? There int8 is ambiguous; write one of int8-weight-only (",
    ),
    "--set precision.dtype=fp8": ("write one of quantization.scheme=fp8-weight-only (",),
    "--set compile.scope=on": ("write one of full (the whole denoiser", "regional ("),
    "--set compile.scope=max-autotune": ("write compile.mode=max-autotune (",),
    "--set compile.mode=off": ("write one of compile.scope=none (compiles nothing), default (",),
    "--set scheduler.kind=euler": ("FlowMatchEulerDiscreteScheduler (for models that predict a flow", "EulerDiscrete"),
    "--set attention.backend=fa4": ("write attention.flash_impl=FA4 (",),
    "--set cache.kind=true": ("write one of first-block (", "deepcache ("),
    "--set cache.threshold=off": ("write cache.kind=none (",),
    "--set num_inference_steps=4": ("did you mean steps?",),
    "--set guidance_scale=4": ("did you mean workload.guidance_scale?",),
    "--set batch=0": ("batch: 0 must be a whole number from 1",),
    "--set steps=[]": ("steps: no values are listed",),
    "--set steps=four": ("steps: four must be a whole number",),
    "--set knobs.steps=20": ("did you mean steps?",),
    "--set steps=20,28": ("write a list: [20, 28]",),
    '--set steps="20"': ("it is text: write it without quotes",),
    "--set steps=010": ("steps: 010 must be a whole number",),
    "--set steps=4:30": ("steps: 4:30 must be a whole number",),
    "--set workload.steps=20": ("it is a knob: write steps in the group knobs, or give --set steps=VALUE",),
    "--set workload.batch_size=2": ("it is a knob: write batch in the group knobs",),
    "--set workload.size=512": ("use height and width, each in pixels",),
    "--set workload.cfg=3": ("use guidance_scale",),
    "--set quality.metric=ssim": ("it is an option: `tune run --quality NAME`",),
    "--set gate.enabled=false": ("use count_per_step and max_idle_ms_per_step",),
    "--set workload.arguments.true_cfg_scale=high": (
        "true_cfg_scale: must be a number such as 1, not the text 'high'",
    ),
    "--set workload.arguments.callback_on_step_end=1": ("callback_on_step_end: it takes an object of Python's",),
    "--set workload.arguments.prompt_embeds=x": ("prompt_embeds: it takes an object of Python's",),
    "--set quantization.scheme=int8-dynamic --set compile.scope=none": (
        "--set compile.scope=none --set quantization.scheme=int8-dynamic: these cannot be had together: quantization.s",
    ),
    "--set cache.kind=teacache --set compile.scope=full": ("cannot be had together: cache.kind=teacache: it decides",),
    "--set steps=20 --set steps=28": (
        "--set steps=20 and --set steps=28: steps is set twice: give it once, with a list such as [20, 28]",
    ),
    "--set workload.height=64 --set workload.height=32": ("workload.height is set twice: give it once",),
    "--latency-target 2s --set workload.latency_target_s=1": ("workload.latency_target_s is set twice: give it once",),
    "--set steps 20": ("--set steps: write it as KNOB=VALUE", "in one word or in quotes"),
    "--metric ssmi=.": ("--metric ssmi=.", "did you mean ssim?"),
    "--metric fid": ("use NAME=PATH", "the metrics are clip_score"),
    "--metric preference=prompts.txt": ("prompts.txt: a folder is expected here, and this is a file",),
    "--space search_spaces/flux.yaml": ("did you mean flux?",),
    "--out prompts.txt": ("argument --out: 'prompts.txt' is not a folder",),
    "--out=": ("argument --out: '' is not a folder",),
    "Demo": ("Demo: no such folder or file", "did you mean demo?"),
    "--quality nowhere:score": ("there is no module nowhere",),
    "--steps 20": ("--steps; set it with --set steps=VALUE",),
    "--batch-size 4": ("set it with --set batch=VALUE",),
    "--height 512": ("set it with --set workload.height=VALUE",),
    "--prompts p.txt": ("set it with --set workload.prompts=VALUE",),
    "--dtype bf16": ("set it with --set precision.dtype=VALUE",),
    "--model demo": ("the model has no option: tune run MODEL",),
    "--config x.yaml": ("use --space FILE",),
    "--timeout 5m": ("use --budget TIME",),
    "--gpu 1": ("unrecognized arguments: --gpu", "use --gpus N"),
    "--gpus 0": ("--gpus", "0, is the first one alone"),
    "--resume": ("`tune resume`",),
    "--output x": ("use --out DIR",),
    "--set steps": ("write it as KNOB=VALUE", "such as steps=20"),
    "--set steps=": ("--set steps=: give a value",),
}


@pytest.mark.parametrize("text", ARGUMENTS)
def test_a_wrong_argument_is_refused_by_name_with_the_remedy(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("prompts.txt").write_text("a cat\n")
    line = refusal(capsys, "run", *text.split(" "))
    assert all(part in line for part in ARGUMENTS[text]), line


COMMANDS = {
    "rnu": "did you mean run?",
    "help": "did you mean `tune --help`?",
    "start": "did you mean `tune run MODEL`?",
    "demo": "did you mean `tune run demo`?",
    "black-forest-labs/FLUX.1-dev": "did you mean `tune run black-forest-labs/FLUX.1-dev`?",
    "show --format JSON": "did you mean json?",
    "apply": "tuner.load('STUDY/best_config.json')",
    "results": "did you mean `tune show`?",
    "RUN": "did you mean run?",
    "--budget 5m": "--budget; it is an option of tune run",
    "--verison": "did you mean --version?",
    "knobs --set steps=4": "it is an option of tune run",
    "doctor --jsno": "did you mean --json?",
    "cost nope": "nope: no such study",
    "trace nope": "nope: No such file",
    "board nope": "nope: no such study",
}


@pytest.mark.parametrize("text", COMMANDS)
def test_a_wrong_command_is_refused_with_the_remedy(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert COMMANDS[text] in refusal(capsys, *text.split(" "))


FILES: dict[str | bytes, str] = {
    "": "the file is empty; begin with `extends: any`",
    "# a comment\n": "the file is empty",
    "[]": "must be a group of NAME: VALUE, not a list",
    "just words": "not the text 'just words'",
    "extends: fluxx": "extends: fluxx", "extends: [demo]": "extends: must be text, not a list",
    "extend: demo": "extend: unknown field; did you mean extends?",
    "extends: demo\nextends: demo": ":2: not YAML: duplicate key extends",
    "extends: demo\nknobs:\n\tsteps: 4": ":3: not YAML",
    "extends: demo\nknob: {steps: 4}": "knob: unknown field; did you mean knobs?",
    "extends: demo\nknobs: {steps: []}": "knobs.steps: no values are listed",
    "extends: demo\nknobs: {batch: 4, steps: }": "knobs.steps: must be a value or a list, not nothing",
    "extends: demo\nknobs: {batch: 4, steps: [[4]]}": "knobs.steps[0]: must be a value, not a list",
    "extends: demo\nknobs: {stpes: 4}": "knobs.stpes: unknown knob; did you mean steps?",
    "extends: demo\nknobs: {precision.dtype: [bf16, bfloat16]}": "knobs.precision.dtype: bfloat16 is listed twice",
    "extends: demo\nknobs: {1: 4}": "a name must be text",
    "extends: demo\nworkload: {hight: 4}": "workload.hight: unknown field; did you mean height?",
    "extends: demo\nworkload: {height: '512'}": "workload.height: must be a whole number in pixels",
    "extends: demo\nworkload: {prompts: none}": "workload.prompts: none is not a file in the folder of the space",
    "extends: demo\nworkload: {prompts: [a, ' ']}": "workload.prompts[1]: must not be blank",
    "extends: demo\nworkload: {prompts: []}": "workload.prompts: must list at least 1",
    "extends: demo\nworkload: {arguments: {a: 1, b: null}}": "workload.arguments.b: must be a value, not nothing",
    "extends: demo\nworkload:\n": "workload: must be a group of NAME: VALUE, not nothing",
    "extends: demo\ngate: {count_per_step: {device sink: 1}}": "did you mean device sync?",
    "extends: demo\nbaseline: {dtype: 4}": "baseline.dtype: unknown knob",
    "extends: demo\nrecipes: [{name: a}]": "recipes[0].source: it is missing",
    "extends: demo\nrecipes: [{name: a, source: b, values: {steps: x}}]": "recipes.a.steps: x must be",
    "extends: demo\nsteps: 4": "steps: unknown field; it is a knob: write steps in the group knobs",
    "extends: demo\nbudget: 5m": "budget: unknown field; it is an option: `tune run --budget TIME`",
    "extends: demo\nmodel: x": "model: unknown field; it is an option: `tune run MODEL`",
    "extends: demo\nworkload: {resolution: [64, 64]}": "workload.resolution: unknown field; use height and width",
    "extends: demo\nknobs: {steps: 4, 5}": "knobs: a name must be text, not a whole number; put it in quotes",
    "extends: demo\nknobs: {steps: 4 5}": "knobs.steps: 4 5 must be a whole number from 1 to 100000; write a",
    "extends: demo\nknobs: {steps: {gpu: 4}}": "knobs.steps.gpu: values are by device, cpu or cuda; did you mean",
    "extends: demo\nknobs: {steps: {min: 4, max: 28}}": "knobs.steps.min: values are by device, cpu or cuda",
    "extends: demo\nknobs: {steps: 4:30}": "knobs.steps: 4:30 must be a whole number",
    "extends: demo\nknobs: {quantization.dtype: fp8}": "did you mean quantization.scheme? There fp8 is",
    "extends: demo\nknobs: {quantization.scheme: [none, int8]}": "int8 is ambiguous; write one of",
    "extends: demo\nquality: {tolerance: -.1}": "quality.tolerance: must be at least 0, not -0.1",
    "extends: demo\nrecipes: [{name: a, source: b, values: {steps: 4}}, {name: a, source: b, values: {steps: 3}}]":
        "recipes.a: two recipes have this name",
    "pipelines: [flux]\nknobs: {steps: 4}": "for flux, not for FluxPipeline; list FluxPipeline or any",
    "extends: demo\npipelines: Flux": "pipelines: must be a list such as [FluxPipeline]",
    "extends: demo\n".encode("utf-16"): "it is not UTF-8 text",
    b"extends: d\xe9mo\n": "it is not UTF-8 text",
}  # fmt: skip


@pytest.mark.parametrize("content", FILES)
def test_a_wrong_space_file_is_refused_by_field(
    content: str | bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "space.yaml"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    line = refusal(capsys, "run", "--space", str(file))
    assert str(file) in line and FILES[content] in line, line


PROMPT_FILES = {
    ("p.txt", b"\n \n"): "p.txt: has no prompt; write one per line",
    ("p.txt", b"caf\xe9"): "p.txt: it is not UTF-8 text",
    ("p.json", b"{"): "p.json: ",
    ("p.json", b'{"prompts": "a cat"}'): "p.json: prompts: must be a list such as [a cat, a dog]",
    ("p.json", b'{"prompt": ["a"]}'): "p.json: prompt: unknown field; did you mean prompts?",
    ("p.json", b'{"prompts": ["a", 1]}'): "p.json: prompts[1]: must be text, not 1",
    ("p.json", b'{"prompts": ["a"], "seeds": 1}'): "p.json: seeds: must be a list such as [0, 1, 2]",
    ("p.json", b'{"prompts": ["a"], "seeds": [1, 2]}'): "workload.seeds: 2 seeds for 1 prompts",
    ("p.json", b"[]"): "p.json: prompts: must list at least 1",
    ("p.csv", b"a,b"): "p.csv: name it .txt, with one prompt a line, or .json",
}


@pytest.mark.parametrize(("name", "content"), PROMPT_FILES)
def test_a_wrong_prompt_file_is_refused_by_field(
    name: str, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    line = refusal(capsys, "run", "--set", f"workload.prompts={name}")
    assert PROMPT_FILES[name, content] in line, line


@pytest.mark.parametrize(
    ("name", "content"), [("p.txt", "\ufeffa cat\r\n\r\na dog"), ("p.json", '\ufeff["a cat", "a dog"]')]
)
def test_prompts_are_read_with_a_byte_order_mark_and_as_a_list(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    workload = accepted("--set", f"workload.prompts={name}").space.workload
    assert (workload.prompts, workload.seeds) == (("a cat", "a dog"), (0, 1))


DPM = "DPMSolverMultistepScheduler"


@pytest.mark.parametrize("text", ["5min", "5 m", "5M", "300s", "0.0834h", "5minutes", "4m60s"])
def test_a_time_is_read_as_people_write_it(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert round(cli.make_parser().parse_args(["run", "--budget", text]).budget, -1) == 300


@pytest.mark.parametrize(
    ("name", "written", "meant"),
    [
        ("precision.dtype", "bf16", "bfloat16"), ("precision.dtype", "BF16", "bfloat16"),
        ("precision.dtype", "fp16", "float16"), ("precision.dtype", "torch.float32", "float32"),
        ("precision.dtype", "fp32", "float32"), ("quantization.scheme", "int4", "int4-weight-only"),
        ("quantization.scheme", "FP8 weight only", "fp8-weight-only"), ("compile.mode", "max_autotune", "max-autotune"),
        ("compile.scope", "Full", "full"), ("compile.scope", False, "none"),
        ("cache.kind", "firstblock", "first-block"), ("attention.backend", "sdpa", "native"),
        ("steps", 4, 4), ("fuse_qkv", False, False), ("steps", "4", "4"), ("fuse_qkv", "on", True),
        ("matmul.tf32", "Disabled", False), ("quantization.scheme", "off", "none"), ("cache.kind", "No", "none"),
        ("quantization.scheme", "float8_weight_only", "fp8-weight-only"), ("scheduler.kind", "DPM++ 2M", DPM),
        ("compile.mode", "reduce_overhead", "reduce-overhead"), ("compile.mode", "Normal", "default"),
        ("attention.backend", "flash_attention_3", "_flash_3"), ("attention.backend", "fa3", "_flash_3"),
        ("attention.backend", "auto", "native"), ("attention.backend", "flash", "flash"), ("fuse_qkv", 1, 1),
        ("scheduler.kind", False, "own"), ("guidance.stop", "off", 1.0), ("lora.scale", 1, 1), ("batch", True, True),
    ],
)  # fmt: skip
def test_a_value_has_other_names(name: str, written: Any, meant: Any) -> None:
    assert KNOBS[name].canonical(written) == meant


def test_every_alias_is_a_value_and_no_value_is_an_alias_of_another() -> None:
    for knob in KNOBS.values():
        for alias, value in aliases.ALIASES.get(knob.name, {}).items():
            assert alias == errors.plain_word(alias) and knob.invalid_reason(value) is None
        assert all(knob.canonical(choice) == choice for choice in knob.choices)


def test_every_meaning_is_a_setting_and_no_alias_has_several() -> None:
    for name, words in aliases.MEANINGS.items():
        for word, found in words.items():
            assert KNOBS[name].invalid_reason(KNOBS[name].canonical(word)) is not None, (name, word)
            for setting in found:
                knob, value = setting.split("=") if "=" in setting else (name, setting)
                assert value == "PATH" or KNOBS[knob].invalid_reason(KNOBS[knob].canonical(value)) is None, setting


def test_every_other_name_of_a_knob_is_that_of_a_setting() -> None:
    assert set(aliases.KNOB_NAMES.values()) <= set(settings.settable_names())
    assert all(word == errors.plain_word(word) for word in aliases.KNOB_NAMES)


def test_settings_that_need_a_third_one_are_accepted() -> None:
    accepted("--set", "quantization.scheme=int8-dynamic", "--set", "steps=4")
    accepted("--set", "quantization.scheme=int8-dynamic", "--set", "compile.scope=[none, full]", "--set", "steps=4")


def test_aliases_count_at_the_command_line_and_in_files(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(
        "extends: demo\nknobs: {precision.dtype: [fp32, BF16]}\n"
        "recipes: [{name: a, source: b, values: {precision.dtype: bf16}}]\n", encoding="utf-8-sig",
    )  # fmt: skip
    space = accepted("--space", str(file)).space
    assert space.knobs["precision.dtype"] == ("float32", "bfloat16")
    assert {recipe.name: recipe for recipe in space.recipes}["a"].values["precision.dtype"] == "bfloat16"
    assert accepted("--set", "precision.dtype=bf16").space.knobs["precision.dtype"] == ("bfloat16",)


def test_one_argument_of_the_call_is_set_without_losing_the_others(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("extends: demo\nworkload: {arguments: {true_cfg_scale: 2.0}}\n", encoding="utf-8")
    request = accepted("--space", str(file), "--set", "workload.arguments.prompt_2=a cat")
    assert request.space.workload.arguments == {"true_cfg_scale": 2.0, "prompt_2": "a cat"}


def test_a_negative_prompt_is_recorded_makes_another_study_and_reaches_every_prompt_of_a_call() -> None:
    from tuner.commands.notes import negative_prompt_notes
    from tuner.model.pipeline import call_arguments

    request = accepted("--set", "workload.negative_prompt=blurry")
    assert request.space.workload.negative_prompt == "blurry"
    assert request.fingerprint() != accepted().fingerprint()
    assert call_arguments(request.space.workload, {}, 2)["negative_prompt"] == ["blurry", "blurry"]
    assert ["no effect" in note for note in negative_prompt_notes(request)] == [True]
    guided = accepted("--set", "workload.negative_prompt=x", "--set", "workload.arguments.true_cfg_scale=4")
    assert not list(negative_prompt_notes(guided))


NAMES: tuple[Any, ...] = (
    "extends", "pipelines", "workload", "quality", "gate", "baseline", "knobs", "recipes", "prompts", "seeds", "height",
    "arguments", "tolerance", "count_per_step", "steps", "cpu", "name", "values", "device sync", 1, None, True,
)  # fmt: skip
VALUES: tuple[Any, ...] = (None, True, 0, -1, 3.5, math.inf, math.nan, 10**30, "", "a", "bf16", b"x", date(2020, 1, 1))


def anything(rng: random.Random, depth: int) -> Any:
    """Data as a YAML file may hold it."""
    if depth == 0 or rng.random() < 0.4:
        return rng.choice(VALUES)
    if rng.random() < 0.4:
        return [anything(rng, depth - 1) for _ in range(rng.randint(0, 3))]
    return {rng.choice(NAMES): anything(rng, depth - 1) for _ in range(rng.randint(0, 4))}


def test_whatever_a_space_file_holds_is_read_or_refused_in_plain_words() -> None:
    rng = random.Random(0)
    for _ in range(3000):
        data = {name: anything(rng, 4) for name in rng.sample(NAMES[:8], rng.randint(1, 3))}
        try:
            checks.check(yaml_file.convert(data, "file"), "file")
        except errors.BadInput as error:
            assert "\n" not in str(error) and not re.search(r"\$|Expected|Object", str(error)), (data, error)
