"""Weights that the user supplies: a local folder or file, or a repository on the hub. Safetensors only."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from tuner.errors import Unavailable
from tuner.knobs.base import Knob
from tuner.records.codec import Value
from tuner.records.machine import Environment
from tuner.records.model import Architecture

ON_THE_HUB = re.compile(
    r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(?:/(?P<weight_name>(?:\w[\w.-]*/)*\w[\w.-]*\.safetensors))?(?:@(?P<revision>\w[\w.-]*))?"
)


class UserWeights(Knob):
    """An absolute path, or owner/name on the hub, with /file.safetensors and @revision behind it where needed."""

    choices = ("none",)
    user_supplied = True
    may_change_image = True

    def invalid_reason(self, value: Value) -> str | None:
        if isinstance(value, str) and (value == "none" or Path(value).is_absolute() or ON_THE_HUB.fullmatch(value)):
            return None
        return "must be none, an absolute path, or owner/name on the hub"

    def unavailable_reason(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        if value == "none":
            return None
        reason = unreadable_reason(str(value), may_be_folder=True) if Path(str(value)).is_absolute() else None
        return reason or self.unsupported_reason(environment, architecture)

    def unsupported_reason(self, environment: Environment, architecture: Architecture) -> str | None:
        """Return why no weights of this sort can be used with this pipeline, or None."""
        return None


def unreadable_reason(path: str, *, may_be_folder: bool = False) -> str | None:
    """Return why a path must not be opened, or None. Opening a pipe or a device can block forever."""
    shown = " ".join(path.split())
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116  (any string, of any length)
    except FileNotFoundError:
        return f"there is no {shown} on this machine"
    except (OSError, ValueError) as error:
        return f"{shown} cannot be read: {getattr(error, 'strerror', None) or error}"
    if stat.S_ISREG(mode) or (may_be_folder and stat.S_ISDIR(mode)):
        return None
    return f"{shown} is no regular file{' or folder' if may_be_folder else ''}"


def load_arguments(value: str) -> tuple[str, dict[str, str]]:
    """Return the path or repository for diffusers' loaders, and keywords that select a file and a revision."""
    match = None if Path(value).is_absolute() else ON_THE_HUB.fullmatch(value)
    if match is None:
        return value, {}
    parts = match.groupdict()
    return str(parts.pop("repository")), {name: text for name, text in parts.items() if text}


def load_error(what: str, source: str, error: Exception) -> Unavailable:
    """Return the error for weights that could not be loaded, in one line."""
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return Unavailable(f"no {what} could be loaded from {source}: {reason}")
