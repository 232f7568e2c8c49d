"""Group the values of a knob that cannot be used by the reason."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

from tuner.records.codec import Value
from tuner.report.formatting import one_line

VERB = re.compile(r"\w*s ")
"""The start of a reason without its subject, if it goes on with a verb: is, needs, runs."""


def group_by_reason(refused: Mapping[Value, str]) -> dict[str, list[Value]]:
    """Group values by the reason why they cannot be used.

    Reasons that differ only in the value that they begin with are one: "it needs a GPU".
    """
    groups: defaultdict[tuple[bool, str], list[Value]] = defaultdict(list)
    for value, reason in refused.items():
        text, subject = one_line(reason), f"{value} "
        groups[text.startswith(subject), text.removeprefix(subject)].append(value)
    merged: defaultdict[str, list[Value]] = defaultdict(list)
    for (has_subject, text), values in groups.items():
        merged[_with_subject(text, values) if has_subject else text].extend(values)
    return dict(merged)


def _with_subject(text: str, values: list[Value]) -> str:
    """Put a subject before a reason: "it needs ...", "their arithmetic needs ..."."""
    if VERB.match(text):
        return f"it {text}"
    return f"{values[0]} {text}" if len(values) == 1 else f"their {text}"
