"""`tune verify`: say whether a configuration is still clean, as fast and as good as recorded."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.commands.arguments import Subparsers, add_json, add_result, add_studies, add_trial
from tuner.commands.output import print_result
from tuner.commands.streams import note
from tuner.errors import BadInput, TunerError, Unavailable

if TYPE_CHECKING:
    from tuner.execution.executor import Executor
    from tuner.result.records import BestConfig, MeasuredPoint
    from tuner.verify.recorded import Recorded
    from tuner.verify.records import Verification

SUMMARY = "say whether a configuration is still clean, as fast and as good as recorded"
DESCRIPTION = """\
Measure the chosen configuration of a best_config.json again, or another point
of its front, after an upgrade of the driver, torch, diffusers or the model:
does the gate still pass it, is its latency the recorded one, are its images as
good against the study's reference? The reference is in the study's folder,
which is where the file lies.
"""
EXAMPLES = """\
examples:
  tune verify                          the newest study
  tune verify demo-9ec7c40c
  tune verify demo-9ec7c40c --trial 12
  tune verify best_config.json --quick
  tune verify --strict                 in CI: every answer must be given

The exit code is 0 if no answer is no, 1 if one is, and 2 for bad input. An
answer that nothing here could give, as without the study's folder, is named in
the last line; it is a failure with --strict only. Full: three pairs of fresh
processes beside the untouched pipeline; if an answer is no, the other points of
the front are measured for one that passes.
"""
ALLOWANCE_S = {True: 5.0, False: 20.0}
"""Seconds that timing may take in each process, of a quick verification and of a full one."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the arguments of `tune verify`."""
    parser = subparsers.add_parser("verify", help=SUMMARY, description=DESCRIPTION, epilog=EXAMPLES)
    add_result(parser)
    add_studies(parser)
    add_trial(parser)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one pair of processes, no judging of images that are still the recorded ones, and a repair is named "
        "without being measured",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="exit with 1 also if an answer could not be given, as where the model that scores images is not here",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Verify a configuration and print the answers."""
    from tuner.commands.verify.table import VerifyTable
    from tuner.export.base import tuned
    from tuner.report.studies import find_result
    from tuner.result.config import check_points, read_config
    from tuner.verify.recorded import read_recorded

    file = find_result(options.result, options.out)
    check_quiet(file)
    best = read_config(file, may_contradict=True)
    point = tuned(file, best, options.trial, may_contradict=True, to="verify").chosen
    check_points(best, file)
    check_device(file, best)
    check_model(file, best)
    recorded = with_scorer(read_recorded(file, best), best)
    with (
        tempfile.TemporaryDirectory(prefix="tune-verify-") as folder,
        make_executor(best, recorded, Path(folder)) as executor,
    ):
        verification = verify(file, best, point, recorded, executor, Path(folder), quick=options.quick)
    print_result(verification, VerifyTable(verification, options.strict), options.json)
    is_complete = not (options.strict and verification.unknown)
    return 0 if verification.passed and is_complete else 1


def check_quiet(file: Path) -> None:
    """Raise BadInput if another process runs the study: each would disturb the latencies of the other."""
    from tuner.files import StudyFolder
    from tuner.records.study_lock import holder

    found = holder(StudyFolder(file.parent).lock)
    if found is not None:
        remedy = "wait until it ends, stop it with Ctrl-C there, or name another study"
        raise BadInput(f"{file.parent}: {found}, and each would disturb what the other measures; {remedy}")


def check_device(file: Path, best: BestConfig) -> None:
    """Raise Unavailable, naming the file and the field, if the device that it was measured on is not here."""
    from tuner.hardware.environment import detect

    try:
        detect(best.environment.device)
    except Unavailable as error:
        raise Unavailable(f"{file}: environment.device: {error}") from None


def check_model(file: Path, best: BestConfig) -> None:
    """Raise BadInput, naming the file and the field, unless the model is on this machine or on the hub."""
    from tuner.commands import checks
    from tuner.model import pipeline

    model = best.model
    try:
        pipeline.resolve(model.source, model.revision, None, model.variant, model.base)
        checks.check_pipeline(model)
    except BadInput as error:
        raise BadInput(f"{file}: model.source: {error}") from None


def with_scorer(recorded: Recorded, best: BestConfig) -> Recorded:
    """Return what the study has, without its reference if the model that scores is not here."""
    import msgspec

    from tuner.commands import checks

    if recorded.reference is None:
        return recorded
    try:
        checks.check_scorer(best.model, recorded.quality)
    except TunerError as error:
        return msgspec.structs.replace(recorded, reference=None, unavailable_reason=str(error))
    return recorded


def make_executor(best: BestConfig, recorded: Recorded, folder: Path) -> Executor:
    """Return the executor of this machine. Compiled code of the study is used if it was made where it lies."""
    from tuner.execution.local import LocalExecutor
    from tuner.execution.template import make_launcher
    from tuner.records.outcome import Device
    from tuner.study.compiled_code import is_sealed

    kept = Path(recorded.folder) / "cache" if recorded.folder else folder / "cache"
    cache = kept if is_sealed(kept) else folder / "cache"
    cache.mkdir(exist_ok=True)
    return LocalExecutor([Device(name=best.environment.device)], make_launcher(cache, folder / "template.log"))


def verify(
    file: Path, best: BestConfig, point: MeasuredPoint, recorded: Recorded, executor: Executor, folder: Path,
    *, quick: bool,
) -> Verification:  # fmt: skip
    """Verify a point of a result with an executor."""
    from tuner.hardware.environment import detect
    from tuner.verify.bench import Bench
    from tuner.verify.course import Course

    bench = Bench(
        executor, best, detect(best.environment.device), recorded, folder, ALLOWANCE_S[quick], spot_check=quick
    )
    return Course(str(file), bench, point, note, quick=quick).verify()
