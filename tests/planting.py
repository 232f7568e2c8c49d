"""What tests of the gate plant in a trace, and how they ask what was found."""

from __future__ import annotations

from typing import Any

from tuner.records.gate import Finding, Verdict


def busy(planted: Any, steps: int = 3) -> None:
    """In each step a kernel at 100-400 us and one at 600-900 us."""
    for step in range(steps):
        planted.kernel(step * 1000 + 100, 300)
        planted.kernel(step * 1000 + 600, 300)


def only(verdict: Verdict) -> Finding:
    assert len(verdict.findings) == 1, verdict.findings
    return verdict.findings[0]
