"""The exported Python file: it needs nothing of this package, and generates the images of tuner.load."""

from __future__ import annotations

import ast
import json
import os
import re
import runpy
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from drawing import load as load_tiny
from drawing import shallow
from exports import OWN_FILES, beside, candidate, choosing, drawn, of_tiny, undefined, written
from test_export import CPU, example

import tuner
from tuner.errors import BadInput
from tuner.export.base import build_settings, read_tuned
from tuner.export.diffusers import Diffusers
from tuner.export.facts import setting
from tuner.export.python import Python
from tuner.export.source import Carried
from tuner.knobs import KNOBS
from tuner.records.codec import Estimate, Values


def imported(text: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(text)))
    froms = {str(node.module).partition(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
    plain = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return froms | {name.partition(".")[0] for name in plain}


# ---- every knob -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KNOBS)
def test_every_value_is_written_in_plain_python_or_refused_by_name(name: str) -> None:
    knob = KNOBS[name]
    for value in (*knob.choices, *OWN_FILES.get(name, ())):
        best = choosing(beside(name, value))
        if value == knob.baseline(CPU) or value == "nunchaku":
            continue
        assert best.chosen.values[name] == value, "the knob is active"
        if knob.code(best.chosen.values) is None:
            with pytest.raises(BadInput, match=rf"{re.escape(setting(name, value))}\b.* cannot be written"):
                Python().render(best)
            continue
        text = Python().render(best)
        assert undefined(text) == set()
        assert not imported(text) & {"tuner", "msgspec", "optuna"}
        assert max(map(len, text.splitlines())) <= 120


def test_no_two_copied_definitions_have_one_name() -> None:
    carried = Carried()
    for name, knob in KNOBS.items():
        for value in (*knob.choices, *OWN_FILES.get(name, ())):
            if value != knob.baseline(CPU) and value != "nunchaku":
                code = knob.code(choosing(beside(name, value)).chosen.values)
                carried.add(code.carried if code else ())
    assert len(carried.definitions) > 30
    assert undefined("\n".join([*carried.imports, carried.text()])) == set()


def test_a_knob_that_cannot_be_written_is_named_and_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(KNOBS["fuse_qkv"]), "code", lambda *_: None)
    best = read_tuned(written(tmp_path, choosing({"fuse_qkv": True, "vae.channels_last": True})))
    with pytest.raises(BadInput, match=r"^trial 5: fuse_qkv=true cannot be written in plain Python; use tuner\.load$"):
        Python().render(best)


# ---- the same images ------------------------------------------------------------------------------------------------

CONFIGURATIONS: list[tuple[str, Values]] = [
    (
        "flux",
        {
            "modulation.once": True,
            "single_blocks.fuse_input": True,
            "single_blocks.split_output": True,
        },
    ),
    ("flux", {"fuse_qkv": True, "attention.backend": "_native_math", "batch": 2, "steps": 3}),
    ("flux", {"precision.dtype": "bfloat16", "quantization.scheme": "int8-weight-only", "vae.channels_last": True}),
    ("flux", {"cache.kind": "first-block", "cache.threshold": 0.2, "steps": 6}),
    ("flux", {"cache.kind": "mag", "cache.threshold": 0.2, "cache.max_skip_steps": 2, "steps": 8}),
    ("flux", {"cache.kind": "teacache", "cache.threshold": 0.6, "steps": 6}),
    ("flux", {"cache.kind": "pab", "cache.interval": 2, "steps": 6}),
    ("flux", {"cache.kind": "taylorseer", "cache.interval": 3, "steps": 6}),
    ("flux", {"cache.kind": "faster", "cache.interval": 2, "steps": 6}),
    ("flux", {"scheduler.kind": "UniPCMultistepScheduler", "text.sequence_length": 64}),
    ("flux", {"memory.layerwise_casting": True, "vae.tiling": True, "vae.slicing": True, "batch": 2}),
    ("sd15", {"scheduler.kind": "DPMSolverMultistepScheduler", "scheduler.begin_index": True, "batch": 2}),
]

RUNNER = """
import builtins, hashlib, json, runpy, sys
real = builtins.__import__
def guarded(name, *others, **named):
    if name.partition(".")[0] == "tuner":
        raise ModuleNotFoundError("this package is not installed")
    return real(name, *others, **named)
builtins.__import__ = guarded
import numpy, torch
for file in sys.argv[1:]:
    found = runpy.run_path(file)
    generators = [torch.Generator().manual_seed(seed) for seed in range(found["BATCH"])]
    drawn = found["load"]()(found["PROMPTS"], generator=generators, output_type="np", **found["ARGUMENTS"]).images
    print(hashlib.sha256(numpy.ascontiguousarray(drawn).tobytes()).hexdigest(), json.dumps(found["ARGUMENTS"]))
assert not [name for name in sys.modules if name.partition(".")[0] == "tuner"]
"""


@pytest.fixture(scope="module")
def load() -> Callable[[Path], Any]:
    def quietly(file: Path) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return tuner.load(file)

    return quietly


@pytest.mark.usefixtures("process_state")
def test_without_this_package_it_generates_the_same_images(
    pipeline_folder: Callable[[str], Path], tmp_path: Path, load: Callable[[Path], Any]
) -> None:
    files, expected = [], []
    for index, (family, different) in enumerate(CONFIGURATIONS):
        config = written(tmp_path, of_tiny(pipeline_folder(family), different))
        file = tmp_path / f"tuned{index}.py"
        file.write_text(Python().render(read_tuned(config)))
        files.append(str(file))
        tuned = load(config)
        best = read_tuned(config)
        expected.append((drawn(tuned, list(best.workload.prompts[: best.chosen.batch])), tuned.call.arguments))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", RUNNER, *files], cwd=tmp_path, env=environment, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [line.split(" ", 1) for line in done.stdout.splitlines()]
    for (_, different), (digest, arguments), wanted in zip(CONFIGURATIONS, found, expected, strict=True):
        assert (digest, json.loads(arguments)) == wanted, different
    assert len({digest for digest, _ in found}) == len(found), "the settings change the images"


@pytest.mark.usefixtures("process_state", "only_dynamo")
@pytest.mark.parametrize(
    "different",
    [
        {"compile.scope": "regional", "cache.kind": "first-block", "cache.threshold": 0.2},
        {"compile.scope": "full", "graphs.scheduler_step": True, "compile.vae": True},
        {"compile.scope": "regional", "precision.dtype": "bfloat16", "quantization.scheme": "fp8-static-tensor"},
    ],
)
def test_compiled_it_generates_the_same_images(
    different: Values, tiny_pipeline: Path, tmp_path: Path, load: Callable[[Path], Any]
) -> None:
    from types import SimpleNamespace

    shallow(load_tiny(tiny_pipeline)).save_pretrained(tmp_path / "shallow")
    config = written(tmp_path, of_tiny(tmp_path / "shallow", different))
    best = read_tuned(config)
    (tmp_path / "tuned.py").write_text(Python().render(best))
    found = runpy.run_path(str(tmp_path / "tuned.py"))
    call = SimpleNamespace(batch=found["BATCH"], arguments=found["ARGUMENTS"])
    exported = drawn(SimpleNamespace(pipe=found["load"](), call=call), found["PROMPTS"])
    assert exported == drawn(load(config), found["PROMPTS"])


# ---- what it says ---------------------------------------------------------------------------------------------------


def test_the_head_says_what_was_measured_and_what_was_not(tmp_path: Path) -> None:
    text = Python().render(read_tuned(written(tmp_path, example())))
    head = text.partition("from __future__")[0]
    assert all(line.startswith("#") for line in head.splitlines() if line)
    for words in (CPU.device_name, "diffusers ", "1.00 s [990 ms, 1.01 s]", "4.00x [3.90, 4.10]", "confirmed in pairs",
                  "clip_score 30.5", "fuse_qkv=true", "pip install torch==", "this file"):  # fmt: skip
        assert words in head, words
    best = example()
    other = msgspec.structs.replace(best.chosen, trial=7, predicted_from=(6, 28), latency_samples=0, confirmed=False)
    file = written(tmp_path, msgspec.structs.replace(best, front=(best.chosen, other)))
    head = Python().render(read_tuned(file, 7)).partition("from __future__")[0]
    assert "4.00x [3.92, 4.08] the untouched pipeline's throughput, computed from the two latencies" in head
    assert "not measured side by side" in head and "predicted from calls of 6, 28 steps" in head


def test_a_gain_in_doubt_is_told_as_its_pairs_left_it(tmp_path: Path) -> None:
    best = example()
    pairs = Estimate(value=1.5, low=0.7, high=3.1)
    other = msgspec.structs.replace(best.chosen, trial=7, confirmed=False, doubtful=True, speed_up=pairs)
    file = written(tmp_path, msgspec.structs.replace(best, front=(best.chosen, other)))
    head = Python().render(read_tuned(file, 7)).partition("from __future__")[0].replace("\n#    ", "")
    assert "1.50x [0.70, 3.10] the untouched pipeline's throughput, IN DOUBT: pairs of fresh processes did not" in head
    assert "side by side" not in head


@pytest.mark.parametrize(
    ("pipeline_class", "result"), [("FluxPipeline", "images"), ("WanPipeline", "frames")], ids=["images", "videos"]
)
def test_what_generates_videos_says_so(pipeline_class: str, result: str) -> None:
    best = choosing({"fuse_qkv": True})
    best = msgspec.structs.replace(best, model=msgspec.structs.replace(best.model, pipeline_class=pipeline_class))
    assert ("imageio" in Python().render(best).partition("from __future__")[0]) == (result == "frames")
    assert f"# {result} = pipe([prompt] * 1, **arguments).{result}" in Diffusers().render(best)


def test_lists_that_a_pipeline_may_rewrite_are_copied_for_each_call() -> None:
    best = choosing({"fuse_qkv": True})
    assert "copy" not in imported(Python().render(best))
    workload = msgspec.structs.replace(best.workload, negative_prompt="grey")
    text = Python().render(msgspec.structs.replace(best, workload=workload))
    assert "**copy.deepcopy(ARGUMENTS)" in text and undefined(text) == set()


def test_what_a_file_holds_stays_data(tmp_path: Path) -> None:
    evil = '"""\n\rimport os; os.abort()\x85\u2028x = """\\'
    best = choosing({"fuse_qkv": True})
    machine = msgspec.structs.replace(best.environment, device_name=evil)
    workload = msgspec.structs.replace(best.workload, prompts=(evil, evil), negative_prompt=evil)
    model = msgspec.structs.replace(best.model, source=f"/{evil}", revision=evil)
    best = msgspec.structs.replace(
        best, environment=machine, workload=workload, model=model, tuner_version=evil, quality_metric=evil
    )
    with pytest.raises(BadInput, match=r"model\.source: /.* is no path"):
        read_tuned(written(tmp_path, best))
    text = Python().render(best)
    assert imported(text) <= {"__future__", "copy", "typing", "sys", "torch", "diffusers"}
    found = {node.id: node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    assert "os" not in found
    assert runpy_constants(text)["MODEL"] == f"/{evil}"


def runpy_constants(text: str) -> dict[str, Any]:
    assigned = [node for node in ast.parse(text).body if isinstance(node, ast.Assign)]
    return {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in assigned
        if isinstance(node.targets[0], ast.Name) and node.targets[0].id.isupper() and "DENOISERS" not in ast.dump(node)
    }


EVEN = Estimate(value=1.0, low=1.0, high=1.0)
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"chosen": example().baseline, "speed_up": EVEN}, r"trial 0 is the untouched pipeline"),
    ({"model": msgspec.structs.replace(example().model, pipeline_class="x; import os")}, r"no pipeline class x; "),
    ({"model": msgspec.structs.replace(example().model, source="../here")}, r"model\.source: \.\./here is not an abs"),
    ({"model": msgspec.structs.replace(example().model, base="x;y")}, r"model\.base: x;y is not an absolute path"),
    ({"model": msgspec.structs.replace(example().model, pipeline_class="class")}, r"no pipeline class class"),
    ({"model": msgspec.structs.replace(example().model, pipeline_class="AutoencoderKL")}, r"no pipeline class Auto"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_what_cannot_be_exported_is_refused_in_one_line(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    file = written(tmp_path, msgspec.structs.replace(example(), **fields))
    with pytest.raises(BadInput, match=words) as refusal:
        read_tuned(file)
    assert str(refusal.value).startswith(str(file)) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("others", [True, False])
def test_where_the_untouched_pipeline_is_chosen_the_other_points_are_named(tmp_path: Path, others: bool) -> None:
    best = choosing({"fuse_qkv": True})
    front = best.front if others else (best.baseline,)
    untouched = msgspec.structs.replace(best, chosen=best.baseline, front=front)
    another = r"take another point with --trial: 5 \(fuse_qkv=true, 500 ms\)$"
    words = another if others else "no other point; a longer --budget"
    with pytest.raises(BadInput, match=words):
        read_tuned(written(tmp_path, untouched), may_contradict=True)


def test_code_from_the_hub_is_not_exported(tmp_path: Path) -> None:
    best = choosing({"attention.backend": "flash_hub", "precision.dtype": "bfloat16"})
    with pytest.raises(BadInput, match=r"chosen\.values\.attention\.backend: flash_hub: .*no remote code"):
        read_tuned(written(tmp_path, best))


@pytest.mark.parametrize(
    ("different", "words"),
    [
        (
            {"compile.scope": "regional", "compile.mode": "reduce-overhead"},
            r"compile\.mode: reduce-overhead: .*CPU|over",
        ),
        ({"cache.kind": "mag", "compile.scope": "full"}, r"cache\.kind: mag: it decides between the blocks"),
        ({"vae.slicing": True}, r"vae\.slicing: true: it splits a batch"),
        ({"cudnn.benchmark": True}, r"cudnn\.benchmark: true: cuDNN is a library for NVIDIA GPUs"),
    ],
)
def test_settings_that_could_not_be_measured_are_refused(
    different: Values, words: str, tiny_pipeline: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=words):
        read_tuned(written(tmp_path, of_tiny(tiny_pipeline, different)))


def test_steps_alone_are_a_configuration(tmp_path: Path) -> None:
    best = read_tuned(written(tmp_path, choosing({"steps": 2})))
    assert build_settings(best) == {}
    assert "'num_inference_steps': 2" in Python().render(best)
    assert candidate({})["steps"] == 4


# ---- checkpoint files -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("process_state")
@pytest.mark.parametrize("whole", [True, False])
def test_a_checkpoint_file_is_loaded_as_it_is_tuned(
    whole: bool, pipeline_folder: Callable[[str], Path], tmp_path: Path, load: Callable[[Path], Any]
) -> None:
    import original_layout
    from diffusers import DiffusionPipeline

    base = pipeline_folder("sd15")
    pipe = DiffusionPipeline.from_pretrained(base)
    parts = (original_layout.unet, original_layout.vae, original_layout.text_encoder)[: 3 if whole else 1]
    state = {name: value for part in parts for name, value in part(pipe).items()}
    file = original_layout.save(state, tmp_path / "model.safetensors")
    best = of_tiny(base, {"vae.channels_last": True, "steps": 2})
    model = msgspec.structs.replace(best.model, source=str(file), base=str(base))
    config = written(tmp_path, msgspec.structs.replace(best, model=model))
    (tmp_path / "tuned.py").write_text(Python().render(read_tuned(config)))
    found, tuned = runpy.run_path(str(tmp_path / "tuned.py")), load(config)
    assert drawn(tuned._replace(pipe=found["load"]()), found["PROMPTS"]) == drawn(tuned, found["PROMPTS"])
    file.unlink()
    with pytest.raises(BadInput, match=r"^model\.source: no file .*model\.safetensors here"):
        Python().render(read_tuned(config))
