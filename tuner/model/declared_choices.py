"""Names that a setting may have: kinds of blocks, activations, and what a class compares a setting with."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tuner.errors import BadInput, did_you_mean
from tuner.model import diffusers_source
from tuner.model.json_file import shown

BLOCK_TYPES = re.compile(r"block_types$|^(?:mid|out)_block_type$")
ACTIVATIONS = re.compile(r"(?:act_fns?|activation_fn|post_act)$")
NORMS = re.compile(r"^qk_norm$|norm_types?$|^resnet_time_scale_shift$")
TRANSFORMERS_ACTIVATIONS = ("hidden_act", "hidden_activation", "dense_act_fn", "feed_forward_proj")

# Each begins with a plain text, which is found much faster than a class of characters.
COMPARED_BLOCK = re.compile(r"block_types?(?:\[\w+\])?\s*(?:==|!=|in)\s*(\"\w+\"|\[[^\]]*\]|\([^)]*\))")
COMPARED_ACTIVATION = re.compile(r"_fn\s*(?:==|!=|in)\s*(\"[\w-]+\"|\[[^\]]*\]|\([^)]*\))")
COMPARED_NORM = re.compile(r"norm(?:_type)?\s*(?:==|!=|in)\s*(\"[\w-]+\"|\[[^\]]*\]|\([^)]*\))")
ACTIVATION_TABLE = re.compile(r"ACT2CLS = \{(.*?)^\}", re.MULTILINE | re.DOTALL)
WORD_BEFORE = re.compile(r"\w*$")
TEXT = re.compile(r"\"([\w-]+)\"")
MAX_LISTED = 6
OLD_PREFIX = "UNetRes"
"""What diffusers removes from the names of blocks in old configurations."""


def check_choices(file: Path, folder: str, class_name: str, config: Mapping[str, Any]) -> None:
    """Check the names in a configuration of a class below a folder of diffusers.

    Raises BadInput with the file, the field and what may be meant.
    """
    for field, parameter in diffusers_source.parameters(folder, class_name).items():
        if field in config and config[field] is not None:
            known = _known(folder, class_name, field, config)
            _check(file, field, config[field], known and known | set(_declared(parameter)))


def check_transformers_activations(file: Path, source: Path, config: Mapping[str, Any], prefix: str = "") -> None:
    """Check the activations of a model of transformers against the table in its source file."""
    table = ACTIVATION_TABLE.search(source.read_text(encoding="utf-8")) if source.is_file() else None
    known = set(TEXT.findall(re.sub(r"\(\w+, \{.*?\}\)", "", table[1]))) if table else set()
    for field in TRANSFORMERS_ACTIVATIONS:
        value = config.get(field)
        if isinstance(value, str):
            _check(file, prefix + field, value.removeprefix("gated-") if field == "feed_forward_proj" else value, known)


def _known(folder: str, class_name: str, field: str, config: Mapping[str, Any]) -> set[str]:
    """Return the names that a setting may have, nothing if that is not certain."""
    if BLOCK_TYPES.search(field):
        names = _block_types(folder, class_name)
        return {name for variable, name in names if field.removesuffix("s").endswith(variable)}
    if ACTIVATIONS.search(field):
        return set(_activations(folder, class_name))
    if NORMS.search(field):
        return set(_norms(folder, class_name))
    return _compared(folder, class_name, field, config)


def _check(file: Path, field: str, value: Any, known: Iterable[str]) -> None:
    """Raise BadInput for a name that is not known. Case is ignored, as diffusers does for activations."""
    words = {word.lower() for word in known}
    for name in _names(value):
        if words and not {name.lower(), name.removeprefix(OLD_PREFIX).lower()} & words:
            listed = ", ".join(sorted(known)[:MAX_LISTED]) + (", ..." if len(words) > MAX_LISTED else "")
            instead = did_you_mean(name[:80], sorted(known), f"known are {listed}")
            raise BadInput(f"{file}: {field}: {shown(name) or 'an empty name'} is unknown; {instead}")


def _declared(parameter: diffusers_source.Parameter) -> Iterator[str]:
    """Yield the texts in a parameter's declaration: its default, and those of a Literal."""
    for node in filter(None, parameter):
        for each in ast.walk(node):
            if isinstance(each, ast.Constant) and isinstance(each.value, str):
                yield each.value


