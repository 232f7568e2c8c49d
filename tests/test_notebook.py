"""The notebook in docs/: it was executed, and its code is what the API takes now."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tuner
from tuner.api.study import Study, Trials
from tuner.api.tuning import make_options
from tuner.report.points import FrontPoint
from tuner.result.records import BestConfig, MeasuredPoint

FILE = Path(__file__).parent.parent / "docs" / "tune.ipynb"
MAX_BYTES = 200_000

KINDS: dict[str, Any] = {
    "tuner": tuner, "study": Study, "again": Study, "best": BestConfig, "best.chosen": MeasuredPoint,
    "point": FrontPoint, "study.trials": Trials,
}  # fmt: skip
"""What the notebook's names stand for."""


@pytest.fixture(scope="module")
def cells() -> list[dict[str, Any]]:
    return list(json.loads(FILE.read_text(encoding="utf-8"))["cells"])


@pytest.fixture(scope="module")
def trees(cells: list[dict[str, Any]]) -> list[ast.Module]:
    return [ast.parse("".join(cell["source"])) for cell in cells if cell["cell_type"] == "code"]


def nodes(trees: list[ast.Module]) -> Iterator[ast.AST]:
    for tree in trees:
        yield from ast.walk(tree)


def test_it_was_executed_in_order_without_an_error(cells: list[dict[str, Any]]) -> None:
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "execute_result", "display_data"}
    assert FILE.stat().st_size < MAX_BYTES


def test_what_it_names_is_there(trees: list[ast.Module]) -> None:
    named = [(ast.unparse(node.value), node.attr) for node in nodes(trees) if isinstance(node, ast.Attribute)]
    known = [(owner, name) for owner, name in named if owner in KINDS]
    assert {("tuner", "tune"), ("study", "best"), ("study", "front"), ("study.trials", "to_pandas")} <= set(known)
    missing = [f"{owner}.{name}" for owner, name in known if not _has(KINDS[owner], name)]
    assert not missing


def _has(kind: Any, name: str) -> bool:
    return hasattr(kind, name) or name in getattr(kind, "__annotations__", {}) or (kind is Study and name == "folder")


def test_its_options_are_those_of_tune(trees: list[ast.Module]) -> None:
    (call,) = (node for node in nodes(trees) if isinstance(node, ast.Call) and ast.unparse(node.func) == "tuner.tune")
    names = {str(keyword.arg) for keyword in call.keywords}
    assert {"budget", "settings", "on_trial"} <= names
    own = set(tuner.tune.__kwdefaults__ or {})
    make_options(**dict.fromkeys(names - own))
