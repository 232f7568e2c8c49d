"""The command `tune`: arguments to a request, an error to one line and an exit code."""

from __future__ import annotations

import argparse
import difflib
import math
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tuner.commands.board import show_board
from tuner.commands.run import run_study
from tuner.errors import BadInput, TunerError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tuner.records.codec import Record

MIN_USD, MAX_USD = 1e-6, 1e6
"""Prices beyond are none, and what is reckoned from them could be zero or infinite."""

NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
TIME = re.compile(rf"(?:{NUMBER}h)?(?:{NUMBER}m)?(?:{NUMBER}s)?(?:{NUMBER}ms)?|{NUMBER}")
UNITS_S = (3600.0, 60.0, 1.0, 1e-3, 1.0)
"""Hours, minutes, seconds, milliseconds, and a number alone, as TIME's groups have them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code: 0, or that of the error that one line on standard error explains."""
    options = parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except TunerError as error:
        print(one_line(f"tune: {error}"), file=sys.stderr)
        return error.exit_code
    except OSError as error:
        told = error if error.filename is None else f"{error.filename}: {error.strerror}"
        print(one_line(f"tune: {told}"), file=sys.stderr)
        return BadInput.exit_code
    except MemoryError:
        print("tune: out of memory", file=sys.stderr)
        return BadInput.exit_code
    except KeyboardInterrupt:
        print("tune: interrupted; every recorded trial is kept, the same command goes on from here", file=sys.stderr)
        return 130


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, like all others of this command, and name what was probably meant."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Refuses what it does not know: left to the parser above, the names of this one's options would be lost."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            options = nearest(unknown[0].partition("=")[0], self._option_string_actions)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{options}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        wrong = re.search(r"argument COMMAND: invalid choice: '(.*)' \(choose from (.*)\)", message)
        if wrong:
            message += nearest(wrong[1], re.findall(r"[\w-]+", wrong[2]))
        self.exit(BadInput.exit_code, one_line(f"{self.prog}: {message} (see {self.prog} --help)") + "\n")


def nearest(word: str, known: Iterable[str]) -> str:
    """A question whether the most similar known word was meant, if one is similar."""
    similar = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {similar[0]}?" if similar else ""


def one_line(text: str) -> str:
    return " ".join(text.split())


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="tune", description="Finds the cheapest way to run a diffusers pipeline at a given quality.")
    top.add_argument("--version", action=Version, nargs=0, help="print the version and exit")
    # Not `required`, which argparse checks before it finds a misspelt option of this parser.
    commands = top.add_subparsers(metavar="COMMAND")
    top.set_defaults(run=lambda _: top.error(f"COMMAND is missing: {', '.join(commands.choices)}"))
    run = commands.add_parser(
        "run",
        help="search for the best configuration of a pipeline on this machine",
        description="Search for the cheapest configuration of a pipeline on this machine whose images are as good as "
        "the untouched pipeline's. The same command resumes a study that was interrupted.",
    )
    run.add_argument("model", nargs="?", default="demo", help="a folder, a hub id, or `demo` (default)")
    run.add_argument("--revision", metavar="COMMIT", help="the commit of a hub id (default: the newest, pinned)")
    run.add_argument("--space", metavar="NAME|FILE", help="the search space (default: by the pipeline's class)")
    run.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="pin a knob (compile.mode=default), set a field of the workload (workload.height=512), or say how many "
        "points less are still as good (quality.tolerance=0.5); repeatable",
    )  # fmt: skip
    run.add_argument("--scorer", metavar="MODEL", help="the CLIP model that scores the images: a folder or a hub id")
    run.add_argument(
        "--quality", metavar="NAME", default="clip_score",
        help="the metric that the search goes by (default: clip_score), or module:function of your own",
    )  # fmt: skip
    run.add_argument(
        "--metric", action="append", default=[], metavar="NAME=PATH",
        help="give a metric what it needs: preference=FOLDER (a CLIP model), cmmd=FOLDER (real images), fid=FILE; "
        "repeatable",
    )  # fmt: skip
    add_device(run)
    run.add_argument(
        "--budget", type=seconds, default=330.0, metavar="TIME", help="like 90s, 20m, 1h30m (default: 330s)"
    )
    run.add_argument(
        "--latency-target", type=seconds, metavar="TIME",
        help="like 2s: a configuration whose calls take longer is none, and only calls that meet it count in the cost",
    )  # fmt: skip
    run.add_argument("--trials", type=positive, metavar="N", help="end after so many recorded trials")
    run.add_argument("--price", type=price, metavar="USD", help="US dollars for an hour of this machine")
    run.add_argument("--out", type=Path, default=Path("traces"), metavar="DIR", help="of all studies (default: traces)")
    run.add_argument("--study", metavar="NAME", help="the study's folder in there (default: named by what is tuned)")
    run.set_defaults(run=run_study)

    knobs = commands.add_parser(
        "knobs",
        help="list what can be varied in a pipeline on this machine, and why the rest cannot",
        description="List every setting that `tune run` can vary, value by value: whether it can be used for this "
        "pipeline on this machine, why not, and whether it changes the image.",
    )
    knobs.add_argument("model", nargs="?", default="demo", help="a folder, a hub id, or `demo` (default)")
    knobs.add_argument("--revision", metavar="COMMIT", help="the commit of a hub id (default: the newest)")
    add_device(knobs)
    knobs.add_argument("--json", action="store_true", help="for programs: one JSON object")
    knobs.set_defaults(run=list_knobs)

    doctor = commands.add_parser(
        "doctor",
        help="say what this machine has, what works because of it, and what one more package would add",
        description="Say what GPU, compiler and packages this machine has, which settings work because of them, and "
        "what one more `pip install` would add. Changes nothing.",
    )
    add_device(doctor)
    doctor.add_argument("--json", action="store_true", help="for programs: one JSON object")
    doctor.set_defaults(run=examine_machine)

    trace = commands.add_parser(
        "trace",
        help="judge a trace of torch's profiler: graph breaks, device syncs, idle time",
        description="Say what a trace of torch's profiler (of any program, plain or gzipped) shows: graph breaks, "
        "recompiles and device syncs with the GPU idle time that each costs, and where the time goes. "
        "Exit code: 0 clean, 1 rejected or inconclusive, 2 no trace.",
    )
    trace.add_argument("file", type=Path, metavar="FILE", help="like NAME.pt.trace.json.gz")
    trace.add_argument(
        "--max-idle-ms", type=milliseconds, default=0.0, metavar="MS",
        help="tolerate breaks and syncs that together cost no more GPU idle time a step (default: 0, none)",
    )  # fmt: skip
    trace.add_argument("--json", action="store_true", help="for programs: one JSON object")
    trace.set_defaults(run=judge_trace)

    cost = commands.add_parser(
        "cost",
        help="say what the images of a tuned pipeline cost, at any price, and compare GPUs",
        description="Say what the configurations of a study cost: one file gives its front, several of the same model "
        "and workload give the GPUs side by side, the cheapest first. Prices are dated list prices, or yours.",
    )
    cost.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a best_config.json, or a study's folder")
    prices = cost.add_mutually_exclusive_group()
    prices.add_argument("--price", type=price, metavar="USD", help="US dollars for an hour of the machine")
    prices.add_argument("--provider", metavar="NAME", help="list prices of this provider (default: their lower median)")
    cost.add_argument("--json", action="store_true", help="for programs: one JSON object")
    cost.set_defaults(run=show_cost)

    board = commands.add_parser(
        "board",
        help="show a study in the browser: its trials, images and traces, with TensorBoard",
        description="Start TensorBoard on 127.0.0.1 with a study: a table of all trials, their images beside the "
        "baseline's, the gate's verdicts, and the traces. Needs no internet. Ctrl-C ends it.",
    )
    board.add_argument("study", nargs="?", metavar="STUDY", help="a folder or a name (default: the newest study)")
    board.add_argument("--out", type=Path, default=Path("traces"), metavar="DIR", help="where studies are looked for")
    board.add_argument("--port", type=port, metavar="N", help="default: 6006, or the next free one")
    board.set_defaults(run=show_board)
    return top


