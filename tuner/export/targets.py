"""The table of all targets of an export."""

from __future__ import annotations

from collections.abc import Mapping

from tuner.export.base import Target
from tuner.export.python import Python

TARGETS: Mapping[str, type[Target]] = {target.name: target for target in (Python,)}
