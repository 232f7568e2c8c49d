"""The style that the package keeps: short files and functions, imperative docstrings, the field's own words."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent / "tuner"
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))

MAX_LINES = 350
MAX_TOP_LEVEL_FILES = 6
MAX_MEDIAN_FUNCTION_LINES = 6

NOT_IMPERATIVE = re.compile(
    r"(The|A|An|All|Any|Each|Every|Both|One|No|None|What|Whether|Which|Who|Whose|Where|When|Why|How|Those|These|This|"
    r"That|It|Its|They|As|Of|In|On|By|For|From|To|If|So|True|False|Equal|Same|Seconds|Names?|Numbers?|Returns|Gives|"
    r"Yields|Raises|Says|Tells|Makes|Turns|Takes|Writes|Reads|Trains|Measures|Finds|Is|Has|Another|More|Up|Only)\b"
)
STILTED = {
    "hear", "heard", "lacks", "wrong", "of_knobs", "in_vain", "in_question", "Own", "Kind", "Prices",
    "picture", "pictures", "Picture", "Pictures",
}  # fmt: skip


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function's body, its docstring left out."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0  # type: ignore[operator]


def public_functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield the public functions of a module and the public methods of its public classes."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            methods = (f for f in node.body if isinstance(f, ast.FunctionDef) and is_public(f))
            yield from (f for f in methods if not documented_above(node, f.name))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and is_public(node):
            yield node


def is_public(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    is_property = any(ast.unparse(decorator).endswith(("property", "setter")) for decorator in function.decorator_list)
    return not function.name.startswith("_") and not is_property


@cache
def parsed(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"))


@cache
def classes() -> dict[str, ast.ClassDef]:
    """The package's classes by name."""
    return {node.name: node for file in FILES for node in ast.walk(parsed(file)) if isinstance(node, ast.ClassDef)}


def documented_above(node: ast.ClassDef, name: str) -> bool:
    """Whether a base class of the package documents the method that this class overrides."""
    for base in node.bases:
        above = classes().get(ast.unparse(base).partition("[")[0].rpartition(".")[2])
        if above is None or above is node:
            continue
        own = [f for f in above.body if isinstance(f, ast.FunctionDef) and f.name == name]
        if any(ast.get_docstring(f) for f in own) or documented_above(above, name):
            return True
    return False


def test_no_file_is_too_long() -> None:
    lengths = {file: len((ROOT / file).read_text(encoding="utf-8").splitlines()) for file in FILES}
    assert {file: lines for file, lines in lengths.items() if lines > MAX_LINES} == {}


def test_few_files_lie_at_the_top() -> None:
    assert len(list(ROOT.glob("*.py"))) <= MAX_TOP_LEVEL_FILES


def test_functions_are_short() -> None:
    assert median(body_lines(f) for file in FILES for f in functions(parsed(file))) <= MAX_MEDIAN_FUNCTION_LINES


def test_docstrings_are_imperative() -> None:
    found = [
        f"{file}:{f.lineno}: {f.name}: {(ast.get_docstring(f) or '').splitlines()[0]}"
        for file in FILES for f in functions(parsed(file))
        if ast.get_docstring(f) and NOT_IMPERATIVE.match(ast.get_docstring(f) or "")
        and not any(ast.unparse(d).endswith(("property", "setter")) for d in f.decorator_list)
    ]  # fmt: skip
    assert not found, "\n".join(found)


def test_public_functions_have_a_docstring() -> None:
    found = [
        f"{file}:{f.lineno}: {f.name}"
        for file in FILES for f in public_functions(parsed(file))
        if not ast.get_docstring(f)
    ]  # fmt: skip
    assert not found, "\n".join(found)


def names_of(node: ast.AST) -> Iterator[str]:
    """Yield the name that a node uses or defines, if it does."""
    for field in ("id", "attr", "arg", "name"):
        if isinstance(node, ast.Name | ast.Attribute | ast.arg | ast.FunctionDef | ast.ClassDef) and hasattr(
            node, field
        ):
            yield getattr(node, field)


def test_names_are_the_fields_own() -> None:
    stilted = {
        (file, name)
        for file in FILES if not file.startswith("demo/")
        for node in ast.walk(parsed(file)) for name in names_of(node)
        if name in STILTED or name.startswith(("MOST_", "LEAST_", "tell_"))
    }  # fmt: skip
    assert not stilted, sorted(stilted)
