"""`tune advise`: say before any search what each setting can gain on this machine."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.commands.arguments import Subparsers, add_device, add_devices, add_format, add_model, add_space
from tuner.commands.output import print_result

if TYPE_CHECKING:
    from tuner.report.advice_table import AdviceReport
    from tuner.search.request import Request

SUMMARY = "say what each setting can gain on this machine, without a search"
DESCRIPTION = """\
Measure the untouched pipeline once, in about a minute: its latency, a trace of
its steps, and what this device reaches. Then say for every value of the search
space what it can gain at most, what it is expected to gain, and why. No image
is judged and nothing is kept; `tune run` starts with the same advice.
"""
EXAMPLES = """\
examples:
  tune advise                                    the bundled demo pipeline
  tune advise black-forest-labs/FLUX.1-dev
  tune advise ./my-pipeline --space any --format json
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the arguments of `tune advise`."""
    parser = subparsers.add_parser("advise", help=SUMMARY, description=DESCRIPTION, epilog=EXAMPLES)
    add_model(parser)
    add_device(parser)
    add_devices(parser)
    add_space(parser)
    add_format(parser, ("terminal", "json"), "terminal", "format of the advice")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure the untouched pipeline and print the advice."""
    from tuner.commands import checks
    from tuner.commands.requests import resolve
    from tuner.report.advice_table import AdviceTable

    request = resolve(options, options.set)
    checks.check_devices(request)
    checks.check_call(request, options.space or request.space.name, options.set)
    report = make_report(request, options.model)
    print_result(report, AdviceTable(report), options.format == "json")
    return 0


def make_report(request: Request, model: str) -> AdviceReport:
    """Measure in a worker, in a folder that is removed after that, and advise."""
    from tuner.advisor.advise import advise
    from tuner.commands.streams import note
    from tuner.execution.launch import FreshLauncher
    from tuner.execution.local import LocalExecutor
    from tuner.records.outcome import Device
    from tuner.report.advice_table import AdviceReport
    from tuner.study.advice_job import measure_untouched

    if not sys.stderr.isatty():
        note(f"measuring the untouched pipeline on {request.environment.device_name} ...")
    device = Device(name=request.environment.device)
    with tempfile.TemporaryDirectory(prefix="tune-advise-") as name:
        folder = Path(name)
        (folder / "trial").mkdir()
        with LocalExecutor([device], FreshLauncher(folder / "cache")) as executor:
            baseline = measure_untouched(request, executor, folder / "trial", lambda stage: show_stage(f"{stage} ..."))
        show_stage("")
    assert baseline.timing is not None
    roofline = baseline.build.roofline if baseline.build else None
    return AdviceReport(
        model=model,
        pipeline_class=request.model.pipeline_class,
        device_name=request.environment.device_name,
        call_s=baseline.timing.latency_s.value,
        advice=advise(request.space, request.environment, baseline, noise=0.0),
        unavailable_reasons=roofline.unavailable_reasons if roofline else (),
    )


def show_stage(stage: str) -> None:
    """Show on a terminal what the worker does now, in place of what it did before."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{stage}", end="", file=sys.stderr, flush=True)
