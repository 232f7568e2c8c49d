"""Folders in a study that no study made: not read, never removed, and no reason to stop."""

from __future__ import annotations

from pathlib import Path

from tuner.files import numbered

FOREIGN = (
    "0007 copy", "7", "07", "007", "00007", "000007", "9" * 7, "9" * 100, "9" * 250, "-001", "+001", "1e3 ", "0x10",
    "٠٠٠٧", "²²²²", "0007.bak", "0007~", ".0007", "0007\n", "notes", "0 07", "1_00",
)  # fmt: skip
"""The names are not those of trials, or of more trials than a study can have."""


def test_only_names_that_a_study_gives_count(tmp_path: Path) -> None:
    own = {0: "0000", 7: "0007", 9999: "9999", 10000: "10000", 999999: "999999"}
    for name in (*FOREIGN, *own.values()):
        (tmp_path / name).mkdir()
    assert numbered(tmp_path) == {number: tmp_path / name for number, name in own.items()}
    assert list(numbered(tmp_path)) == sorted(own)
    assert numbered(tmp_path / "none") == {}
