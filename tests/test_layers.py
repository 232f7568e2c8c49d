"""The shape of the package: imports point one way, the parent needs no torch, nothing that a file holds is executed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "tuner"

LAYERS: tuple[frozenset[str], ...] = tuple(
    map(
        frozenset,
        (
            {"errors", "numbers", "demo"},
            {"files"},
            {"records"},
            {"model", "timing"},
            {"hardware", "knobs", "quality", "trace"},
            {"space", "execution", "worker"},
            {"result", "board", "advisor"},
            {"search"},
            {"report", "export", "tracking"},
            {"study"},
            {"verify"},
            {"compare", "package"},
            {"commands"},
            {"cli", "api"},
            {"tuner"},
            {"__main__"},
        ),
    )
)
"""Folders, and the modules beside them, lowest first. Each imports from lower layers only, and from inside itself."""

STATIONS = {
    "files": {"errors"},
    "records": {"errors", "files", "numbers"},
    "model": {"records", "errors", "files", "demo"},
    "timing": {"records", "errors", "numbers"},
    "hardware": {"records", "errors", "timing"},
    "knobs": {"records", "errors", "files", "model", "numbers"},
    "quality": {"records", "errors", "files", "numbers"},
    "trace": {"records", "errors", "files", "numbers"},
    "space": {"records", "errors", "files", "numbers", "demo", "knobs", "quality"},
    "execution": {"records", "errors", "files", "hardware"},
    "demo": set(),
}
"""The only folders that each of these may import."""

PARENT = (
    "study", "search", "advisor", "execution", "report", "board", "tracking", "result", "space", "export", "verify",
    "compare", "package", "commands", "cli",
)  # fmt: skip
"""What runs in the parent process alone. The worker must not reach any of it, not even indirectly."""

NEEDS_TORCH = {"trace/capture.py", "trace/dynamo.py", "trace/sync_lines.py"}
RUNS_CODE = {"eval", "exec", "os.system", "os.popen", "torch.load", "yaml.unsafe_load", "yaml.full_load"}
HEAVY = {"torch", "torchao", "diffusers", "transformers", "torchmetrics", "triton"}

FILES = sorted(ROOT.rglob("*.py"))
NAMES = [path.relative_to(ROOT).as_posix() for path in FILES]


@cache
def trees() -> dict[str, ast.Module]:
    """Every file's code. Each process of a test run collects these tests, and one runs them."""
    return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in zip(NAMES, FILES, strict=True)}


def station(file: str) -> str:
    """The folder or module directly below `tuner` that a file belongs to; `tuner` for the package's own file."""
    name = file.partition("/")[0].removesuffix(".py")
    return "tuner" if name == "__init__" else name


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module that a tree imports, wherever the statement stands; `from a import b` gives a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def edges() -> dict[str, set[str]]:
    """Which station imports which others."""
    found: dict[str, set[str]] = {station(file): set() for file in NAMES}
    for file, tree in trees().items():
        for name in imported(tree):
            parts = name.split(".")
            if parts[0] == "tuner":
                target = parts[1] if len(parts) > 1 and parts[1] in found else "tuner"
                found[station(file)].add(target)
        found[station(file)].discard(station(file))
    return found


