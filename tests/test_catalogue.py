"""`tune knobs`: it lists every value of every knob correctly, as text and as JSON."""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
from itertools import product
from pathlib import Path

import msgspec
import pytest
from kinds import COMPONENTS, kind

from tuner.cli import main
from tuner.commands.knobs.catalogue import USER_VALUE, Catalogue, about, catalogue
from tuner.commands.knobs.table import CatalogueTable
from tuner.commands.reasons import group_by_reason
from tuner.hardware.environment import LIBRARIES, detect
from tuner.knobs import KNOBS
from tuner.records.codec import Value, Values, decode, encode
from tuner.records.machine import Environment
from tuner.records.text import format_value
from tuner.report.console import make_console

CPU = detect("cpu")
INSTALLED = dict.fromkeys(LIBRARIES) | {
    "torch": "2.13.0",
    "triton": "3.7.0",
    "diffusers": "0.42.1",
    "torchao": "0.18.0",
}
GPU = Environment(
    device="cuda", device_name="NVIDIA H100", compute_capability="9.0", device_memory_bytes=80 * 2**30, driver="580",
    cpu_count=16, cpp_compiler=None, python="3.11.7", platform="Linux", libraries=INSTALLED,
)  # fmt: skip
BARE = msgspec.structs.replace(CPU, cpp_compiler=None)
PLACES = {"cpu": CPU, "gpu": GPU, "bare": BARE}


def text(found: Catalogue, width: int) -> str:
    stream = io.StringIO()
    make_console(stream, width).print(CatalogueTable(found))
    return stream.getvalue()


def flat(words: str) -> str:
    return " ".join(words.split())