def _names(value: Any) -> Iterator[str]:
    """Yield the texts in nested lists."""
    if isinstance(value, str):
        yield value
    for item in value if isinstance(value, list) else ():
        yield from _names(item)


@cache
def _block_types(folder: str, class_name: str) -> frozenset[tuple[str, str]]:
    """Return the names that a class and what it imports compare variables of this sort with, each with its variable."""
    found = set()
    for text in diffusers_source.imported_sources(folder, class_name):
        for match in COMPARED_BLOCK.finditer(text):
            before = WORD_BEFORE.search(text[max(0, match.start() - 40) : match.start()])
            found |= {(f"{before[0] if before else ''}block_type", name) for name in TEXT.findall(match[1])}
    return frozenset(found)


@cache
def _activations(folder: str, class_name: str) -> frozenset[str]:
    texts = diffusers_source.imported_sources(folder, class_name)
    tables = [table for text in texts for table in ACTIVATION_TABLE.findall(text)]
    compared = [names for text in texts for names in COMPARED_ACTIVATION.findall(text)]
    return frozenset(name for part in (*tables, *compared) for name in TEXT.findall(part))


@cache
def _norms(folder: str, class_name: str) -> frozenset[str]:
    texts = diffusers_source.imported_sources(folder, class_name)
    return frozenset(name for text in texts for names in COMPARED_NORM.findall(text) for name in TEXT.findall(names))


# ---- what a class compares a setting with ---------------------------------------------------------------------------


def _compared(folder: str, class_name: str, field: str, config: Mapping[str, Any]) -> set[str]:
    """Return the names that a class compares a setting with if it raises an error for any other one."""
    conditions = _conditions(folder, class_name).get(field, [])
    is_closed = any(others is not None and not any(map(config.get, others)) for _, others in conditions)
    return {name for names, _ in conditions for name in names} if is_closed else set()


Conditions = Mapping[str, list[tuple[list[str], frozenset[str] | None]]]
"""By setting: names that it is compared with, and the other settings of the same conditions if these raise an error."""


@cache
def _conditions(folder: str, class_name: str) -> Conditions:
    tree = diffusers_source.class_tree(folder, class_name)
    found: dict[str, list[tuple[list[str], frozenset[str] | None]]] = {}
    nodes = list(ast.walk(tree)) if tree else []
    later = {id(node.orelse[0]) for node in nodes if isinstance(node, ast.If) and len(node.orelse) == 1}
    for node in nodes:
        match node:
            case ast.Compare():
                for field, names in _comparison(node):
                    found.setdefault(field, []).append((names, None))
            case ast.If() if id(node) not in later:
                tests = _tests(node)
                for field in {field for test in tests for field, _ in _comparisons(test)}:
                    others = {name for test in tests for name in _settings(test)} - {field}
                    found.setdefault(field, []).append(([], frozenset(others)))
    return found


def _tests(node: ast.If) -> list[ast.expr]:
    """Return the conditions of a chain that ends in an error, [] if it does not."""
    tests = [node.test]
    while len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If):
        node = node.orelse[0]
        tests.append(node.test)
    is_rest = _is_negative(node.test) or (len(tests) > 1 and _is_not_none(node.test))
    last = node.orelse or (node.body if is_rest else [])
    return tests if any(isinstance(each, ast.Raise) for each in last) else []


def _is_negative(test: ast.expr) -> bool:
    return isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.NotIn | ast.NotEq)


def _is_not_none(test: ast.expr) -> bool:
    return ast.unparse(test).endswith(" is not None")


def _comparisons(test: ast.expr) -> Iterator[tuple[str, list[str]]]:
    """Yield the settings that a condition compares with texts, and the texts."""
    for node in ast.walk(test):
        if isinstance(node, ast.Compare):
            yield from _comparison(node)


def _comparison(node: ast.Compare) -> Iterator[tuple[str, list[str]]]:
    match node:
        case ast.Compare(left=ast.Name(id=name) | ast.Attribute(attr=name), comparators=[right]):
            texts = _texts(right)
            if texts:
                yield name, texts


def _texts(node: ast.expr) -> list[str]:
    """Return the texts that an expression lists, [] if it is anything else than texts."""
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return []
    items = value if isinstance(value, list | tuple | set) else [value]
    return [item for item in items if isinstance(item, str)]


def _settings(test: ast.expr) -> Iterator[str]:
    for node in ast.walk(test):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
