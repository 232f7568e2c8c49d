"""Shapes that the class of a diffusers model declares: `self.proj = nn.Linear(in_channels, inner_dim)` in its source.

Only what follows from the configuration for certain is returned: an argument that the class changes, a layer that it
assigns twice or a size that it computes otherwise is left out.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from tuner.model import diffusers_source

LAYERS = {"nn.Linear": (1, 0), "nn.Embedding": (0, 1), "nn.Conv2d": (1, 0), "nn.Conv3d": (1, 0)}
"""At which axis of the weight a layer's first and second argument stand."""

DYNAMIC = {"setattr", "self.add_module", "self.register_module", "self.register_parameter"}

MAX_DEPTH = 8
"""Steps from a size to the settings that it follows from."""


class Declared(NamedTuple):
    """A size of a layer, or the number of blocks of a list if `axis` is None, and the settings that it follows from.

    `is_certain` says that the layer is made whatever the settings.
    """

    name: str
    axis: int | None
    size: int
    settings: tuple[str, ...]
    is_certain: bool


def declared_sizes(class_name: str, config: Mapping[str, Any]) -> list[Declared]:
    """Return the sizes of a model's layers and lists of blocks that follow from its configuration."""
    tree = diffusers_source.class_tree("models", class_name)
    made = diffusers_source.constructor(tree)
    return list(_declared(tree, made, config)) if tree and made else []


def default_of(class_name: str, field: str) -> Any:
    """Return the default of a setting in the constructor of a model's class, None if it is not plainly stated."""
    parameter = diffusers_source.parameters("models", class_name).get(field)
    try:
        return ast.literal_eval(parameter.default) if parameter and parameter.default else None
    except ValueError:
        return None


@cache
def attributes(class_name: str) -> frozenset[str]:
    """Return the attributes that a model's class gives itself, none if others may be added elsewhere."""
    tree = diffusers_source.class_tree("models", class_name)
    bases = [ast.unparse(base) for base in tree.bases] if tree else []
    is_alone = all(base.endswith("Mixin") or base == "nn.Module" for base in bases)
    if tree is None or diffusers_source.constructor(tree) is None or not is_alone:
        return frozenset()
    nodes = list(ast.walk(tree))
    if any(isinstance(node, ast.Call) and ast.unparse(node.func) in DYNAMIC for node in nodes):
        return frozenset()
    stored = (node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store))
    return frozenset(node.attr for node in stored if ast.unparse(node.value) == "self")


def _declared(tree: ast.ClassDef, made: ast.FunctionDef, config: Mapping[str, Any]) -> Iterator[Declared]:
    known = _Known(made, config)
    always = {id(node.value) for node in made.body if isinstance(node, ast.Assign)}
    for target, value in _assigned_once(tree).items():
        if not target.startswith("self."):
            continue
        match value:
            case ast.Call(func=function, args=[first, second, *_], keywords=keywords) if ast.unparse(
                function
            ) in LAYERS and not any(keyword.arg == "groups" for keyword in keywords):
                for axis, node in zip(LAYERS[ast.unparse(function)], (first, second), strict=True):
                    yield from known.declared(f"{target[5:]}.weight", axis, node, id(value) in always)
            case ast.Call(func=function, args=[ast.ListComp(generators=[loop])]) if (
                ast.unparse(function) == "nn.ModuleList" and not loop.ifs
            ):
                match loop.iter:
                    case ast.Call(func=ast.Name(id="range"), args=[count]):
                        yield from known.declared(target[5:], None, count, id(value) in always)


def _assigned_once(tree: ast.AST) -> dict[str, ast.expr]:
    """Return what is assigned to each variable and attribute that is assigned once."""
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AugAssign | ast.AnnAssign | ast.For | ast.NamedExpr):
            found.setdefault(ast.unparse(node.target), []).extend([ast.Constant(None)] * 2)
        for target in targets:
            for each in target.elts if isinstance(target, ast.Tuple) else [target]:
                value = node.value if each is target else ast.Constant(None)  # type: ignore[attr-defined]
                found.setdefault(ast.unparse(each), []).append(value)
    return {target: values[0] for target, values in found.items() if len(values) == 1}


class _Known:
    """Values of the constructor's arguments and of what is computed from them."""

    def __init__(self, made: ast.FunctionDef, config: Mapping[str, Any]) -> None:
        names = [argument.arg for argument in made.args.args][1:]
        defaults = dict(zip(names[len(names) - len(made.args.defaults) :], made.args.defaults, strict=True))
        self.assigned = _assigned_once(made)
        changed = {ast.unparse(t) for n in ast.walk(made) if isinstance(n, ast.Assign) for t in n.targets}
        plain = {name: node.value for name, node in defaults.items() if isinstance(node, ast.Constant)}
        self.values = {name: config.get(name, plain.get(name)) for name in names if name not in changed}
        self.used: list[str] = []

    def declared(self, name: str, axis: int | None, node: ast.expr, is_certain: bool) -> Iterator[Declared]:
        """Yield the size that an expression gives, if it can be computed."""
        self.used = []
        size = self.compute(node)
        if type(size) is int and self.used:
            yield Declared(name, axis, size, tuple(dict.fromkeys(self.used)), is_certain)

    def compute(self, node: ast.expr, depth: int = 0) -> Any:
        """Return the value of an expression, None if it is unknown."""
        match node:
            case _ if depth > MAX_DEPTH:
                return None
            case ast.Constant(value=int(value)):
                return value
            case ast.Subscript(value=of, slice=ast.Constant(value=int(index))):
                items = self.compute(of, depth + 1)
                return items[index] if isinstance(items, list) and -len(items) <= index < len(items) else None
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                factors = self.compute(left, depth + 1), self.compute(right, depth + 1)
                return factors[0] * factors[1] if all(type(factor) is int for factor in factors) else None
        return self._named(node, depth)

    def _named(self, node: ast.expr, depth: int) -> Any:
        """Return the value of an argument, a variable or an attribute, None if it is unknown."""
        match node:
            case ast.Name(id=name) | ast.Attribute(value=ast.Attribute(attr="config"), attr=name) if (
                name in self.values
            ):
                self.used.append(name)
                return self.values[name]
            case ast.Name() | ast.Attribute(value=ast.Name(id="self")):
                assigned = self.assigned.get(ast.unparse(node))
                return None if assigned is None else self.compute(assigned, depth + 1)
        return None
