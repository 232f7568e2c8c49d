"""Search spaces: a file that is not right is refused by field, a candidate's keys say what can be shared."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from kinds import kind

from tuner.errors import BadInput
from tuner.hardware.environment import LIBRARIES
from tuner.knobs import KNOBS, baseline
from tuner.records.codec import Value, Values
from tuner.records.machine import Environment
from tuner.space import reader, yaml_file
from tuner.space.candidates import SearchSpace, build_key, candidate_key, image_key

CPU = Environment(
    device="cpu", device_name="a CPU", compute_capability=None, device_memory_bytes=None, driver=None, cpu_count=2,
    cpp_compiler="/usr/bin/g++", python="3.11.7", platform="Linux",
    libraries={"torch": "2.13.0", "torchao": "0.18.0", "triton": None},
)  # fmt: skip
H200 = Environment(
    device="cuda", device_name="NVIDIA H200", compute_capability="9.0", device_memory_bytes=150 * 2**30, driver="580",
    cpu_count=16, cpp_compiler="/usr/bin/g++", python="3.11.7", platform="Linux",
    libraries={"torch": "2.13.0", "torchao": "0.18.0", "triton": "3.5.0"},
)  # fmt: skip

GOOD: dict[str, Any] = {
    "pipelines": ["FluxPipeline"],
    "workload": {"prompts": ["a red circle", "a blue square"], "seeds": [3, 4], "height": 32, "width": 32},
    "quality": {"tolerance": 1.0},
    "baseline": {"steps": 4, "batch": 1},
    "knobs": {
        "compile.scope": ["none", "regional", "full"],
        "cache.kind": ["none", "first-block"],
        "cache.threshold": [0.05, 0.2],
        "precision.dtype": {"cpu": ["float32", "bfloat16"], "cuda": ["bfloat16"]},
        "fuse_qkv": [False, True],
        "steps": [4, 2],
        "batch": [1, 4],
    },
    "recipes": [{"name": "both", "source": "a test", "values": {"compile.scope": "full", "fuse_qkv": True}}],
}


def write(folder: Path, content: Any) -> Path:
    path = folder / "given.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


def changed(*path: str | int, to: Any) -> dict[str, Any]:
    """GOOD with one field set, or added, to something."""
    copy = json.loads(json.dumps(GOOD))
    target = copy
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = to
    assert isinstance(copy, dict)
    return copy


def without(*path: str) -> dict[str, Any]:
    copy = changed(*path, to=None)
    target = copy
    for step in path[:-1]:
        target = target[step]
    del target[path[-1]]
    return copy


def load(
    folder: Path, content: Any, environment: Environment = CPU, pipeline_class: str = "FluxPipeline"
) -> SearchSpace:
    return reader.load(write(folder, content), kind(pipeline_class), environment)


@pytest.fixture
def good(tmp_path: Path) -> SearchSpace:
    return load(tmp_path, GOOD)


# ---- files that are not right ---------------------------------------------------------------------------------------

MALFORMED: list[tuple[Any, str]] = [
    (without("pipelines"), "pipelines"),
    (without("workload"), "workload"),
    (without("knobs"), "knobs"),
    (without("workload", "prompts"), "prompts"),
    (changed("pipelines", to="FluxPipeline"), "pipelines"),
    (changed("pipelines", to=[3]), "pipelines[0]"),
    (changed("pipelines", to=[]), "pipelines"),
    (changed("pipelines", to=["QwenImagePipeline"]), "not for FluxPipeline"),
    (changed("workload", to=[1]), "workload"),
    (changed("workload", "prompts", to=[]), "workload.prompts"),
    (changed("workload", "prompts", to=["a", " "]), "workload.prompts"),
    (changed("workload", "prompts", to=["a", 3]), "workload.prompts"),
    (changed("workload", "prompts", to={"a": 1}), "workload.prompts"),
    (changed("workload", "prompts", to="missing.json"), "workload.prompts"),
    (changed("workload", "prompts", to="../outside.json"), "workload.prompts"),
    (changed("workload", "prompts", to="/etc/hostname"), "workload.prompts"),
    (changed("workload", "prompts", to="."), "workload.prompts"),
    (changed("workload", "prompts", to="a" * 400), "workload.prompts"),
    (changed("workload", "seeds", to=[1]), "workload.seeds"),
    (changed("workload", "seeds", to=[1, 2, 3]), "workload.seeds"),
    (changed("workload", "seeds", to=[1, -2]), "workload.seeds"),
    (changed("workload", "seeds", to=[1, 2**64]), "seeds"),
    (changed("workload", "seeds", to=[1, "x"]), "workload.seeds"),
    (changed("workload", "height", to="32"), "workload.height"),
    (changed("workload", "height", to=32.5), "workload.height"),
    (changed("workload", "height", to=0), "workload.height"),
    (changed("workload", "width", to=-64), "workload.width"),
    (changed("workload", "width", to=10**9), "workload.width"),
    (changed("workload", "width", to=True), "workload.width"),
    (changed("workload", "guidance_scale", to="strong"), "workload.guidance_scale"),
    (changed("workload", "guidance_scale", to=float("nan")), "workload.guidance_scale"),
    (changed("workload", "max_sequence_length", to=0), "workload.max_sequence_length"),
    (changed("workload", "steps", to=3), "steps"),
    (changed("workload", "latency_target_s", to=0), "workload.latency_target_s"),
    (changed("workload", "latency_target_s", to=float("inf")), "workload.latency_target_s"),
    (changed("workload", "latency_target_s", to="2s"), "workload.latency_target_s"),
    (changed("quality", "tolerance", to=-1), "quality.tolerance"),
    (changed("quality", "tolerance", to=float("nan")), "quality.tolerance"),
    (changed("quality", "tolerance", to=float("inf")), "quality.tolerance"),
    (changed("quality", "tolerance", to="1"), "quality.tolerance"),
    (changed("quality", "tolerance", to={"ssim": -1}), "quality.tolerance"),
    (changed("quality", "tolerance", to={"ssim": float("nan")}), "quality.tolerance"),
    (changed("quality", "tolerance", to={"sim": 0.1}), "quality.tolerance.sim: no such metric; did you mean ssim?"),
    (changed("quality", "metric", to="clip"), "metric"),
    (changed("baseline", to=[]), "baseline"),
    (changed("baseline", "steps", to=0), "baseline.steps"),
    (changed("baseline", "batch", to=1.0), "baseline.batch"),
    (changed("baseline", "fuse_qkv", to=True), "baseline.fuse_qkv"),
    (changed("baseline", "nonsense", to=1), "baseline.nonsense"),
    (changed("knobs", to=["steps"]), "knobs"),
    (changed("knobs", "compile.scoop", to=["none"]), "knobs.compile.scoop"),
    (changed("knobs", "steps", to=[]), "knobs.steps"),
    (changed("knobs", "steps", to="28"), "knobs.steps"),
    (changed("knobs", "compile.scoop", to=["none"]), "did you mean compile.scope?"),
    (changed("workload", "num_frames", to=5), "takes no such argument"),
    (changed("workload", "arguments", to={"output_type": "pt"}), "takes no such argument"),
    (changed("workload", "arguments", to={"nonsense": 1}), "workload.arguments.nonsense"),
    (changed("workload", "arguments", to={"num_images_per_prompt": 4}), "workload.arguments.num_images_per_prompt"),
    (changed("workload", "arguments", to={"height": 512}), "workload.arguments.height"),
    (changed("knobs", "lora.file", to=["none", "/etc/passwd"]), "--set lora.file"),
    (changed("knobs", "quantization.gguf_file", to="/dev/zero.gguf"), "quantization.gguf_file"),
    (changed("recipes", 0, "values", to={"vae.tiny": "owner/name"}), "--set vae.tiny"),
    (changed("gate", to={"max_idle_ms_per_step": -1}), "max_idle_ms_per_step"),
    (changed("gate", to={"count_per_step": {"typo": 1}}), "count_per_step"),
    (changed("extends", to="a" * 300), "extends"),
    (changed("workload", "arguments", to={"latents": [1]}), "workload.arguments"),
    (changed("extends", to="nope"), "extends: nope"),
    (changed("extends", to="../demo"), "extends: ../demo"),
    (changed("extends", to="given.yaml"), "extends this file in turn"),
    (changed("knobs", "steps", to=[28, "4"]), "knobs.steps"),
    (changed("knobs", "steps", to=[28, [4]]), "knobs"),
    (changed("knobs", "steps", to=[28, None]), "knobs"),
    (changed("knobs", "steps", to=[28, 4, 28]), "knobs.steps"),
    (changed("knobs", "steps", to=[28, True]), "knobs.steps"),
    (changed("knobs", "fuse_qkv", to=[0, 1]), "knobs.fuse_qkv"),
    (changed("knobs", "compile.scope", to=["none", "everything"]), "knobs.compile.scope"),
    (changed("knobs", "compile.scope", to=["two\nlines"]), "knobs.compile.scope"),
    (changed("knobs", "two\nlines", to=["x"]), "unknown knob"),
    (changed("knobs", "cache.threshold", to=[float("nan")]), "knobs.cache.threshold"),
    (changed("knobs", "precision.dtype", to={"gpu": ["float32"]}), "knobs.precision.dtype.gpu"),
    (changed("knobs", "precision.dtype", to={"cpu": []}), "knobs.precision.dtype"),
    (changed("knobs", "precision.dtype", to={"cuda": ["float8"]}), "knobs.precision.dtype"),
    (changed("knobs", "precision.dtype", to={"cpu": "float8"}), "knobs.precision.dtype"),
    (changed("recipes", to={}), "recipes"),
    (changed("recipes", 0, "values", to={"warp": 9}), "recipes.both"),
    (changed("recipes", 0, "values", to={"steps": "few"}), "recipes.both"),
    (changed("recipes", 0, "values", to=[1]), "recipes[0].values"),
    (changed("recipes", 0, "name", to=3), "recipes[0].name"),
    (changed("recipes", 0, to={"name": "x", "values": {}}), "source"),
    (changed("recipes", 0, "shell", to="true"), "shell"),
    (changed("extra", to=1), "extra"),
    ({1: 2}, "a name must be text"),
    ([1, 2], "not a list"),
    ("", "the file is empty"),
    ("just words", "not the text"),
    ("knobs: [1, 2\npipelines: x\n", "not YAML"),
    ("\tknobs: x\n", ":1: not YAML"),
    ("knobs:\n\tsteps: [1]\n", ":2: not YAML"),
    ("a\x00b", "not YAML"),
    ("pipelines: &a [*a]\n", "pipelines[0]"),
    ("pipelines: *nothing\n", "not YAML"),
    ("pipelines: [a]\n? [x]\n: 1\n", "not YAML"),
    ("pipelines: [FluxPipeline]\npipelines: [any]\n", ":2: not YAML: duplicate key pipelines"),
    ("pipelines: !!python/object/apply:os.system ['touch executed']\n", "not YAML"),
    ("pipelines: !!python/object:tuner.space.SearchSpace {}\n", "not YAML"),
    ("pipelines: !!python/name:os.system\n", "not YAML"),
    ("pipelines: 2026-13-45\n", "not YAML"),
    ("pipelines: [2026-01-01]\n", "pipelines[0]"),
    ("pipelines: [!!binary aGk=]\n", "pipelines[0]"),
    ("[" * 20_000, "not YAML"),
]


@pytest.mark.parametrize(("content", "names"), MALFORMED, ids=[names[:30] for _, names in MALFORMED])
def test_a_file_that_is_not_right_is_refused_by_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, names: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outside.json").write_text('{"prompts": ["a", "b"], "seeds": [1, 2]}')
    folder = tmp_path / "spaces"
    folder.mkdir()
    with pytest.raises(BadInput) as refusal:
        load(folder, content)
    message = str(refusal.value)
    assert message.startswith(str(folder / "given.yaml"))
    assert names in message
    assert "\n" not in message
    assert len(message) < 600
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"\x89PNG\r\n\x1a\n", bytes(range(256))])
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "given.yaml"
    path.write_bytes(data)
    with pytest.raises(BadInput) as refusal:
        reader.load(path, kind(), CPU)
    assert str(refusal.value).startswith(str(path))
    assert "\n" not in str(refusal.value)


def test_a_few_lines_that_would_grow_without_end_are_refused_at_once(tmp_path: Path) -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
    with pytest.raises(BadInput):
        load(tmp_path, f"{bomb}pipelines: *a29\n")


@pytest.mark.timeout(30)
def test_a_long_list_is_read_in_time(tmp_path: Path) -> None:
    content = changed("knobs", "steps", to=list(range(1, 500)))
    content["baseline"]["steps"] = 500
    loaded = load(tmp_path, content)
    assert len(loaded.knobs["steps"]) == 499


def test_the_prompts_are_read_from_a_file_beside_the_space(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"prompts": ["x", "y"], "seeds": [7, 8]}')
    content = without("workload", "seeds")
    content["workload"]["prompts"] = "mine.json"
    assert load(tmp_path, content).workload.seeds == (7, 8)
    content["workload"]["seeds"] = [9, 10]
    assert load(tmp_path, content).workload.seeds == (9, 10), "the space file's own seeds win"


@pytest.mark.parametrize("text", ["[]", "{", '{"prompts": ["x"], "seed": [1]}', '{"prompts": "x"}', "\xff"])
def test_prompts_that_are_not_right_are_refused_by_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.json").write_text(text, encoding="latin-1")
    with pytest.raises(BadInput, match=r"mine\.json"):
        load(tmp_path, changed("workload", "prompts", to="mine.json"))


def test_a_link_does_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text('{"prompts": ["x", "y"], "seeds": [7, 8]}')
    folder = tmp_path / "spaces"
    folder.mkdir()
    (folder / "mine.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(BadInput, match=r"workload\.prompts"):
        load(folder, changed("workload", "prompts", to="mine.json"))


# ---- what a right file means ----------------------------------------------------------------------------------------


def test_the_baseline_is_the_untouched_pipeline_with_the_files_calls(good: SearchSpace) -> None:
    assert good.baseline == {**{name: knob.baseline(CPU) for name, knob in KNOBS.items()}, "steps": 4, "batch": 1}
    assert good.candidate({}) == {**baseline(CPU), "steps": 4, "batch": 1}
    assert good.changed(good.candidate({})) == {}
    assert good.conflict_reason(good.candidate({})) is None


def test_values_are_those_of_the_device(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD, CPU).knobs["precision.dtype"] == ("float32", "bfloat16")
    assert load(tmp_path, GOOD, H200).knobs["precision.dtype"] == ("bfloat16",)


def test_what_cannot_work_here_is_left_out_with_its_reason(tmp_path: Path) -> None:
    bare = Environment(**{**vars_of(CPU), "cpp_compiler": None})
    loaded = load(tmp_path, GOOD, bare)
    assert loaded.knobs["compile.scope"] == ("none",)
    assert set(loaded.left_out) == {"compile.scope=regional", "compile.scope=full", 'recipe "both"'}
    assert all("C++ compiler" in reason for reason in loaded.left_out.values())
    assert loaded.recipes == ()


def vars_of(environment: Environment) -> dict[str, Any]:
    return {name: getattr(environment, name) for name in environment.__struct_fields__}


def test_a_knob_that_no_candidate_makes_act_is_left_out_with_its_reason(tmp_path: Path) -> None:
    knobs = {"cache.kind": ["none", "deepcache"], "cache.interval": [2, 3], "steps": [4, 2]}
    file = write(tmp_path, changed("knobs", to=knobs))
    space = reader.load(file, kind(), CPU)
    assert (space.knobs["cache.kind"], "cache.interval" in space.knobs) == (("none",), False), "DeepCache is of UNets"
    reason = "it acts only in candidates such as cache.kind=deepcache, and this space has none"
    assert space.left_out["cache.interval=2"] == space.left_out["cache.interval=3"] == reason
    with pytest.raises(BadInput, match=r"--set cache\.interval=3: .* not available here: it acts only in candidates"):
        reader.load(file, kind(), CPU, ["cache.interval=3"])


def test_a_knob_that_a_recipe_alone_makes_act_stays(tmp_path: Path) -> None:
    for kinds in ({}, {"cache.kind": ["deepcache"]}, {"cache.kind": {"cuda": ["none", "first-block"]}}):
        space = changed("knobs", to={**kinds, "cache.threshold": [0.05, 0.2], "steps": [4, 2]})
        assert "cache.threshold" not in reader.load(write(tmp_path, space), kind(), CPU).knobs
        space["recipes"] = [{"name": "cache", "source": "a test", "values": {"cache.kind": "first-block"}}]
        assert "cache.threshold" in reader.load(write(tmp_path, space), kind(), CPU).knobs


@pytest.mark.parametrize("setting", ["batch=1", "compile.scope=none", "compile.scope=full", "cache.kind=first-block"])
def test_what_is_left_out_as_inactive_is_what_no_sample_has(setting: str) -> None:
    space = reader.load(reader.shipped_folder() / "any.yaml", kind(), H200, [setting])
    chance = random.Random(0)
    sampled = {name for _ in range(1000) for name in space.sample(lambda _, choices: chance.choice(choices))}
    assert space.knobs.keys() <= sampled
    inactive = {value.partition("=")[0] for value, reason in space.left_out.items() if "in candidates such" in reason}
    assert not inactive & sampled


def test_any_is_for_every_pipeline(tmp_path: Path) -> None:
    assert load(tmp_path, changed("pipelines", to=["any"]), CPU, "SanaPipeline").knobs["steps"] == (4, 2)


def test_inactive_knobs_vanish(good: SearchSpace) -> None:
    values = good.candidate({"cache.threshold": 0.2, "compile.mode": "reduce-overhead", "inductor.freezing": True})
    assert not {"cache.threshold", "compile.mode", "inductor.freezing"} & values.keys()
    assert candidate_key(values) == candidate_key(good.candidate({}))
    active = good.candidate({"cache.kind": "first-block", "cache.threshold": 0.2, "compile.scope": "full"})
    assert active["cache.threshold"] == 0.2
    assert active["compile.mode"] == "default"


def test_every_candidate_that_can_be_chosen_is_complete_and_in_the_space(good: SearchSpace) -> None:
    rng = random.Random(0)
    asked: set[str] = set()

    def suggest(name: str, choices: tuple[Value, ...]) -> Value:
        asked.add(name)
        assert choices == good.knobs[name]
        return rng.choice(choices)

    for _ in range(200):
        values = good.sample(suggest)
        assert values == good.candidate(values)
        assert ("cache.threshold" in values) == (values["cache.kind"] == "first-block")
        assert good.changed(values).items() <= values.items()
    assert asked == set(good.knobs)


def test_keys_do_not_depend_on_the_order(good: SearchSpace) -> None:
    values = good.candidate({"fuse_qkv": True, "steps": 2, "cache.kind": "first-block"})
    backwards = dict(reversed(values.items()))
    assert list(backwards) != list(values)
    for key in (candidate_key, build_key, image_key):
        assert key(values) == key(backwards)


@pytest.mark.parametrize(
    ("different", "same_build", "same_image"),
    [
        ({"steps": 2}, True, False),
        ({"batch": 4}, True, True),
        ({"compile.scope": "full"}, False, True),
        ({"compile.scope": "full", "inductor.freezing": True}, False, True),
        ({"attention.backend": "_native_math"}, False, True),
        ({"fuse_qkv": True}, False, True),
        ({"precision.dtype": "bfloat16"}, False, False),
        ({"quantization.scheme": "int8-dynamic"}, False, False),
        ({"cache.kind": "first-block"}, False, False),
    ],
)
def test_keys_say_what_can_be_shared(good: SearchSpace, different: Values, same_build: bool, same_image: bool) -> None:
    untouched, other = good.candidate({}), good.candidate(different)
    assert candidate_key(untouched) != candidate_key(other)
    assert (build_key(untouched) == build_key(other)) is same_build
    assert (image_key(untouched) == image_key(other)) is same_image


def test_a_row_is_the_candidate_and_then_its_other_steps(tmp_path: Path) -> None:
    content = changed("knobs", "steps", to=[28, 14, 4])
    content["baseline"]["steps"] = 28
    loaded = load(tmp_path, content)
    values = loaded.candidate({"steps": 14, "fuse_qkv": True, "batch": 4})
    row = loaded.step_sweep(values)
    assert row[0] == values
    assert [other["steps"] for other in row] == [14, 28, 4]
    assert {build_key(other) for other in row} == {build_key(values)}
    assert len({candidate_key(other) for other in row}) == 3
    assert [other["steps"] for other in loaded.step_sweep(loaded.candidate({"steps": 7}))] == [7, 28, 14, 4]
    assert len(load(tmp_path, without("knobs", "steps")).step_sweep(values)) == 1


def test_what_does_not_go_together_is_refused_by_knob(good: SearchSpace) -> None:
    values = good.candidate({"compile.scope": "regional", "compile.mode": "reduce-overhead"})
    refusal = good.conflict_reason(values)
    assert refusal is not None
    assert refusal.startswith("compile.mode=reduce-overhead: ")
    freezing = good.conflict_reason(good.candidate({"compile.scope": "regional", "inductor.freezing": True}))
    assert freezing is not None
    assert freezing.startswith("inductor.freezing=true: ")


# ---- the spaces that come with the package --------------------------------------------------------------------------

SHIPPED = sorted(reader.shipped_folder().glob("*.yaml"))
EQUIPPED = msgspec.structs.replace(
    H200, libraries=dict.fromkeys(LIBRARIES, "99") | {"torch": "2.13.0", "torchao": "0.18.0", "triton": "3.5.0"}
)
"""An H200 with every package that switches something on."""


def classes(path: Path) -> tuple[str, ...]:
    """Pipelines that a shipped space is for."""
    named = reader.parse(path).pipelines
    return ("LTXPipeline", "StableDiffusionPipeline") if named == ("any",) else named


def loaded_everywhere(path: Path) -> list[SearchSpace]:
    """A shipped space as each of its pipelines sees it, on a CPU and on a GPU."""
    return [reader.load(path, kind(name), here) for name in classes(path) for here in (CPU, EQUIPPED)]


def test_every_family_has_a_space() -> None:
    families = {"any", "demo", "flux", "flux2", "sd3", "sdxl", "qwen-image", "z-image", "sana", "pixart", "wan"}
    assert {path.stem for path in SHIPPED} == families
    for path in SHIPPED:
        if path.stem not in ("any", "demo"):
            for name in classes(path):
                assert reader.find(None, kind(name), False) == path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_space_is_right_as_it_stands(path: Path) -> None:
    for loaded in loaded_everywhere(path):
        assert len(loaded.workload.prompts) >= 16
        assert len(set(loaded.workload.prompts)) == len(loaded.workload.prompts)
        assert loaded.conflict_reason(loaded.candidate({})) is None
        assert len(loaded.knobs["steps"]) > 1


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_recipe_of_a_shipped_space_is_valid_somewhere_and_means_all_it_says(path: Path) -> None:
    valid = set()
    for loaded in loaded_everywhere(path):
        for recipe in loaded.recipes:
            values = loaded.candidate(recipe.values)
            lost = recipe.values.keys() - values.keys()
            assert not lost, f"{recipe.name}: {lost} mean nothing beside the rest"
            if loaded.conflict_reason(values) is None:
                valid.add(recipe.name)
    assert valid >= {recipe.name for recipe in reader.parse(path).recipes}
    assert valid


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_value_that_a_shipped_space_lists_works_somewhere(path: Path) -> None:
    working = {
        (name, value) for loaded in loaded_everywhere(path) for name in loaded.knobs for value in loaded.knobs[name]
    }
    for name, values in reader.parse(path).knobs.items():
        for listed in values.values() if isinstance(values, dict) else [values]:
            for value in listed if isinstance(listed, list) else [listed]:
                assert (name, value) in working, f"{name}={value}"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_most_random_candidates_of_a_shipped_space_are_valid(path: Path) -> None:
    rng = random.Random(0)
    for loaded in loaded_everywhere(path):
        candidates = [loaded.sample(lambda name, choices: rng.choice(choices)) for _ in range(200)]
        assert sum(loaded.conflict_reason(values) is None for values in candidates) >= 20


def test_a_space_is_found_by_name_by_path_and_by_pipeline(tmp_path: Path) -> None:
    mine = write(tmp_path, GOOD)
    assert reader.find(str(mine), kind(), False) == mine
    assert reader.find("demo", kind(), False).name == "demo.yaml"
    assert reader.find(None, kind(), True).name == "demo.yaml"
    assert reader.find(None, kind(), False).name == "flux.yaml"


@pytest.mark.parametrize("name", ["nope", "a" * 400, "..", "nope/../demo", "/", "demo.yml"])
def test_a_space_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(BadInput) as refusal:
        reader.find(name, kind(), False)
    assert "demo" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_pipeline_without_a_space_of_its_own_gets_the_one_for_any() -> None:
    assert reader.find(None, kind("LTXPipeline"), False).name == "any.yaml"


# ---- one file over another, and settings over both ------------------------------------------------------------------


def extended(folder: Path, content: dict[str, Any], *settings: str, environment: Environment = CPU) -> SearchSpace:
    """A file `child.yaml` that extends GOOD, which stands beside it."""
    write(folder, GOOD)
    child = folder / "child.yaml"
    child.write_text(yaml.safe_dump({"extends": "given.yaml", **content}))
    return reader.load(child, kind(), environment, settings)


def test_a_file_that_extends_another_and_says_nothing_is_the_other(tmp_path: Path, good: SearchSpace) -> None:
    child = extended(tmp_path, {})
    assert child.name == "child"
    assert [getattr(child, field) for field in ("workload", "tolerance", "baseline", "knobs", "recipes")] == [
        getattr(good, field) for field in ("workload", "tolerance", "baseline", "knobs", "recipes")
    ]


def test_a_file_narrows_and_pins_what_it_extends(tmp_path: Path) -> None:
    child = extended(tmp_path, {"knobs": {"steps": [4], "compile.scope": "full"}, "quality": {"tolerance": 2.5}})
    assert child.knobs["steps"] == (4,)
    assert child.knobs["compile.scope"] == ("full",)
    assert child.knobs["batch"] == (1, 4), "what it does not name stays"
    assert child.tolerance == 2.5
    assert child.candidate({})["compile.scope"] == "none", "the baseline is the untouched pipeline all the same"
    assert child.sample(lambda name, choices: choices[0])["compile.scope"] == "full"


TOLERANCE_CASES = [
    # metric, the space that is extended, tolerance of the user's file, of --set, the one that counts
    ("clip_score", "any", None, None, 0.5),
    ("clip_score", "demo", None, None, 1.0),
    ("ssim", "demo", None, None, 0.1),
    ("image_reward", "any", None, None, 0.1),
    ("clip_score", "demo", 0.001, None, 0.001),
    ("ssim", "any", 0.001, None, 0.001),
    ("lpips", "flux", 0.0, None, 0.0),
    ("mine:score", "flux", 0.001, None, 0.001),
    ("ssim", "flux", {"ssim": 0.02, "clip_score": 2.0}, None, 0.02),
    ("clip_score", "flux", {"ssim": 0.02, "clip_score": 2.0}, None, 2.0),
    ("hps", "flux", {"ssim": 0.02}, None, 0.2),
    ("mine:score", "demo", {"mine:score": 3.0}, None, 3.0),
    ("clip_score", "demo", 0.001, 0.7, 0.7),
    ("ssim", "demo", {"ssim": 0.02}, 0.7, 0.7),
    ("mine:score", "any", None, 0.7, 0.7),
    ("mine:score", "any", 0.001, 0.0, 0.0),
]


@pytest.mark.parametrize(("metric", "parent", "written", "on_command_line", "expected"), TOLERANCE_CASES)
def test_a_tolerance_is_that_of_the_flag_then_the_file_then_the_metric(
    tmp_path: Path, metric: str, parent: str, written: Any, on_command_line: float | None, expected: float
) -> None:
    content = {"extends": parent} | ({} if written is None else {"quality": {"tolerance": written}})
    settings = [] if on_command_line is None else [f"quality.tolerance={on_command_line}"]
    assert reader.load(write(tmp_path, content), kind(), CPU, settings, metric).tolerance == expected


def test_a_metric_of_your_own_has_no_default_tolerance(tmp_path: Path) -> None:
    for content in ({"extends": "any"}, {"extends": "any", "quality": {"tolerance": {"ssim": 0.1}}}):
        with pytest.raises(BadInput, match=r"quality\.tolerance is missing, and mine:score has no default: .*--set"):
            reader.load(write(tmp_path, content), kind(), CPU, metric="mine:score")


def test_other_prompts_do_not_keep_the_seeds_of_those_before(tmp_path: Path) -> None:
    child = extended(tmp_path, {"workload": {"prompts": ["x", "y", "z"]}})
    assert (child.workload.prompts, child.workload.seeds) == (("x", "y", "z"), (0, 1, 2))
    assert (child.workload.height, child.workload.width) == (32, 32)


def test_a_recipe_follows_what_is_pinned_and_is_left_out_where_it_cannot(tmp_path: Path) -> None:
    (recipe,) = extended(tmp_path, {"knobs": {"precision.dtype": "bfloat16"}}).recipes
    assert recipe.values == {"precision.dtype": "bfloat16", "compile.scope": "full", "fuse_qkv": True}
    narrowed = extended(tmp_path, {"knobs": {"compile.scope": ["none", "regional"]}})
    assert narrowed.recipes == ()
    assert narrowed.left_out['recipe "both"'] == "the space lists compile.scope only as none, regional"


def test_a_shipped_space_can_be_extended_by_name(tmp_path: Path) -> None:
    child = tmp_path / "mine.yaml"
    child.write_text("extends: flux\nknobs: {steps: 20}\n")
    loaded = reader.load(child, kind(), H200)
    assert loaded.knobs["steps"] == (20,)
    assert loaded.recipes


@pytest.mark.parametrize(
    ("setting", "field", "value"),
    [
        ("workload.height=512", "height", 512),
        ("workload.guidance_scale=3", "guidance_scale", 3.0),
        ("workload.max_sequence_length=77", "max_sequence_length", 77),
        ("workload.prompts=[one, two, three]", "prompts", ("one", "two", "three")),
        ("workload.arguments={true_cfg_scale: 2.0}", "arguments", {"true_cfg_scale": 2.0}),
    ],
)
def test_a_setting_sets_a_field_of_the_workload(tmp_path: Path, setting: str, field: str, value: Any) -> None:
    assert getattr(extended(tmp_path, {}, setting).workload, field) == value


def test_prompts_can_come_from_a_file_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine.txt").write_text("a cat\n\n  a dog\n")
    (elsewhere / "mine.json").write_text('{"prompts": ["x"], "seeds": [9]}')
    (tmp_path / "spaces").mkdir()
    monkeypatch.chdir(elsewhere)
    assert extended(tmp_path / "spaces", {}, "workload.prompts=mine.txt").workload.prompts == ("a cat", "a dog")
    assert extended(tmp_path / "spaces", {}, f"workload.prompts={elsewhere}/mine.json").workload.seeds == (9,)


def test_settings_pin_and_narrow_knobs_and_the_last_wins(tmp_path: Path) -> None:
    loaded = extended(tmp_path, {}, "compile.scope=regional", "steps=[4, 2]", "steps=2", "quality.tolerance=3")
    assert (loaded.knobs["compile.scope"], loaded.knobs["steps"], loaded.tolerance) == (("regional",), (2,), 3.0)
    assert extended(tmp_path, {}, "baseline.steps=20", "steps=12").knobs["steps"] == (12,)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("compile.scope", "KNOB=VALUE"),
        ("compile.scop=full", "did you mean compile.scope?"),
        ("compile.scope=whole", "must be one of"),
        ("compile.scope=[none, none]", "listed twice"),
        ("steps=[]", "no values"),
        ("steps=40", "the untouched pipeline takes 4"),
        ("attention.backend=_native_cudnn", "is not available here"),
        ("workload.height=tall", "workload.height"),
        ("workload.colour=red", "colour"),
        ("workload.num_frames=9", "num_frames"),
        ("workload.prompts=nowhere.txt", "nowhere.txt"),
        ("workload.prompts=[]", "workload.prompts"),
        ("baseline.fuse_qkv=true", "baseline.fuse_qkv"),
        ("quality.tolerance=-1", "quality.tolerance"),
        ("=1", "write it as KNOB=VALUE"),
        ("steps=[1", "not YAML"),
        ("steps=!!python/name:os.system", "not YAML"),
        ("recipes=[]", "unknown knob"),
    ],
)
def test_a_setting_that_is_not_right_is_refused_in_one_line(tmp_path: Path, setting: str, says: str) -> None:
    with pytest.raises(BadInput) as refusal:
        extended(tmp_path, {}, setting)
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_gates_policy_is_merged_field_by_field(tmp_path: Path) -> None:
    settings = ("gate.count_per_step={device sync: 2}", "gate.max_idle_ms_per_step=0.5")
    gate = extended(tmp_path, {"gate": {"max_idle_ms_per_step": 0.1}}, settings[0]).gate
    assert (gate.count_per_step, gate.max_idle_ms_per_step) == ({"device sync": 2.0}, 0.1)
    assert extended(tmp_path, {}, *settings).gate.max_idle_ms_per_step == 0.5


@pytest.mark.parametrize(
    "setting",
    ["workload.height=4", "workload.seeds=[-1]", "workload.seeds=[1]", "workload.num_frames=3",
     'workload.prompts=[" "]', 'workload.arguments={"nonsense": 1}'],
)  # fmt: skip
def test_a_wrong_field_of_the_workload_is_blamed_on_where_it_stands(tmp_path: Path, setting: str) -> None:
    with pytest.raises(BadInput) as caught:
        extended(tmp_path, {}, "workload.width=32", setting)
    assert str(caught.value).startswith(f"--set {setting}: ")
    field = setting.partition("=")[0]
    assert field in str(caught.value).removeprefix(f"--set {setting}: ")
    name, value = setting.removeprefix("workload.").split("=")
    with pytest.raises(BadInput) as caught:
        extended(tmp_path, {"workload": {name: json.loads(value)}})
    assert str(caught.value).startswith(str(tmp_path))


@pytest.mark.parametrize("settings", [("prompts=[a, b]", "seeds=[7, 8]"), ("seeds=[7, 8]", "prompts=[a, b]")])
def test_seeds_that_are_set_win_over_those_of_prompts_in_either_order(tmp_path: Path, settings: list[str]) -> None:
    workload = extended(tmp_path, {}, *(f"workload.{setting}" for setting in settings)).workload
    assert (workload.prompts, workload.seeds) == (("a", "b"), (7, 8))


@pytest.mark.parametrize("setting", ["workload.height=null", "steps=", "quality.tolerance=~"])
def test_a_setting_has_a_value(tmp_path: Path, setting: str) -> None:
    with pytest.raises(BadInput, match=f"--set {re.escape(setting)}: give a value"):
        extended(tmp_path, {}, setting)


def test_a_name_with_a_nul_is_no_file(tmp_path: Path) -> None:
    for content in ({"extends": "a\0b"}, {"workload": {"prompts": "a\0b"}}):
        with pytest.raises(BadInput, match=r"is (not a shipped space and )?not a file"):
            load(tmp_path, {**GOOD, **content})
    with pytest.raises(BadInput, match="no such file"):
        extended(tmp_path, {}, 'workload.prompts="a\\0b"')


def test_a_whole_number_is_the_float_that_it_is(tmp_path: Path) -> None:
    loaded = extended(tmp_path, {"knobs": {"cache.threshold": [1, 0.5]}})
    assert [type(value) for value in loaded.knobs["cache.threshold"]] == [float, float]


def test_weights_of_ones_own_are_named_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    loaded = extended(tmp_path, {}, f"vae.tiny={tmp_path / 'tiny'}")
    assert loaded.knobs["vae.tiny"] == (str(tmp_path / "tiny"),)


@pytest.mark.parametrize(("text", "value"), [("1e-3", 0.001), ("2.5E2", 250.0), ("-1e+2", -100.0), ("1e", "1e")])
def test_exponents_are_numbers(text: str, value: object) -> None:
    assert yaml_file._load(text) == value