def tune(*arguments: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "HF_HUB_OFFLINE": "1", **more}
    command = [sys.executable, "-m", "tuner", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


def cpu_of_children_s() -> float:
    """Return the CPU time of all children that have ended: a busy machine hardly changes it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# ---- what it lists --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KNOBS)
def test_every_knob_says_what_it_is_in_whole_sentences(name: str) -> None:
    assert type(KNOBS[name]).__doc__, f"{name} has no docstring of its own"
    said = about(KNOBS[name])
    assert said.endswith("."), said
    assert "\n" not in said
    assert len(said) < 300, "a catalogue is read at a glance"


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("pipeline_class", COMPONENTS)
def test_it_lists_every_value_of_every_knob_and_the_knobs_own_verdict(pipeline_class: str, place: str) -> None:
    here, architecture = PLACES[place], kind(pipeline_class)
    found = catalogue("some/model", architecture, here)
    assert [entry.name for entry in found.knobs] == list(KNOBS)
    for entry in found.knobs:
        knob, values = KNOBS[entry.name], [value.value for value in entry.values]
        assert set(knob.choices) <= set(values)
        assert len(values) == len(set(values)) <= len(knob.choices) + 1
        assert [value.baseline for value in entry.values].count(True) == 1
        assert entry.values[0].baseline
        for value in entry.values:
            reason = knob.unavailable_reason(value.value, here, architecture)
            assert (value.available, value.reason) == (reason is None, reason)
            assert reason is None or reason.strip()
            assert not (value.baseline and value.changes_image)


def test_values_that_may_change_the_image_are_marked() -> None:
    entries = {entry.name: entry for entry in catalogue("demo", kind(), CPU).knobs}
    assert entries["steps"].changes_image
    assert entries["quantization.scheme"].changes_image
    assert not entries["compile.scope"].changes_image
    for entry in entries.values():
        assert not any(value.changes_image for value in entry.values) or entry.changes_image


def test_accepts_describes_values_beyond_the_choices() -> None:
    entries = {entry.name: entry for entry in catalogue("demo", kind(), CPU).knobs}
    assert entries["steps"].accepts == "a whole number from 1 to 100000"
    assert entries["compile.scope"].accepts is None


def test_a_knob_without_effect_alone_names_what_it_needs() -> None:
    entries = {entry.name: entry for entry in catalogue("demo", kind(), CPU).knobs}
    assert entries["compile.scope"].needs == ()
    assert entries["compile.mode"].needs == ({"compile.scope": ("regional", "full")},)
    assert "first-block" in entries["cache.threshold"].needs[0]["cache.kind"]
    assert entries["lora.scale"].needs == ({"lora.file": (USER_VALUE,)},)
    assert "compile.scope=regional or full\n" in text(catalogue("demo", kind(), GPU), 80)
    assert "compile.scope=regional or full, which cannot be used here" in text(catalogue("demo", kind(), BARE), 120)


@pytest.mark.parametrize("place", PLACES)
def test_what_a_knob_needs_is_what_makes_it_active(place: str) -> None:
    here = PLACES[place]
    for entry in catalogue("demo", kind(), here).knobs:
        assert KNOBS[entry.name].is_active(candidate({}, here)) or entry.needs, f"{entry.name} is never active"
        for setting in entry.needs:
            for values in product(*setting.values()):
                different = dict(zip(setting, values, strict=True))
                assert different.items() <= candidate(different, here).items()
                assert entry.name in candidate(different, here)


def candidate(different: Values, here: Environment) -> Values:
    values: Values = {}
    for name, knob in KNOBS.items():
        if knob.is_active(values):
            values[name] = different.get(name, knob.baseline(here))
    return values


def test_the_untouched_pipeline_takes_the_steps_that_its_class_takes() -> None:
    for pipeline_class, steps in (("FluxPipeline", 28), ("StableDiffusionXLPipeline", 50)):
        entries = {entry.name: entry for entry in catalogue("m", kind(pipeline_class), CPU).knobs}
        assert entries["steps"].values[0].value == steps


def test_reasons_that_differ_only_in_the_value_are_one() -> None:
    refused: dict[Value, str] = {
        "a": "a is a kernel", "b": "b is a kernel", "c": "c code is slow", "d": "d code is slow",
        "e": "e arithmetic is new", "f": "it is old", "g": "it is old", True: "no",
    }  # fmt: skip
    assert group_by_reason(refused) == {
        "it is a kernel": ["a", "b"],
        "their code is slow": ["c", "d"],
        "e arithmetic is new": ["e"],
        "it is old": ["f", "g"],
        "no": [True],
    }


# ---- for programs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_it_survives_encoding(place: str) -> None:
    found = catalogue("demo", kind(), PLACES[place])
    assert decode(encode(found), Catalogue, "here") == found


def test_the_command_writes_strict_json(tmp_path: Path) -> None:
    done = tune("knobs", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    found = decode(done.stdout, Catalogue, "the command")
    assert (found.model, found.pipeline_class, found.environment.device) == ("demo", "FluxPipeline", "cpu")
    parts = ["model", "pipeline_class", "environment", "knobs", "not_offered", "space", "recipes"]
    assert list(json.loads(done.stdout)) == parts
    assert list(tmp_path.iterdir()) == []


def test_the_command_lists_what_several_devices_can_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["knobs", "--device", "cpu", "--devices", "4", "--json"]) == 0
    found = decode(capsys.readouterr().out, Catalogue, "the command")
    degrees = next(entry.values for entry in found.knobs if entry.name == "parallel.degree")
    assert [value.value for value in degrees if value.available] == [2, 4]


def test_the_command_imports_no_torch_and_is_quick(tmp_path: Path) -> None:
    code = "import sys; from tuner.cli import main; main(['knobs']); assert not {'torch', 'diffusers'} & {*sys.modules}"
    before_s = cpu_of_children_s()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=tmp_path, capture_output=True)
    assert cpu_of_children_s() - before_s < 1.5


# ---- for people -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("place", PLACES)
def test_the_text_has_every_name_value_and_reason_in_full(place: str, width: int) -> None:
    found = catalogue("demo", kind(), PLACES[place])
    shown = text(found, width)
    assert max(map(len, shown.splitlines())) <= width
    assert "\x1b" not in shown
    assert all(line == line.rstrip() for line in shown.splitlines())
    words = flat(shown)
    for entry in found.knobs:
        assert entry.name in words
        assert flat(entry.about) in words
        refused = {value.value: value.reason for value in entry.values if value.reason is not None}
        assert all(format_value(value.value) in words for value in entry.values)
        assert all(f": {reason}" in words for reason in group_by_reason(refused))
    for name, reason in found.not_offered.items():
        assert name in words
        assert flat(reason) in words


def test_the_recipes_of_its_space_are_listed_with_why_one_cannot_be_used() -> None:
    found = catalogue("m", kind("FluxPipeline"), CPU)
    shown = text(found, 160).partition("\nRecipes of the search space flux\n")[2]
    assert "\n  - fp8 per row, regional: compile.scope=regional quantization.scheme=fp8-dynamic-row\n" in shown
    assert "\n    not here: fp8-dynamic-row arithmetic needs a GPU\n" in shown
    assert shown.count("not here: ") == sum(recipe.reason is not None for recipe in found.recipes) < len(found.recipes)
    assert all(recipe.reason is None for recipe in catalogue("m", kind("FluxPipeline"), GPU).recipes)


@pytest.mark.parametrize("width", [50, 60])
def test_columns_that_do_not_fit_move_below_their_knob(width: int) -> None:
    found = catalogue("demo", kind(), CPU)
    shown = text(found, width)
    assert max(map(len, shown.splitlines())) <= width
    headings = [line for line in shown.splitlines() if line.startswith(tuple(entry.name for entry in found.knobs))]
    assert len(headings) == len(found.knobs)
    assert shown.count("    changes    ") == len(found.knobs)
    assert shown.count("    acts on    ") == (len(found.knobs) if width == 50 else 0)


def test_a_pipe_gets_plain_text_whatever_its_encoding(tmp_path: Path) -> None:
    for encoding in ("utf-8", "ascii"):
        done = tune("knobs", cwd=tmp_path, PYTHONIOENCODING=encoding)
        assert (done.returncode, done.stderr) == (0, "")
        assert "\x1b" not in done.stdout
        assert "the bundled demo pipeline (FluxPipeline)" in done.stdout
        assert encoding == "utf-8" or done.stdout.isascii()


def test_a_folder_is_shown_with_its_class(tmp_path: Path) -> None:
    index = {"_class_name": "SanaPipeline", "transformer": ["diffusers", "SanaTransformer2DModel"]}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model_index.json").write_text(json.dumps(index))
    done = tune("knobs", "mine", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("Knobs of `tune run` for mine (SanaPipeline)\n")


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("nowhere",), "nowhere"),
        (("owner/name",), "owner/name"),
        (("a" * 400,), "no such folder"),
        ((".",), "model_index.json"),
        (("--device", "cuda"), "--device cuda"),
        (("--revision", "abc"), "--revision"),
        (("demo", "other"), "other"),
        (("--jsn",), "did you mean --json?"),
    ],
)
def test_invalid_arguments_give_one_line_and_exit_code_2(
    tmp_path: Path, arguments: tuple[str, ...], names: str
) -> None:
    done = tune("knobs", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert names in done.stderr


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [(("rnu",), "run"), (("knob",), "knobs"), (("docter",), "doctor"), (("run", "--bugdet", "5m"), "--budget"),
     (("--vrsion",), "--version"), (("doctor", "--devise=cpu"), "--device")],
)  # fmt: skip
def test_a_misspelt_word_gets_a_suggestion(tmp_path: Path, arguments: tuple[str, ...], meant: str) -> None:
    done = tune(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert f"did you mean {meant}?" in done.stderr


def test_the_version_is_that_of_the_package(tmp_path: Path) -> None:
    done = tune("--version", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("tune ")
    assert done.stdout.split()[1][0].isdigit()
