"""Strict YAML: a safe loader that refuses duplicate keys, and the conversion to a SpaceFile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import yaml

from tuner.errors import BadInput
from tuner.space.candidates import format_value
from tuner.space.explaining import explain
from tuner.space.schema import SpaceFile


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which would silently keep the last of two equal keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                problem = f"duplicate key {key.value}"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_file(path: Path) -> SpaceFile:
    """Read a YAML file as a SpaceFile. Raises BadInput with the file, and the line or the field."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506  (a SafeLoader)
    except UnicodeDecodeError:
        raise BadInput(f"{path}: it is not UTF-8 text: save it as UTF-8") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise BadInput(f"{path}{where}: not YAML: {format_value(str(problem))}") from None
    return convert(data, str(path))


def load_value(text: str, where: str) -> Any:
    """Parse one YAML value of the command line. Raises BadInput that starts with `where`."""
    try:
        value = yaml.load(text, _Loader)  # noqa: S506  (a SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise BadInput(f"{where}: the value is not YAML") from None
    if value is None:
        raise BadInput(f"{where}: give a value")
    return value


def convert(data: Any, where: str) -> SpaceFile:
    """Convert plain data to a SpaceFile. Raises BadInput with `where` and the field."""
    try:
        return msgspec.convert(data, SpaceFile)
    except msgspec.ValidationError as error:
        raise BadInput(f"{where}: {explain(error, data, SpaceFile)}") from None
    except RecursionError:
        raise BadInput(f"{where}: nested too deeply") from None
