"""Write a study's report as a page into its folder."""

from __future__ import annotations

from pathlib import Path

from tuner.errors import BadInput
from tuner.files import atomic_write
from tuner.report.formatting import one_line
from tuner.report.renderers.html import Html
from tuner.report.study_report import StudyReport, read_report

FILE = "report.html"
"""The page in a study's folder."""


def write_text(file: Path, text: str) -> None:
    """Write a report to a file. Raises BadInput in one line if it cannot be written."""
    try:
        atomic_write(file, text.encode())
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror or error}; --output FILE writes the report elsewhere") from None


def write_page(report: StudyReport, file: Path | None = None) -> Path:
    """Write the page, by default as report.html into the study's folder, and return where it is."""
    file = file or Path(report.folder) / FILE
    write_text(file, Html().render(report))
    return file


def page_line(report: StudyReport) -> str:
    """Write the page at the end of a study and return the line that says where it is, or why it could not be written.

    Nothing that is wrong with the page is an error of the study.
    """
    try:
        return f"Report   {write_page(report)}"
    except Exception as error:
        return f"note: {failure_text(error)}"


def page_note(folder: Path) -> str:
    """Write the page of the study in a folder as `page_line` does, and return a note."""
    try:
        return f"the report is {write_page(read_report(folder))}"
    except Exception as error:
        return failure_text(error)


def failure_text(error: Exception) -> str:
    """Return why there is no page, in one line."""
    return f"report.html was not written: {one_line(str(error)) or type(error).__name__}"