class Version(argparse.Action):
    """Prints the version of the installed package; looking it up takes time that other commands need not spend."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from tuner.hardware.environment import installed_version

        print(f"tune {installed_version('diffusion-tuner') or '(not installed)'}")
        parser.exit()


def add_device(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--device", choices=("auto", "cuda", "cpu"), default="auto",
        help="cuda is the NVIDIA GPU; auto (default) takes it if there is one, else the CPU",
    )  # fmt: skip


def seconds(text: str) -> float:
    match = TIME.fullmatch(text)
    given_s = sum(float(number) * unit for number, unit in zip(match.groups("0"), UNITS_S, strict=True)) if match else 0
    if not 0 < given_s < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time like 300ms, 90s, 20m or 1h30m")
    return given_s


def positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: a whole number from 1 to 65535")
    return int(text)


def price(text: str) -> float:
    if not re.fullmatch(r"\d+(\.\d+)?", text) or not MIN_USD <= float(text) <= MAX_USD:
        raise argparse.ArgumentTypeError(f"{text!r} is not a price in US dollars, like 2.49")
    return float(text)


def milliseconds(text: str) -> float:
    if not re.fullmatch(r"\d+(\.\d+)?", text) or not float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time in milliseconds, like 0.5")
    return float(text)


def list_knobs(options: argparse.Namespace) -> int:
    """`tune knobs`: what can be varied in this pipeline on this machine."""
    from tuner.commands.knobs import CatalogueTable, catalogue
    from tuner.hardware import environment
    from tuner.model import pipeline

    _, kind = pipeline.resolve(options.model, options.revision, None)
    found = catalogue(options.model, kind, environment.detect(options.device))
    show(found, CatalogueTable(found), options.json)
    return 0


def examine_machine(options: argparse.Namespace) -> int:
    """`tune doctor`: what this machine has, and what that switches on."""
    from tuner.commands.doctor import Report, diagnose

    found = diagnose(options.device)
    show(found, Report(found), options.json)
    return 0


def show_cost(options: argparse.Namespace) -> int:
    """`tune cost`: what the configurations of one study cost, or the chosen ones of several."""
    from tuner.commands.cost import CostTable, reckon

    found = reckon(options.files, options.price, options.provider)
    show(found, CostTable(found), options.json)
    return 0


def judge_trace(options: argparse.Namespace) -> int:
    """`tune trace`: what a trace shows; its verdict is the exit code."""
    from tuner.commands.trace import EXIT_CODES, examine_trace

    found = examine_trace(options.file, options.max_idle_ms)
    show(found.report, found, options.json)
    return EXIT_CODES[found.report.verdict.status]


def show(record: Record, text: RenderableType, as_json: bool) -> None:
    """A record on standard output, for programs or for people."""
    from tuner.records.codec import encode_pretty
    from tuner.report.console import make_console

    if as_json:
        print(encode_pretty(record).decode(), end="")
    else:
        make_console(sys.stdout).print(text)
