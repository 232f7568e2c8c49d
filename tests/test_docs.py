"""The pages for readers: short enough, with links, commands and paths that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tuner import cli

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "traces/README.md", ROOT / "tuner/demo/MODEL_CARD.md"]
)
MAX_README_LINES = 200

BLOCK = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
INLINE_COMMAND = re.compile(r"`(tune(?:\s[^`]+)?)`")
COMMAND_LINE = re.compile(r"^    (?:.*&& )?(tune(?: .*)?)$", re.MULTILINE)
PATH = re.compile(r"(?<![\w/])(?:tuner|tests)/[\w./-]*\w")


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def read_without_blocks(page: Path) -> str:
    """Return a page without its fenced blocks, which hold output and code."""
    return BLOCK.sub("", page.read_text(encoding="utf-8"))


def find_anchors(page: Path) -> set[str]:
    """Return the anchors that a viewer makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", read_without_blocks(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def quoted_commands(page: Path) -> list[str]:
    text = read_without_blocks(page)
    return [*INLINE_COMMAND.findall(text), *COMMAND_LINE.findall(text)]


def arguments(command: str) -> list[str]:
    """Return a command's arguments. A command that is only named, like `tune trace`, is asked for its help."""
    without_brackets = re.sub(r"\[(\S+)\](?=\s|$)", r"\1", re.sub(r"\s#.*", "", command))
    given = shlex.split(without_brackets)[1:]
    return [*given, "--help"] if len(given) < 2 else given


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("tune trace", ["trace", "--help"]),
        ("tune knobs [MODEL]  # lists them", ["knobs", "MODEL"]),
        ('tune run --set "steps=[28, 20]"', ["run", "--set", "steps=[28, 20]"]),
    ],
)
def test_arguments_are_those_a_reader_would_type(command: str, expected: list[str]) -> None:
    assert arguments(command) == expected


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MAX_README_LINES


def test_commands_are_found() -> None:
    assert {"tune run", "tune knobs MODEL", "tune doctor"} <= set(quoted_commands(ROOT / "README.md"))


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_resolve(page: Path) -> None:
    broken = []
    for link in LINK.findall(read_without_blocks(page)):
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        is_web = re.match(r"\w+:", link) is not None
        if not is_web and (not file.exists() or (anchor and anchor not in find_anchors(file))):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_quoted_commands_parse(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused = []
    for command in quoted_commands(page):
        try:
            cli.make_parser().parse_args(arguments(command))
        except SystemExit as end:
            if end.code:
                refused.append(f"{command}: {capsys.readouterr().err}")
    assert not refused


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_paths_exist(page: Path) -> None:
    named = set(PATH.findall(page.read_text(encoding="utf-8")))
    # A NAME.py is for the reader to write: its folder must exist.
    assert not [path for path in sorted(named) if not (ROOT / path.removesuffix("/NAME.py")).exists()]
