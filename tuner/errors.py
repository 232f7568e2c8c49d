"""The errors that a user can meet at the command line, with their exit codes."""

from __future__ import annotations


class TunerError(Exception):
    """An error that one line explains: what happened, where, and what to do about it."""

    exit_code = 2


class BadInput(TunerError):
    """A file, an argument or one of their fields is not valid."""


class Unavailable(TunerError):
    """A requirement is not installed or not supported here."""


class StorageFull(TunerError):
    """The study folder could not be written. All acknowledged outcomes are intact."""


class StudyFailed(TunerError):
    """The study cannot continue although its input is valid: the baseline itself fails."""

    exit_code = 1
