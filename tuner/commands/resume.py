"""`tune resume`: go on with a study, with what it recorded instead of the options of `tune run`."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.commands.arguments import Subparsers, add_gpus, add_log, add_ray, add_study, positive, price, seconds
from tuner.commands.progress import add_progress
from tuner.errors import BadInput
from tuner.files import StudyFolder, resolved

if TYPE_CHECKING:
    from tuner.commands.machines import Machines
    from tuner.hardware.gpus import GpuModel
    from tuner.records.machine import Environment
    from tuner.records.outcome import Limits
    from tuner.records.quality import QualityPolicy
    from tuner.search.request import Request
    from tuner.space.candidates import SearchSpace

SUMMARY = "go on with a study that was interrupted"
DESCRIPTION = """\
Go on with a study that was interrupted, or that is to have more time, without
repeating the options of `tune run`: the study's folder has them. It must be on
the machine where it began, with the same versions of the libraries.
"""
EXAMPLES = """\
examples:
  tune resume                                    the newest study
  tune resume flux-1-dev-1a2b3c4d --budget 1h    with a longer budget
  tune resume flux-1-dev-1a2b3c4d --price 2.49   at another price
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the arguments of `tune resume`."""
    parser = subparsers.add_parser("resume", help=SUMMARY, description=DESCRIPTION, epilog=EXAMPLES)
    add_study(parser)
    parser.add_argument(
        "--budget", type=seconds, metavar="TIME",
        help="time for the search, summed over all runs of the study (default: that of its last run)",
    )  # fmt: skip
    parser.add_argument(
        "--trials", type=positive, metavar="N", help="stop after N recorded trials (default: as in its last run)"
    )
    parser.add_argument(
        "--price", type=price, metavar="USD",
        help="price of a GPU hour, on a CPU of a machine hour: all costs of the study are computed again "
        "(default: that of its last run)",
    )  # fmt: skip
    add_log(parser)
    add_gpus(parser, "those of its last run")
    add_ray(parser)
    add_progress(parser, "print the report as JSON; progress goes to standard error")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run a study on from what it recorded."""
    from tuner.commands import checks
    from tuner.commands.devices import choose_gpus, connect_cluster, first_uuid
    from tuner.commands.machines import Host, InCluster
    from tuner.commands.run import run_study
    from tuner.records.study_lock import require_free
    from tuner.report.studies import find_study
    from tuner.search.request import read_request

    folder = resolved(find_study(options.study, options.out))
    require_free(StudyFolder(folder).lock)
    request = read_request(folder / "study.json")
    check_code(folder / "study.json", request.quality)
    check_space(folder / "study.json", request.space)
    machines: Machines
    if options.ray is not None:
        there, last = request.environment, recorded_gpus(folder)
        gpus = options.gpus or (last if last and "," not in last else None)  # indices are those of one host
        machines = InCluster(connect_cluster(options.ray, gpus, there.device, there.devices, there), gpus)
    else:
        choice = choose_gpus(
            options.gpus or recorded_gpus(folder), request.environment.device, kind_of(request.environment)
        )
        machines = Host(choice)
        check_machine(folder / "study.json", request.environment, first_uuid(choice))
    with contextlib.closing(machines):
        check_model(folder / "study.json", request)
        checks.check_models(request)
        request = priced(request, options.price)
        return run_study(folder, request, limits_of(folder, options), options, request.model.source, machines)


def recorded_gpus(folder: Path) -> str | None:
    """Return --gpus of the study's last run, None if it had none. Raises BadInput if it is damaged."""
    from tuner.commands.arguments import gpus
    from tuner.report.studies import read_attribute

    database = StudyFolder(folder).database
    text = read_attribute(database, "gpus")
    try:
        return gpus(text) if text is not None else None
    except argparse.ArgumentTypeError as error:
        raise BadInput(f"{database}: gpus: {error}") from None


def kind_of(environment: Environment) -> GpuModel:
    """Return the kind of GPU that a study began on."""
    from tuner.hardware.gpus import GpuModel

    return GpuModel(environment.device_name, environment.device_memory_bytes or 0)


def priced(request: Request, usd_per_hour: float | None) -> Request:
    """Return the request at the price that was given, if any."""
    import msgspec

    from tuner.result.prices import price_for

    if usd_per_hour is None:
        return request
    return msgspec.structs.replace(request, price=price_for(request.environment.device_name, usd_per_hour))


def check_code(file: Path, quality: QualityPolicy) -> None:
    """Raise BadInput if the study's metric is code, or reads weights: a file must not choose what is executed."""
    from tuner.quality.metrics import METRICS

    chosen = [] if quality.metric in METRICS else [f"--quality {quality.metric}"]
    chosen += [f"--metric {name}={path}" for name, path in quality.metric_paths.items()]
    if chosen:
        raise BadInput(f"{file}: quality: your own code or files; name them again: tune run ... {' '.join(chosen)}")


def check_space(file: Path, space: SearchSpace) -> None:
    """Raise BadInput if the study's search space has a knob or a value that the catalogue does not have."""
    from tuner.knobs import KNOBS
    from tuner.records.text import shown

    missing = [name for name in KNOBS if name not in space.baseline]
    if missing:
        raise BadInput(f"{file}: space.baseline.{missing[0]}: missing; begin another study with `tune run`")
    baseline = {name: (value,) for name, value in space.baseline.items()}
    for where, choices in (("baseline", baseline), ("knobs", space.knobs)):
        for name, values in choices.items():
            if name not in KNOBS or not values:
                raise BadInput(f"{file}: space.{where}.{name}: {'no value' if name in KNOBS else 'unknown knob'}")
            for value in values:
                reason = KNOBS[name].invalid_reason(value)
                if reason:
                    raise BadInput(f"{file}: space.{where}.{name}: {shown(value)} {reason}")


def limits_of(folder: Path, options: argparse.Namespace) -> Limits:
    """Return the limits of the study's last run, with those that the options replace."""
    from tuner.records.outcome import Limits
    from tuner.report.studies import read_limits

    database = folder / "study.db"
    last = read_limits(database, "limits") or read_limits(database, "finished")
    last = last or Limits(budget_s=None, max_trials=None)
    return Limits(budget_s=options.budget or last.budget_s, max_trials=options.trials or last.max_trials)


def check_machine(file: Path, recorded: Environment, gpu: str | None = None) -> None:
    """Raise BadInput, naming what differs, unless this machine is the one where the study began."""
    from tuner.hardware import environment

    present = environment.detect(recorded.device, gpu, recorded.devices)
    now, then = (environment.flat(each) for each in (present, recorded))
    for name in then | now:
        if now.get(name) != then.get(name):
            raise BadInput(
                f"{file}: environment.{name}: it was {then.get(name)} and is {now.get(name)} now, so that times cannot "
                "be compared; go on where the study began, or begin another with `tune run`"
            )


def check_model(file: Path, request: Request) -> None:
    """Raise BadInput if the study's model is not there any more, or is another one."""
    from tuner.model import pipeline

    model = request.model
    found, architecture = pipeline.resolve(model.source, model.revision, model.scorer, model.variant, model.base)
    if found != model or architecture != request.space.architecture:
        raise BadInput(f"{file}: model: {model.source} is another model now; begin another study with `tune run`")
