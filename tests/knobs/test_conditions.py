"""Versions of packages compare as PEP 440 says."""

from __future__ import annotations

import msgspec
import pytest
from drawing import GPU

from tuner.knobs.attention import FLASH_3, FLASH_4
from tuner.knobs.conditions import missing_package


def reason(installed: str | None, min_version: str) -> str | None:
    here = msgspec.structs.replace(GPU, libraries={"thing": installed})
    return missing_package(here, "thing", min_version)


@pytest.mark.parametrize(
    ("installed", "min_version", "is_enough"),
    [
        ("3.0", "3.0", True),
        ("3", "3.0", True),
        ("3.0.0", "3", True),
        ("3.0.dev1", "3.0", False),
        ("3.0rc1", "3.0", False),
        ("3.0.0b2", "3.0.0b1", True),
        ("2.8.3.post2", "2.8.3", True),
        ("0.18.0+cu130", "0.18", True),
        ("0.9.0", "0.18", False),
        ("0.18.0", "0.9", True),
    ],
)
def test_an_installed_version_suffices_or_not(installed: str, min_version: str, is_enough: bool) -> None:
    answer = reason(installed, min_version)
    assert (answer is None) is is_enough
    assert is_enough or f"thing {installed} is too old, it needs thing>={min_version}" in str(answer)


def test_a_version_that_cannot_be_compared_is_refused() -> None:
    assert "version from source, which cannot be compared" in str(reason("from source", "3.0"))


def test_a_package_that_is_absent_names_the_command_that_installs_it() -> None:
    assert reason(None, "3.0") == "thing is not installed (pip install 'thing>=3.0')"


@pytest.mark.parametrize(("package", "beta"), [(FLASH_3, "3.0.0b1"), (FLASH_4, "4.0.0b5")])
def test_the_betas_of_flash_attention_suffice(package: tuple[str, str], beta: str) -> None:
    """FlashAttention 3 and 4 have been released as betas only."""
    assert reason(beta, package[1]) is None
