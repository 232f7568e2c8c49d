"""The result of a study in TensorBoard, a run of its own: the conclusion, and cost against quality as an image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from tuner.board import events_file, scatter
from tuner.board.start import STUDY_RUN
from tuner.board.trial_events import BASELINE, FINALISTS, Place
from tuner.records.outcome import Outcome


def write(trials: Path, outcomes: Iterable[Outcome], places: Mapping[int, Place], metric: str, conclusion: str) -> None:
    """Write the run's events file. `conclusion` may have several lines."""
    dots = [dot for outcome in outcomes if (dot := dot_of(outcome, places.get(outcome.number))) is not None]
    values = [events_file.text_value("conclusion", f"```\n{conclusion}\n```")]
    if dots:
        about = "each dot a trial; further left is cheaper, further up better"
        image = scatter.draw(dots, metric)
        values.append(events_file.image_value(f"{FINALISTS}/cost", "cost against quality", about, image, format="PNG"))
    events_file.replace_events(trials / STUDY_RUN, events_file.ROW, 0, values)


def dot_of(outcome: Outcome, place: Place) -> scatter.Dot | None:
    """Return a trial's dot; None if it was not measured and scored."""
    if outcome.quality is None or outcome.cost_usd_per_1000_images is None:
        return None
    if outcome.number == BASELINE and place != "chosen":
        what = "baseline"
    else:
        what = place if place in scatter.STYLES else "other"
    return scatter.Dot(outcome.number, outcome.cost_usd_per_1000_images, outcome.quality.mean, what)