def reachable(start: str) -> set[str]:
    """What a station imports, and what that imports, and so on."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        for target in edges()[todo.pop()] - seen:
            seen.add(target)
            todo.append(target)
    return seen


def layer(name: str) -> int:
    found = [index for index, names in enumerate(LAYERS) if name in names]
    assert found, f"tuner.{name} is new: give it its place in LAYERS of {__file__}"
    return found[0]


@pytest.mark.parametrize("name", sorted(set(map(station, NAMES))))
def test_imports_point_down(name: str) -> None:
    for target in edges()[name]:
        assert layer(target) < layer(name), f"tuner.{name} imports tuner.{target}, which is not below it"


@pytest.mark.parametrize("name", sorted(STATIONS))
def test_a_station_knows_nothing_of_the_line_it_stands_in(name: str) -> None:
    assert edges().get(name, set()) <= STATIONS[name]


def test_parent_and_worker_do_not_reach_each_other() -> None:
    assert "worker" not in reachable("cli")
    assert not reachable("worker") & set(PARENT)


def loaded_by(modules: str) -> set[str]:
    """Import modules in a fresh process and return all that are loaded then."""
    code = f"import sys, {modules}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True)
    return set(done.stdout.split())


def modules_of(folders: Iterable[str]) -> str:
    files = (file for file in NAMES if station(file) in folders)
    return ", ".join("tuner." + file.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for file in files)


def test_the_parent_never_imports_torch_nor_the_worker() -> None:
    """Asserted of what is really loaded, so that indirect imports count."""
    parent = [name for name in PARENT if name != "board"]  # TensorBoard's server is a process of its own
    loaded = loaded_by(modules_of(parent))
    assert not loaded & HEAVY
    assert not [name for name in loaded if name.startswith("tuner.worker")]


def test_the_worker_never_imports_the_parent() -> None:
    loaded = loaded_by(modules_of(["worker"]))
    assert not [name for name in loaded if name.startswith(tuple(f"tuner.{folder}" for folder in PARENT))]
    assert not loaded & {"optuna", "sqlalchemy", "rich", "tensorboard"}


def test_nothing_is_imported_in_a_circle_inside_a_package() -> None:
    names = {file: file.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for file in NAMES}
    modules = {names[file]: tree for file, tree in trees().items()}
    graph: dict[str, set[str]] = {}
    for module, tree in modules.items():
        targets = {name.removeprefix("tuner.") for name in imported(tree) if name.startswith("tuner.")}
        graph[module] = {
            target if target in modules else target.rpartition(".")[0] for target in targets
        } & modules.keys() - {module}
    while graph:
        free = [module for module, targets in graph.items() if not targets & graph.keys()]
        assert free, f"imported in a circle: {sorted(graph)}"
        for module in free:
            del graph[module]


# ---- torch ----------------------------------------------------------------------------------------------------------


def test_torch_is_imported_where_it_is_used() -> None:
    heavy = {
        (file, name)
        for file, tree in trees().items() if file not in NEEDS_TORCH and station(file) != "demo"
        for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef) and not is_type_checking(node)
        for name in imported(node) if name.partition(".")[0] in HEAVY
    }  # fmt: skip
    assert not heavy, sorted(heavy)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def test_what_the_parent_does_before_a_trial_imports_no_torch(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from tuner.hardware import environment
from tuner.model import pipeline
from tuner.space import reader
from tuner.knobs import KNOBS
from tuner.result.prices import price_for
from tuner.search.request import Request
from tuner.study.store import Store

space_path = Path({str(tmp_path)!r}) / "small.yaml"
space_path.write_text("pipelines: [any]\\nworkload: {{prompts: [a], height: 32, width: 32}}\\n"
                      "quality: {{tolerance: 1}}\\nknobs: {{steps: [28, 4]}}\\n")
here = environment.detect("cpu")
model, kind = pipeline.resolve("demo", None, None)
request = Request(model=model, environment=here, space=reader.load(space_path, kind, here),
                  price=price_for(here.device_name, None))
with Store(Path({str(tmp_path)!r}) / "study", request) as store:
    number, values = store.ask()
    store.refuse(number, values, "only a test")
assert set(values) <= set(KNOBS)
assert "torch" not in sys.modules, "torch"
assert "diffusers" not in sys.modules, "diffusers"
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=tmp_path)


# ---- nothing is executed --------------------------------------------------------------------------------------------


def test_no_file_can_make_this_package_run_code() -> None:
    found = [f"{file}: {problem}" for file, tree in trees().items() for problem in run_by(tree)]
    assert not found, "\n".join(found)


def run_by(tree: ast.Module) -> Iterator[str]:
    """Yield what could run code that a file holds."""
    modules = {name.partition(".")[0] for name in imported(tree)}
    yield from modules & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        if name in RUNS_CODE or (name == "yaml.load" and "yaml.SafeLoader" not in loader_bases(tree, call)):
            yield f"line {call.lineno}: {name}"
        shown = {f"{keyword.arg}={ast.unparse(keyword.value)}" for keyword in call.keywords}
        for one in shown & {"shell=True", "trust_remote_code=True", "weights_only=False", "allow_pickle=True"}:
            yield f"line {call.lineno}: {one}"


def loader_bases(tree: ast.AST, call: ast.Call) -> set[str]:
    """The base classes of the loader that a call of yaml.load names."""
    loader = ast.unparse(call.args[1]) if len(call.args) > 1 else ""
    classes = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == loader)
    return {loader, *(ast.unparse(base) for node in classes for base in node.bases)}
