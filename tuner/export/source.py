"""Copy functions and classes of this package into a file of their own, with all that they need."""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = __name__.partition(".")[0]


class Carried:
    """The source of definitions of this package, in an order that works, and the imports that they need."""

    def __init__(self) -> None:
        self.imports: dict[str, None] = {}
        self.definitions: dict[tuple[str, str], str] = {}

    def add(self, objects: Iterable[Any]) -> None:
        """Copy functions and classes. Each is copied once, after what it needs."""
        for each in objects:
            self._add_name(each.__module__, each.__name__)

    def text(self) -> str:
        """Return the definitions as they follow each other in a file: constants, then functions and classes."""
        constants = "\n".join(text for text in self.definitions.values() if not is_block(text))
        return "\n\n\n".join(filter(None, [constants, *filter(is_block, self.definitions.values())]))

    def _add_name(self, module: str, name: str) -> None:
        statement = statements(module).get(name)
        if statement is None or (module, name) in self.definitions:
            return
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            self._add_import(statement, name)
            return
        if any(known == name for _, known in self.definitions):
            raise AssertionError(f"two definitions are called {name}")
        for other in names_used(statement):
            if other != name:
                self._add_name(module, other)
        self.definitions[module, name] = source_of(module, statement)

    def _add_import(self, statement: ast.Import | ast.ImportFrom, name: str) -> None:
        (alias,) = [each for each in statement.names if bound_name(each) == name]
        if isinstance(statement, ast.ImportFrom) and str(statement.module).partition(".")[0] == PACKAGE:
            self._add_name(str(statement.module), alias.name)
            return
        origin = f"from {statement.module} " if isinstance(statement, ast.ImportFrom) else ""
        self.imports[f"{origin}import {alias.name}" + (f" as {alias.asname}" if alias.asname else "")] = None


@cache
def source(module: str) -> str:
    """Return the source text of a module."""
    return Path(str(sys.modules[module].__file__)).read_text(encoding="utf-8")


@cache
def statements(module: str) -> dict[str, ast.stmt]:
    """Return the statement that binds each name at the top of a module."""
    return {name: node for node in ast.parse(source(module)).body for name in bound_names(node)}


def bound_names(node: ast.stmt) -> Iterator[str]:
    """Yield the names that a statement binds."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from map(bound_name, node.names)
    elif isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from (target.id for target in targets if isinstance(target, ast.Name))


def bound_name(alias: ast.alias) -> str:
    """Return the name that an import binds: of `import a.b` it is a."""
    return alias.asname or alias.name.partition(".")[0]


def is_block(text: str) -> bool:
    """Return whether a definition is a function or a class, not a constant."""
    return text.startswith(("def ", "class ", "@"))


def names_used(node: ast.AST) -> list[str]:
    """Return the names that a definition reads, in order, annotations included."""
    names = (each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load))
    return [name for name in dict.fromkeys(names) if not hasattr(builtins, name)]


def source_of(module: str, node: ast.stmt) -> str:
    """Return the source of a statement with its decorators."""
    first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))])
    return "\n".join(source(module).splitlines()[first - 1 : node.end_lineno])
