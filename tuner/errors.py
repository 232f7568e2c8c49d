"""Every failure that a user can meet at the command line, by name, with its exit code."""

from __future__ import annotations


class TunerError(Exception):
    """A failure that one line explains: what is wrong, where, and what to do about it."""

    exit_code = 2


class BadInput(TunerError):
    """A file, an argument or a field of one is not what it should be."""


class Unavailable(TunerError):
    """Something that the request needs is not installed or not supported here."""


class StorageFull(TunerError):
    """The study folder could not be written; what was acknowledged before is intact."""


class StudyFailed(TunerError):
    """The study cannot go on, although its input was right: the baseline itself fails."""

    exit_code = 1
