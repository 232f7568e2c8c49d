"""The command `tune`: arguments to a request, an error to one line and an exit code."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tuner.errors import BadInput, TunerError

if TYPE_CHECKING:
    from tuner.store import Request
    from tuner.study import Study

UNITS_S = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code: 0, or that of the error that one line on standard error explains."""
    options = parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except TunerError as error:
        print(one_line(f"tune: {error}"), file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(one_line(f"tune: {error.filename}: {error.strerror}"), file=sys.stderr)
        return BadInput.exit_code
    except KeyboardInterrupt:
        print("tune: interrupted; every recorded trial is kept, the same command goes on from here", file=sys.stderr)
        return 130


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, like all others of this command."""

    def error(self, message: str) -> NoReturn:
        self.exit(BadInput.exit_code, one_line(f"{self.prog}: {message} (see {self.prog} --help)") + "\n")


def one_line(text: str) -> str:
    return " ".join(text.split())


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="tune", description="Finds the cheapest way to run a diffusers pipeline at a given quality.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="search for the best configuration of a pipeline on this machine",
        description="Search for the cheapest configuration of a pipeline on this machine whose pictures are as good as "
        "the untouched pipeline's. The same command resumes a study that was interrupted.",
    )
    run.add_argument("model", nargs="?", default="demo", help="a folder, a hub id, or `demo` (default)")
    run.add_argument("--revision", metavar="COMMIT", help="the commit of a hub id (default: the newest, pinned)")
    run.add_argument("--space", metavar="NAME|FILE", help="the search space (default: by the pipeline's class)")
    run.add_argument("--scorer", metavar="MODEL", help="the CLIP model that scores the pictures: a folder or a hub id")
    run.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    run.add_argument("--budget", type=seconds, default=300.0, metavar="TIME", help="like 90s, 20m, 2h (default: 5m)")
    run.add_argument("--trials", type=positive, metavar="N", help="end after so many recorded trials")
    run.add_argument("--price", type=price, metavar="USD", help="US dollars for an hour of this machine")
    run.add_argument("--out", type=Path, default=Path("traces"), metavar="DIR", help="of all studies (default: traces)")
    run.add_argument("--study", metavar="NAME", help="the study's folder in there (default: named by what is tuned)")
    run.set_defaults(run=run_study)
    return top


def seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not match or not 0 < float(match[1]) < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time like 90s, 20m or 2h")
    return float(match[1]) * UNITS_S[match[2]]


def positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def price(text: str) -> float:
    if not re.fullmatch(r"\d+(\.\d+)?", text) or not 0 < float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a price in US dollars, like 2.49")
    return float(text)


def run_study(options: argparse.Namespace) -> int:
    """`tune run`: resolve, search, report."""
    from tuner import environment, pipeline, space
    from tuner.display import make_display
    from tuner.prices import price_of
    from tuner.store import Request, Store
    from tuner.study import Limits, Study

    here = environment.detect(options.device)
    model, kind = pipeline.resolve(options.model, options.revision, options.scorer)
    file = space.find(options.space, kind, model.source == pipeline.DEMO)
    request = Request(
        model=model,
        environment=here,
        architecture=kind,
        space=space.load(file, kind, here),
        price=price_of(here.device_name, options.price),
    )
    folder = options.out.resolve() / study_name(options.study, model.source, request.fingerprint())
    display = make_display(sys.stdout, request.space.baseline)
    with Store(folder, request) as store:
        study = Study(store, Limits(budget_s=options.budget, max_trials=options.trials), display)
        try:
            display.started(
                f"{options.model} ({model.pipeline_class}) on {here.device_name}", folder, options.budget,
                options.trials, notes(request),
            )  # fmt: skip
            best = study.run()
        finally:
            display.closed()
        report_study(study, best.chosen.trial)
    return 0


def notes(request: Request) -> list[str]:
    """What the user should know before it begins: the price it reckons with, and what cannot be tried here."""
    grouped: dict[str, list[str]] = {}
    for what, reason in request.space.left_out.items():
        grouped.setdefault(reason, []).append(what)
    return [
        f"cost at {request.price.usd_per_hour:.2f} US$ an hour ({request.price.source})",
        *(f"left out: {', '.join(names)}: {reason}" for reason, names in grouped.items()),
    ]


def study_name(name: str | None, model: str, fingerprint: str) -> str:
    """The study's folder name: the user's, or one made of what is tuned; never a path out of the folder of studies."""
    if name is None:
        return f"{re.sub(r'[^A-Za-z0-9]+', '-', Path(model).name).strip('-').lower()}-{fingerprint[:8]}"
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise BadInput(f"--study {name}: a study's name is made of letters, digits, '.', '_' and '-'")
    return name


def report_study(study: Study, chosen: int) -> None:
    """The end of `tune run`: the front as a table and a drawing, why the others are not on it, what to do next."""
    from tuner import report

    console = report.make_console(sys.stdout)
    points = study.ledger.front_points(chosen)
    refused = Counter(refusal.reason for refusal in study.store.refusals())
    console.print(report.table(points))
    console.print(report.drawing(points))
    console.print(report.summary(list(study.ledger.outcomes.values()), refused))
    console.print(study.conclusion(chosen))
