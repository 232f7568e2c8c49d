"""docs/knobs.md is what its command prints, on every machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from kinds import kind

from tuner.commands import knobs_page
from tuner.knobs import KNOBS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "knobs.md"


def test_the_committed_page_is_what_the_command_prints() -> None:
    command = [sys.executable, "-m", "tuner.commands.knobs_page"]
    printed = subprocess.run(command, check=True, timeout=120, capture_output=True, text=True).stdout
    assert printed == PAGE.read_text(encoding="utf-8"), "run: python -m tuner.commands.knobs_page > docs/knobs.md"


def test_every_knob_has_a_section_with_every_value() -> None:
    sections = PAGE.read_text(encoding="utf-8").split("\n## ")[1:]
    by_name = {section.partition("\n")[0]: section for section in sections}
    assert [*by_name] == [*KNOBS, "Not offered"]
    for name, knob in KNOBS.items():
        for value in knob.choices:
            assert f"`{knobs_page.format_value(value)}`" in by_name[name]


def test_a_conflict_is_listed_for_both_knobs() -> None:
    conflicts = knobs_page.find_conflicts(kind())
    for name, reasons in conflicts.items():
        for reason, settings in reasons.items():
            for (other, its), values in settings.items():
                assert values
                assert set(values) <= {v for values in [conflicts[other][reason]] for (n, v) in values if n == name}
                assert its in {v for (n, v) in conflicts[name][reason] if n == other}
