"""A knob's value in plain Python, for a file that imports torch and diffusers and not this package."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pprint import pformat
from typing import Any


@dataclass(frozen=True)
class Code:
    """Python code that gives a pipeline a knob's value, as `apply` does.

    `lines` are statements over `pipe`. `imports` are the import statements that they need. `carried` are functions and
    classes of this package that they call: their source is copied, with all that it needs. `needs` are distributions
    that have to be installed besides diffusers and what it needs. `before` are statements that come before the pipeline
    is loaded. `launcher` is the command that has to start the program, if not python itself.
    """

    lines: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    carried: tuple[Any, ...] = ()
    needs: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    launcher: str = ""

    def after(self, *before: str, carried: tuple[Any, ...] = (), launcher: str = "") -> Code:
        """Return this code after other statements, which come before the pipeline is loaded."""
        return replace(self, before=before, carried=(*self.carried, *carried), launcher=launcher)


NOTHING = Code()
"""The code of a value that needs none: an argument of the call, or one that the code of another knob reads."""


def assign(name: str, data: object) -> list[str]:
    """Write an assignment of plain data, over several lines if it is long."""
    first, *rest = pformat(data, width=90, sort_dicts=False).splitlines()
    return [f"{name} = {first}", *(f"{' ' * (len(name) + 3)}{line}" for line in rest)]


def call(function: str, *arguments: object, **named: object) -> str:
    """Write a call with these arguments."""
    return f"{function}({', '.join([*map(repr, arguments), *(f'{name}={value!r}' for name, value in named.items())])})"
