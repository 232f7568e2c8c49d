"""The errors that a user can meet at the command line, with their exit codes, and what a misspelt word may mean."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable

MAX_SUGGESTIONS = 6


class TunerError(Exception):
    """An error that one line explains: what happened, where, and what to do about it."""

    exit_code = 2

    def __str__(self) -> str:
        """Return the message in one line, whatever a file put into it."""
        return " ".join(super().__str__().split())


class BadInput(TunerError):
    """A file, an argument or one of their fields is not valid."""


class Unavailable(TunerError):
    """A requirement is not installed or not supported here."""


class StorageFull(TunerError):
    """The study folder could not be written. All acknowledged outcomes are intact."""


class StudyFailed(TunerError):
    """The study cannot continue although its input is valid: the baseline itself fails."""

    exit_code = 1


class Interrupted(TunerError):
    """Ctrl-C ended a command. The message says what is kept, and how to go on."""

    exit_code = 130  # as shells have it


# ---- words that are almost right ------------------------------------------------------------------------------------


def plain_word(word: str) -> str:
    """Return a word without case, spaces and punctuation."""
    return re.sub(r"[\W_]+", "", word.lower())


def similar_words(word: str, known: Iterable[str]) -> list[str]:
    """Return the known words that may be meant: equal but for punctuation, or with this part, or similarly spelt."""
    plain, words = plain_word(word), list(known)
    if not plain:
        return []
    tests: tuple[Callable[[str], bool], ...] = (
        lambda other: plain_word(other) == plain,
        lambda other: plain_word(other.rpartition(".")[2]) == plain,
        lambda other: len(plain) > 2 and plain_word(other).startswith(plain),
    )
    for test in tests:
        found = [other for other in words if test(other)]
        if found:
            return found[:MAX_SUGGESTIONS]
    lower = {other.lower(): other for other in words}
    return [lower[other] for other in difflib.get_close_matches(word.lower(), lower, n=1)]


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """Ask whether the known words that are most similar are meant; return `otherwise` if none is similar enough."""
    similar = similar_words(word, known)
    if not similar:
        return otherwise
    return f"did you mean {similar[0]}?" if len(similar) == 1 else f"did you mean one of {', '.join(similar)}?"
