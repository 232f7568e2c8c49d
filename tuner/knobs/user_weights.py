"""Weights that a person names: a folder or file of this machine, or what stands on the hub. Safetensors only."""

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
        problem = unreadable_reason(str(value), may_be_folder=True) if Path(str(value)).is_absolute() else None
        return problem or self.unsupported_reason(environment, architecture)

    def unsupported_reason(self, environment: Environment, architecture: Architecture) -> str | None:
        """Why no such weights at all can be used here, or None."""
        return None


def unreadable_reason(path: str, *, may_be_folder: bool = False) -> str | None:
    """Why a path must not be opened, or None: to open a pipe or a device can take forever."""
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
    """Where diffusers' loaders find given weights, and the keywords that narrow them down."""
    on_the_hub = None if Path(value).is_absolute() else ON_THE_HUB.fullmatch(value)
    if on_the_hub is None:
        return value, {}
    named = on_the_hub.groupdict()
    return str(named.pop("repository")), {name: text for name, text in named.items() if text}


def load_error(what: str, given: str, error: Exception) -> Unavailable:
    """The failure to load given weights, in one line."""
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return Unavailable(f"no {what} could be loaded from {given}: {reason}")
