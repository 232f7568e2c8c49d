"""What a pipeline's call accepts: multiples of pixels and frames, and the longest prompt, read from diffusers' source.

A pipeline states them as `height % (self.vae_scale_factor * 2) != 0`. The expressions are computed with the settings of
its components. One that cannot be computed without loading the pipeline is left out.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tuner.errors import BadInput
from tuner.model import diffusers_source
from tuner.records.codec import read_json

DIVIDED = ("height", "width", "num_frames")
FIELDS = (*DIVIDED, "max_sequence_length")
"""The fields of a workload that are checked."""

OPERATORS: Mapping[type[ast.operator], Any] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Pow: operator.pow,
    ast.FloorDiv: operator.floordiv,
}  # fmt: skip
MAX_FACTOR = 4096
"""No pipeline divides by more. A configuration that says so is not believed."""


class Unknown(Exception):
    """An expression cannot be computed from the settings."""


class Rule(NamedTuple):
    """A number must leave this remainder when it is divided."""

    divisor: int
    remainder: int

    def nearest(self, value: int) -> list[int]:
        """Return the largest number up to a value that keeps the rule, if it is above 0, and the next one."""
        below = (value - self.remainder) // self.divisor * self.divisor + self.remainder
        return [number for number in (below, below + self.divisor) if number > 0]


def check_call(
    pipeline_class: str, folder: Path, arguments: Mapping[str, int | None], where: Mapping[str, str]
) -> None:
    """Check the sizes and the prompt length of a workload against what the pipeline in a folder accepts.

    `arguments` are fields of the workload, and `where` says who set each. Raises BadInput with the field and what to
    give instead.
    """
    for name in DIVIDED:
        value, rule = arguments.get(name), rule_of(pipeline_class, folder, name)
        if value is None or rule is None or value % rule.divisor == rule.remainder:
            continue
        more = f" plus {rule.remainder}" if rule.remainder else ""
        instead = " or ".join(map(str, rule.nearest(value)))
        raise BadInput(
            f"{where[name]}: workload.{name}: {pipeline_class} takes multiples of {rule.divisor}{more} only, and would "
            f"refuse or round {value}; give {instead}"
        )
    field = "max_sequence_length"
    length, limits = arguments.get(field), [max_sequence_length(pipeline_class), positions(folder)]
    longest = min((limit for limit in limits if limit is not None), default=None)
    if length is not None and longest is not None and length > longest:
        raise BadInput(f"{where[field]}: workload.{field}: {pipeline_class} takes at most {longest}, not {length}")


@cache
def max_sequence_length(pipeline_class: str) -> int | None:
    """Return the longest prompt, in tokens, that a pipeline's call accepts; None if it states no limit."""
    stated = re.findall(r"\bmax_sequence_length > (\d+)", diffusers_source.class_source("pipelines", pipeline_class))
    return min(map(int, stated), default=None)


def positions(folder: Path) -> int | None:
    """Return how many tokens the text encoder of a pipeline has positions for; None if that is not stated.

    Of CLIP, which pipelines use beside another encoder and cut prompts for, it is no limit of the call.
    """
    for file in sorted(folder.glob("text_encoder*/config.json")):
        content = read_json(file)
        settings = content.get("text_config", content) if isinstance(content, dict) else None
        stated = settings.get("max_position_embeddings") if isinstance(settings, dict) else None
        if type(stated) is int and stated > 0 and "clip" not in str(content.get("model_type")):
            return stated
    return None


def rule_of(pipeline_class: str, folder: Path, argument: str) -> Rule | None:
    """Return the rule that all conditions on an argument amount to, or None if there is none or they differ."""
    tree = diffusers_source.class_tree("pipelines", pipeline_class)
    rules = list(_rules(tree, folder, argument)) if tree else []
    if not rules or len({rule.remainder for rule in rules}) > 1:
        return None
    return Rule(math.lcm(*(rule.divisor for rule in rules)), rules[0].remainder)


def _rules(tree: ast.ClassDef, folder: Path, argument: str) -> Iterator[Rule]:
    """Yield the rules of the conditions `argument % EXPRESSION != NUMBER` of a class."""
    for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
        for node in ast.walk(function):
            match node:
                case ast.Compare(
                    left=ast.BinOp(left=ast.Name(id=name), op=ast.Mod(), right=divisor),
                    ops=[ast.NotEq()],
                    comparators=[ast.Constant(value=int(remainder))],
                ) if name == argument:
                    try:
                        value = _Evaluator(tree, function, folder).compute(divisor)
                    except (Unknown, BadInput, ArithmeticError, RecursionError):
                        continue
                    if type(value) is int and remainder < value <= MAX_FACTOR:
                        yield Rule(value, remainder)


class _Evaluator:
    """Computes an expression in a method of a pipeline's class from the settings of the components in a folder."""

    def __init__(self, tree: ast.ClassDef, function: ast.FunctionDef, folder: Path) -> None:
        self.tree = tree
        self.function = function
        self.folder = folder

    def compute(self, node: ast.expr) -> Any:
        """Return the value of an expression. Raises Unknown if it needs more than settings."""
        match node:
            case ast.Constant(value=int(value)):
                return value
            case ast.IfExp(body=body):  # `... if getattr(self, "vae", None) else 8`: the component is there
                return self.compute(body)
            case ast.Call(func=ast.Name(id="len"), args=[argument]):
                return len(self._of(argument, list))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
                return OPERATORS[type(op)](self._of(left, int), self._factor(right))
        return self._named(node)

    def _named(self, node: ast.expr) -> Any:
        """Return the value of a variable, an attribute of the pipeline or a setting of a component."""
        match node:
            case ast.Attribute(value=ast.Name(id="self"), attr=name):
                return self._assigned("__init__", f"self.{name}")
            case ast.Attribute(value=ast.Attribute() as owner, attr=name):
                return self._setting(ast.unparse(owner), name)
            case ast.Name(id=name):
                return self._assigned(self.function.name, name)
        raise Unknown(ast.unparse(node))

    def _of(self, node: ast.expr, kind: type) -> Any:
        value = self.compute(node)
        if type(value) is not kind:
            raise Unknown(ast.unparse(node))
        return value

    def _factor(self, node: ast.expr) -> int:
        value = self._of(node, int)
        if not 0 <= value <= MAX_FACTOR:
            raise Unknown(ast.unparse(node))
        return int(value)

    def _assigned(self, method: str, target: str) -> Any:
        """Compute what a method assigns to a name, if it does so once."""
        function = next(
            n for n in (*self.tree.body, self.function) if isinstance(n, ast.FunctionDef) and n.name == method
        )
        values = [
            node.value
            for node in ast.walk(function)
            if isinstance(node, ast.Assign) and [ast.unparse(each) for each in node.targets] == [target]
        ]
        if len(values) != 1 or ast.unparse(values[0]) == target:
            raise Unknown(target)
        return _Evaluator(self.tree, function, self.folder).compute(values[0])

    def _setting(self, owner: str, name: str) -> Any:
        """Return a setting of a component: `self.vae.config.NAME`, or an attribute of the same name."""
        component = re.fullmatch(r"self\.(\w+)(?:\.config)?", owner)
        if component is None:
            raise Unknown(owner)
        content = read_json(self.folder / component[1] / "config.json")
        if not isinstance(content, dict) or name not in content:
            raise Unknown(f"{owner}.{name}")
        return content[name]
