"""Strict YAML: a safe loader that refuses duplicate keys, and the conversion to a SpaceFile."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import yaml

from tuner.errors import BadInput
from tuner.files import read_text
from tuner.records.text import shown
from tuner.space.explaining import explain
from tuner.space.plain_data import NOT_UNICODE, check_plain
from tuner.space.schema import SpaceFile


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which would silently keep the last of two equal keys, and parses for minutes if it may."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.nodes = self.depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.nodes, self.depth = self.nodes + 1, self.depth + 1
        if self.nodes > MAX_NODES or self.depth > MAX_DEPTH:
            raise ValueError(f"more than {MAX_NODES:,} values, or nested deeper than {MAX_DEPTH}")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                problem = f"duplicate key {key.value}"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


INT, FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
NUMBERS = (
    (INT, r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F]+)$"),
    (
        FLOAT,
        r"[-+]?([0-9][0-9_]*\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$",
    ),
)
"""As in YAML 1.2. For PyYAML 1e-3 and -.1 are texts, 4:30 is the number 270 and 010 is 8."""

_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag not in (INT, FLOAT)]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in NUMBERS:
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), list("-+.0123456789"))

MAX_BYTES = 1 << 20
MAX_NODES, MAX_DEPTH = 10_000, 50
"""PyYAML reads some 20,000 values a second."""

MAX_VALUES = 100_000
"""Aliases multiply: a file of 300 bytes can stand for a billion values."""


def _load(text: str) -> Any:
    """Parse YAML. Raises ValueError for what never ends."""
    if len(text) > MAX_BYTES:
        raise ValueError(f"longer than {MAX_BYTES >> 10:,} KiB")
    data = yaml.load(text, _Loader)  # noqa: S506  (a SafeLoader)
    _measure(data, {})
    return data


def _measure(data: Any, known: dict[int, int]) -> int:
    """Count the values that data stands for, aliases as often as they are used. Raises ValueError if it cannot be."""
    if not isinstance(data, list | dict):
        return 1
    if id(data) not in known:
        known[id(data)] = 1  # an alias inside of what it stands for fits no field, and is refused by its name
        parts = [*data, *data.values()] if isinstance(data, dict) else data
        known[id(data)] = 1 + sum(_measure(part, known) for part in parts)
    if known[id(data)] > MAX_VALUES:
        raise ValueError(f"more than {MAX_VALUES:,} values, aliases counted as often as used")
    return known[id(data)]


def load_file(path: Path) -> SpaceFile:
    """Read a YAML file as a SpaceFile. Raises BadInput with the file, and the line or the field."""
    try:
        data = _load(read_text(path, MAX_BYTES))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise BadInput(f"{path}{where}: not YAML: {shown(str(problem))}") from None
    return convert(data, str(path))


def load_value(text: str, where: str) -> Any:
    """Parse one YAML value of the command line. Raises BadInput that starts with `where`."""
    try:
        value = _load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise BadInput(f"{where}: the value is not YAML") from None
    check_plain(value, where)
    if value is None:
        raise BadInput(f"{where}: give a value")
    return value


def convert(data: Any, where: str) -> SpaceFile:
    """Convert plain data to a SpaceFile. Raises BadInput with `where` and the field."""
    try:
        written = msgspec.convert(data, SpaceFile)
        check_plain(data, where)
        return written
    except msgspec.ValidationError as error:
        reason = explain(error, data, SpaceFile).encode("utf-8", "backslashreplace").decode()
        raise BadInput(f"{where}: {reason}") from None
    except UnicodeEncodeError as error:  # msgspec compares keys and texts as UTF-8
        check_plain(data, where)
        raise BadInput(f"{where}: {shown(ascii(error.object))}: {NOT_UNICODE}") from None
    except RecursionError:
        raise BadInput(f"{where}: nested too deeply") from None
