"""Search spaces: a file that is not right is refused by field, a candidate's keys say what can be shared."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from kinds import kind

from tuner import space
from tuner.errors import BadInput
from tuner.knobs import KNOBS, baseline
from tuner.record import Environment, Value, Values
from tuner.space import Space, build_key, candidate_key, image_key

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


def load(folder: Path, content: Any, environment: Environment = CPU, pipeline_class: str = "FluxPipeline") -> Space:
    return space.load(write(folder, content), kind(pipeline_class), environment)


@pytest.fixture
def good(tmp_path: Path) -> Space:
    return load(tmp_path, GOOD)


# ---- files that are not right ---------------------------------------------------------------------------------------

MALFORMED: list[tuple[Any, str]] = [
    (without("pipelines"), "pipelines"),
    (without("workload"), "workload"),
    (without("quality"), "quality"),
    (without("knobs"), "knobs"),
    (without("workload", "prompts"), "prompts"),
    (without("workload", "height"), "height"),
    (without("quality", "tolerance"), "tolerance"),
    (changed("pipelines", to="FluxPipeline"), "$.pipelines"),
    (changed("pipelines", to=[3]), "$.pipelines[0]"),
    (changed("pipelines", to=[]), "pipelines"),
    (changed("pipelines", to=["QwenImagePipeline"]), "not for FluxPipeline"),
    (changed("workload", to=[1]), "$.workload"),
    (changed("workload", "prompts", to=[]), "workload.prompts"),
    (changed("workload", "prompts", to=["a", " "]), "workload.prompts"),
    (changed("workload", "prompts", to=["a", 3]), "$.workload.prompts"),
    (changed("workload", "prompts", to={"a": 1}), "$.workload.prompts"),
    (changed("workload", "prompts", to="missing.json"), "workload.prompts"),
    (changed("workload", "prompts", to="../outside.json"), "workload.prompts"),
    (changed("workload", "prompts", to="/etc/hostname"), "workload.prompts"),
    (changed("workload", "prompts", to="."), "workload.prompts"),
    (changed("workload", "prompts", to="a" * 400), "workload.prompts"),
    (changed("workload", "seeds", to=[1]), "workload.seeds"),
    (changed("workload", "seeds", to=[1, 2, 3]), "workload.seeds"),
    (changed("workload", "seeds", to=[1, -2]), "workload.seeds"),
    (changed("workload", "seeds", to=[1, 2**64]), "seeds"),
    (changed("workload", "seeds", to=[1, "x"]), "$.workload.seeds"),
    (changed("workload", "height", to="32"), "$.workload.height"),
    (changed("workload", "height", to=32.5), "$.workload.height"),
    (changed("workload", "height", to=0), "workload.height"),
    (changed("workload", "width", to=-64), "workload.width"),
    (changed("workload", "width", to=10**9), "workload.width"),
    (changed("workload", "width", to=True), "$.workload.width"),
    (changed("workload", "guidance_scale", to="strong"), "$.workload.guidance_scale"),
    (changed("workload", "guidance_scale", to=float("nan")), "workload.guidance_scale"),
    (changed("workload", "max_sequence_length", to=0), "workload.max_sequence_length"),
    (changed("workload", "steps", to=3), "steps"),
    (changed("quality", "tolerance", to=-1), "quality.tolerance"),
    (changed("quality", "tolerance", to=float("nan")), "quality.tolerance"),
    (changed("quality", "tolerance", to=float("inf")), "quality.tolerance"),
    (changed("quality", "tolerance", to="1"), "$.quality.tolerance"),
    (changed("quality", "metric", to="clip"), "metric"),
    (changed("baseline", to=[]), "$.baseline"),
    (changed("baseline", "steps", to=0), "baseline.steps"),
    (changed("baseline", "batch", to=1.0), "baseline.batch"),
    (changed("baseline", "fuse_qkv", to=True), "baseline.fuse_qkv"),
    (changed("baseline", "nonsense", to=1), "baseline.nonsense"),
    (changed("knobs", to=["steps"]), "$.knobs"),
    (changed("knobs", "compile.scoop", to=["none"]), "knobs.compile.scoop"),
    (changed("knobs", "steps", to=[]), "knobs.steps"),
    (changed("knobs", "steps", to=28), "$.knobs"),
    (changed("knobs", "steps", to=[28, "4"]), "knobs.steps"),
    (changed("knobs", "steps", to=[28, [4]]), "$.knobs"),
    (changed("knobs", "steps", to=[28, None]), "$.knobs"),
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
    (changed("knobs", "precision.dtype", to={"cpu": "float32"}), "$.knobs"),
    (changed("recipes", to={}), "$.recipes"),
    (changed("recipes", 0, "values", to={"warp": 9}), "recipes.both"),
    (changed("recipes", 0, "values", to={"steps": "few"}), "recipes.both"),
    (changed("recipes", 0, "values", to=[1]), "$.recipes[0].values"),
    (changed("recipes", 0, "name", to=3), "$.recipes[0].name"),
    (changed("recipes", 0, to={"name": "x", "values": {}}), "source"),
    (changed("recipes", 0, "shell", to="true"), "shell"),
    (changed("extra", to=1), "extra"),
    ({1: 2}, "key"),
    ([1, 2], "array"),
    ("", "null"),
    ("just words", "str"),
    ("knobs: [1, 2\npipelines: x\n", "not YAML"),
    ("\tknobs: x\n", ":1: not YAML"),
    ("knobs:\n\tsteps: [1]\n", ":2: not YAML"),
    ("a\x00b", "not YAML"),
    ("pipelines: &a [*a]\n", "$"),
    ("pipelines: *nothing\n", "not YAML"),
    ("pipelines: [a]\n? [x]\n: 1\n", "not YAML"),
    ("pipelines: [FluxPipeline]\npipelines: [any]\n", ":2: not YAML: the key pipelines stands there twice"),
    ("pipelines: !!python/object/apply:os.system ['touch executed']\n", "not YAML"),
    ("pipelines: !!python/object:tuner.space.Space {}\n", "not YAML"),
    ("pipelines: !!python/name:os.system\n", "not YAML"),
    ("pipelines: 2026-13-45\n", "not YAML"),
    ("pipelines: [2026-01-01]\n", "$.pipelines[0]"),
    ("pipelines: [!!binary aGk=]\n", "$"),
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
        space.load(path, kind(), CPU)
    assert str(refusal.value).startswith(str(path))
    assert "\n" not in str(refusal.value)


def test_a_few_lines_that_would_grow_without_end_are_refused_at_once(tmp_path: Path) -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
    with pytest.raises(BadInput):
        load(tmp_path, f"{bomb}pipelines: *a29\n")


@pytest.mark.timeout(30)
def test_a_long_list_is_read_in_time(tmp_path: Path) -> None:
    loaded = load(tmp_path, changed("knobs", "steps", to=list(range(1, 500))))
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


def test_the_baseline_is_the_untouched_pipeline_with_the_files_calls(good: Space) -> None:
    assert good.baseline == {**{name: knob.baseline(CPU) for name, knob in KNOBS.items()}, "steps": 4, "batch": 1}
    assert good.candidate({}) == {**baseline(CPU), "steps": 4, "batch": 1}
    assert good.changed(good.candidate({})) == {}
    assert good.refusal(good.candidate({})) is None


def test_values_are_those_of_the_device(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD, CPU).knobs["precision.dtype"] == ("float32", "bfloat16")
    assert load(tmp_path, GOOD, H200).knobs["precision.dtype"] == ("bfloat16",)


def test_what_cannot_work_here_is_left_out_with_its_reason(tmp_path: Path) -> None:
    bare = Environment(**{**vars_of(CPU), "cpp_compiler": None})
    loaded = load(tmp_path, GOOD, bare)
    assert loaded.knobs["compile.scope"] == ("none",)
    assert set(loaded.left_out) == {"compile.scope=regional", "compile.scope=full", "recipe both"}
    assert all("C++ compiler" in reason for reason in loaded.left_out.values())
    assert loaded.recipes == ()


def vars_of(environment: Environment) -> dict[str, Any]:
    return {name: getattr(environment, name) for name in environment.__struct_fields__}


def test_any_is_for_every_pipeline(tmp_path: Path) -> None:
    assert load(tmp_path, changed("pipelines", to=["any"]), CPU, "SanaPipeline").knobs["steps"] == (4, 2)


def test_inactive_knobs_vanish(good: Space) -> None:
    values = good.candidate({"cache.threshold": 0.2, "compile.mode": "reduce-overhead", "inductor.freezing": True})
    assert not {"cache.threshold", "compile.mode", "inductor.freezing"} & values.keys()
    assert candidate_key(values) == candidate_key(good.candidate({}))
    active = good.candidate({"cache.kind": "first-block", "cache.threshold": 0.2, "compile.scope": "full"})
    assert active["cache.threshold"] == 0.2
    assert active["compile.mode"] == "default"


def test_every_candidate_that_can_be_chosen_is_complete_and_in_the_space(good: Space) -> None:
    rng = random.Random(0)
    asked: set[str] = set()

    def suggest(name: str, choices: tuple[Value, ...]) -> Value:
        asked.add(name)
        assert choices == good.knobs[name]
        return rng.choice(choices)

    for _ in range(200):
        values = good.choose(suggest)
        assert values == good.candidate(values)
        assert ("cache.threshold" in values) == (values["cache.kind"] == "first-block")
        assert good.changed(values).items() <= values.items()
    assert asked == set(good.knobs)


def test_keys_do_not_depend_on_the_order(good: Space) -> None:
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
def test_keys_say_what_can_be_shared(good: Space, different: Values, same_build: bool, same_image: bool) -> None:
    untouched, other = good.candidate({}), good.candidate(different)
    assert candidate_key(untouched) != candidate_key(other)
    assert (build_key(untouched) == build_key(other)) is same_build
    assert (image_key(untouched) == image_key(other)) is same_image


def test_a_row_is_the_candidate_and_then_its_other_steps(tmp_path: Path) -> None:
    loaded = load(tmp_path, changed("knobs", "steps", to=[28, 14, 4]))
    values = loaded.candidate({"steps": 14, "fuse_qkv": True, "batch": 4})
    row = loaded.row(values)
    assert row[0] == values
    assert [other["steps"] for other in row] == [14, 28, 4]
    assert {build_key(other) for other in row} == {build_key(values)}
    assert len({candidate_key(other) for other in row}) == 3
    assert [other["steps"] for other in loaded.row(loaded.candidate({"steps": 7}))] == [7, 28, 14, 4]
    assert len(load(tmp_path, without("knobs", "steps")).row(values)) == 1


def test_what_does_not_go_together_is_refused_by_knob(good: Space) -> None:
    values = good.candidate({"compile.scope": "regional", "compile.mode": "reduce-overhead"})
    refusal = good.refusal(values)
    assert refusal is not None
    assert refusal.startswith("compile.mode=reduce-overhead: ")
    freezing = good.refusal(good.candidate({"compile.scope": "regional", "inductor.freezing": True}))
    assert freezing is not None
    assert freezing.startswith("inductor.freezing=true: ")


# ---- the spaces that come with the package --------------------------------------------------------------------------

SHIPPED = sorted(space.space_folder().glob("*.yaml"))


def shipped(path: Path, folder: Path, pipeline_class: str, environment: Environment) -> Space:
    """A shipped space, with prompts of its own: those of the demo belong to its training."""
    content = yaml.safe_load(path.read_text())
    if content["workload"]["prompts"] == "demo":
        content["workload"]["prompts"] = ["a red circle"]
    return load(folder, content, environment, pipeline_class)


def test_spaces_are_shipped() -> None:
    assert "demo" in [path.stem for path in SHIPPED]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_space_is_right_as_it_stands(path: Path) -> None:
    for pipeline_class in yaml.safe_load(path.read_text())["pipelines"]:
        loaded = space.load(path, kind(pipeline_class), CPU)
        assert len(loaded.workload.prompts) >= 16
        assert len(set(loaded.workload.prompts)) == len(loaded.workload.prompts)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_recipe_of_a_shipped_space_is_valid_somewhere(path: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    assert content["recipes"]
    for pipeline_class in content["pipelines"]:
        spaces = [shipped(path, tmp_path, pipeline_class, environment) for environment in (CPU, H200)]
        valid = {
            recipe.name
            for loaded in spaces
            for recipe in loaded.recipes
            if loaded.refusal(loaded.candidate(recipe.values)) is None
        }
        assert valid == {recipe["name"] for recipe in content["recipes"]}
        for loaded in spaces:
            for recipe in loaded.recipes:
                lost = recipe.values.keys() - loaded.candidate(recipe.values).keys()
                assert not lost, f"{recipe.name}: {lost} mean nothing beside the rest"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_value_of_a_shipped_space_works_on_some_device(path: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    for pipeline_class in content["pipelines"]:
        left_out = [shipped(path, tmp_path, pipeline_class, environment).left_out for environment in (CPU, H200)]
        assert not left_out[0].keys() & left_out[1].keys()


def test_a_space_is_found_by_name_by_path_and_by_pipeline(tmp_path: Path) -> None:
    mine = write(tmp_path, GOOD)
    assert space.find(str(mine), kind(), False) == mine
    assert space.find("demo", kind(), False).name == "demo.yaml"
    assert space.find(None, kind(), True).name == "demo.yaml"
    assert space.find(None, kind(), False).name == "flux.yaml"


@pytest.mark.parametrize("name", ["nope", "a" * 400, "..", "nope/../demo", "/", "demo.yml"])
def test_a_space_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(BadInput) as refusal:
        space.find(name, kind(), False)
    assert "demo" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_pipeline_without_a_space_is_told_so() -> None:
    with pytest.raises(BadInput, match=r"SanaPipeline.*--space"):
        space.find(None, kind("SanaPipeline"), False)
