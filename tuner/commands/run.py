"""`tune run`: search for the cheapest configuration of a pipeline, and report it."""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.commands.arguments import (
    Subparsers,
    add_device,
    add_devices,
    add_family,
    add_gpus,
    add_log,
    add_model,
    add_ray,
    add_space,
    add_strategy,
    folder,
    positive,
    price,
    seconds,
)  # fmt: skip
from tuner.commands.conduct import Search, conduct, with_demo_budget, with_last_budget
from tuner.commands.output import print_result
from tuner.commands.progress import add_progress
from tuner.errors import BadInput, Unavailable, did_you_mean
from tuner.files import StudyFolder, absent, kind_at, resolved

if TYPE_CHECKING:
    from tuner.commands.machines import Machines
    from tuner.records.machine import Environment
    from tuner.records.outcome import Limits
    from tuner.records.quality import QualityPolicy
    from tuner.search.request import Request

SUMMARY = "search for the cheapest configuration of a pipeline on this machine"
DESCRIPTION = """\
Search for the cheapest configuration of a pipeline on this machine whose
images are as good as the untouched pipeline's. Interrupt it at any time; the
same command resumes the study.
"""
EXAMPLES = """\
examples:
  tune run                          tune the bundled demo pipeline
  tune run black-forest-labs/FLUX.1-dev --price 2.49
  tune run ./my-pipeline --set workload.height=768 --set workload.width=768
  tune run ./my-pipeline --set compile.mode=default --latency-target 2s
  tune run ./my-pipeline --dry-run  say what would be tried

The budget is wall-clock time, summed over all runs of the study. It includes
loading, compiling, measuring and confirming the result. The study says after
the first calls what a call takes and how many builds the budget has room for.
The baseline is always measured, even if that takes longer. Comparing the
finalists by all quality metrics comes after the budget. A finished study
continues with a longer --budget.

prompts   --set workload.prompts=FILE: a .txt file with one prompt a line, or a
          .json file, {"prompts": ["a cat", ...], "seeds": [0, ...]}; seeds may
          be left out. --set workload.negative_prompt=TEXT is for all of them.
metrics   --quality module:function calls your function(images, prompts) with
          lists of PIL images and texts; it returns a number for each image,
          higher is better. The module is found from the current folder. Say
          what loss is tolerated: --set quality.tolerance=POINTS.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the arguments of `tune run`."""
    parser = subparsers.add_parser("run", help=SUMMARY, description=DESCRIPTION, epilog=EXAMPLES)
    add_model(parser)
    add_device(parser)
    add_gpus(parser)
    add_devices(parser)
    add_ray(parser)
    add_family(parser)
    _add_search(parser)
    _add_quality(parser)
    _add_limits(parser)
    _add_study(parser)
    parser.set_defaults(run=run)


def _add_search(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("search")
    add_space(group)
    add_strategy(group)
    group.add_argument(
        "--warm-start", metavar="STUDY",
        help="study of the same pipeline class whose trials give the agent's model its starting point; auto: the best "
        "one in the folder of studies; none: start without (default: auto; of a study that was begun, its own)",
    )  # fmt: skip
    group.add_argument(
        "--price",
        type=price,
        metavar="USD",
        help="price of a GPU hour, on a CPU of a machine hour (default: list price)",
    )
    group.add_argument(
        "--latency-target", type=seconds, metavar="TIME",
        help="maximum latency of a call, such as 2s; a configuration is not chosen if more than half of its calls "
        "are slower, and slower calls do not count when its cost is computed (default: none)",
    )  # fmt: skip


def _add_quality(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("quality")
    group.add_argument(
        "--quality", metavar="NAME", default="clip_score",
        help="metric that candidates must keep up to be chosen: a built-in one (docs/quality.md lists them), or your "
        "own as module:function (default: clip_score, judged by the model of --scorer)",
    )  # fmt: skip
    group.add_argument(
        "--scorer", metavar="MODEL",
        help="CLIP model that scores the images, a folder or hub id (default: openai/clip-vit-base-patch16; for the "
        "demo, the bundled scorer). demo is the scorer of the demo pipeline that comes with the package; it needs no "
        "network, and its scores mean nothing for other images",
    )  # fmt: skip
    group.add_argument(
        "--metric", action="append", default=[], metavar="NAME=PATH",
        help="file or folder that a metric needs: preference=FOLDER (a CLIP model), cmmd=FOLDER (real images), "
        "fid=FILE; repeatable",
    )  # fmt: skip


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits")
    group.add_argument(
        "--budget", type=seconds, metavar="TIME",
        help="time for the search, such as 90s, 20m or 1h30m (default: what suits the size, as the first calls "
        "show it: 330s for the demo, 20m for FLUX.1-dev on an H200; of a study that was begun, that of its last run)",
    )  # fmt: skip
    group.add_argument("--trials", type=positive, metavar="N", help="stop after N recorded trials (default: no limit)")


def _add_study(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("study")
    group.add_argument(
        "--out", type=folder, default=Path("traces"), metavar="DIR", help="folder for all studies (default: traces)"
    )
    group.add_argument(
        "--study", metavar="NAME", help="name of the study's folder (default: made from the model and the settings)"
    )
    group.add_argument(
        "--dry-run", action="store_true",
        help="say what would be tried, what is left out and why, and how long it takes; run and write nothing",
    )  # fmt: skip
    add_log(group)
    add_progress(group, "print the report, or with --dry-run the plan, as JSON; progress goes to standard error")


# ---- the study ------------------------------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> int:
    """Run or resume a study and report its result."""
    folder, request, machines = prepare(options)
    with contextlib.closing(machines):
        if options.dry_run:
            return show_plan(folder, request, options)
        return run_study(folder, request, limits_of(options), options, options.model, machines)


def prepare(options: argparse.Namespace) -> tuple[Path, Request, Machines]:
    """Return folder, request and machines of the study that options ask for. Raises BadInput or Unavailable."""
    from tuner.commands.devices import choose_gpus, connect_cluster, first_uuid
    from tuner.commands.machines import Host, InCluster
    from tuner.hardware import environment
    from tuner.study.warm_start import require_study

    if kind_at(options.out) not in (None, "a folder"):
        raise BadInput(f"--out {options.out}: {absent(options.out, 'folder')}")
    require_study(options.warm_start, resolved(options.out))
    if options.family is not None and options.ray is None:
        raise BadInput(f"--family {options.family}: it chooses among the devices of a cluster: give --ray as well")
    if options.ray is not None:
        cluster = connect_cluster(options.ray, options.gpus, options.device, options.devices, options.family)
        try:
            return *checked_request(options, lambda: cluster.environment), InCluster(cluster, options.gpus)
        except BaseException:
            cluster.close()
            raise
    choice = choose_gpus(options.gpus, options.device)
    return *checked_request(
        options, lambda: environment.detect(options.device, first_uuid(choice), options.devices)
    ), Host(choice)


def checked_request(options: argparse.Namespace, detect: Callable[[], Environment]) -> tuple[Path, Request]:
    """Return folder and request of the study that options ask for. Raises BadInput or Unavailable."""
    from tuner.commands import checks

    request = make_request(options, detect)
    folder = resolved(options.out) / study_name(options.study, request.model.source, request.fingerprint())
    checks.check_devices(request)
    checks.check_call(request, options.space or request.space.name, space_settings(options))
    checks.check_pipeline(request.model)
    if not options.dry_run:  # which needs no scorer, and says whether it is here
        checks.check_scorer(request.model, request.quality)
    return folder, request


def show_plan(folder: Path, request: Request, options: argparse.Namespace) -> int:
    """Print what a study would do. Raises BadInput if the folder holds another study, as the run would."""
    from tuner.commands import checks
    from tuner.report.begun import read_begun
    from tuner.report.dry_run import DryRun, DryRunText, PlannedRecipe, combinations, refused_recipes
    from tuner.search.request import read_same_request
    from tuner.space.candidates import recipe_title

    paths = StudyFolder(folder)
    recorded = read_same_request(paths, request)
    space, limits = request.space, with_demo_budget(with_last_budget(folder, limits_of(options)), request)
    refused = refused_recipes(space)
    begun = read_begun(paths, limits) if recorded is not None else None
    plan = DryRun(
        model=options.model,
        pipeline_class=request.model.pipeline_class,
        device_name=request.environment.device_name,
        folder=str(folder),
        state=begun.state if begun else "new",
        recorded_trials=begun.trials if begun else 0,
        spent_s=begun.spent_s if begun else 0.0,
        still_to_do=begun.still_to_do if begun else "everything below",
        budget_s=limits.budget_s,
        max_trials=limits.max_trials,
        prompts=len(space.workload.prompts),
        scorer=checks.scorer_text(request.model, request.quality),
        baseline=space.candidate({}),
        knobs=space.knobs,
        combinations=combinations(space),
        recipes=tuple(
            PlannedRecipe(name=recipe.name, values=recipe.values)
            for recipe in space.recipes
            if recipe.name not in refused
        ),
        left_out=space.left_out | {recipe_title(name): reason for name, reason in refused.items()},
    )
    print_result(plan, DryRunText(plan), options.json)
    return 0


def limits_of(options: argparse.Namespace) -> Limits:
    """Return the limits that options set."""
    from tuner.records.outcome import Limits

    return Limits(budget_s=options.budget, max_trials=options.trials)


def run_study(
    folder: Path, request: Request, limits: Limits, options: argparse.Namespace, model_name: str, machines: Machines
) -> int:
    """Run a study in a folder until it ends within its limits, and report its result as options say."""
    from tuner.commands.progress import make_progress

    display = make_progress(options.amount, options.json, request.space.baseline)
    conduct(folder, request, limits, model_name, display, machines, Search.of(options))
    report_study(folder, as_json=options.json)
    return 0


def make_request(options: argparse.Namespace, detect: Callable[[], Environment] | None = None) -> Request:
    """Resolve the model and the search space, and check the options. `detect` describes the machine that it is for.

    Raises BadInput or Unavailable.
    """
    from tuner.commands.requests import resolve

    return resolve(
        options, space_settings(options), options.scorer, options.price,
        lambda scorer: quality_policy(options.quality, options.metric, scorer), detect,
    )  # fmt: skip


def space_settings(options: argparse.Namespace) -> list[str]:
    """Return the settings of --set, and of the options that are short for one."""
    if options.latency_target is None:
        return list(options.set)
    return [*options.set, f"workload.latency_target_s={options.latency_target}"]


def quality_policy(name: str, metric_paths: Sequence[str], scorer: str) -> QualityPolicy:
    """Make the quality policy of --quality and --metric.

    Raises BadInput or Unavailable if the metric is unknown or something that it needs is missing.
    """
    from tuner.commands.checks import check_own_metric
    from tuner.quality.metrics import CustomMetric, MetricContext, get_objective
    from tuner.records.quality import QualityPolicy

    paths = dict(map(_metric_path, metric_paths))
    if isinstance(get_objective(name), CustomMetric):
        check_own_metric(name)
    reason = get_objective(name).unavailable_reason(MetricContext("cpu", scorer, paths))
    if reason:
        raise Unavailable(f"--quality {name}: {reason}; clip_score, ssim and ms_ssim need nothing else")
    return QualityPolicy(metric=name, metric_paths=paths)


def _metric_path(text: str) -> tuple[str, str]:
    """Parse NAME=PATH of --metric."""
    from tuner.quality.metrics import METRICS

    name, equals, path = text.partition("=")
    if not equals or name not in METRICS:
        hint = did_you_mean(name, METRICS if equals else (), f"the metrics are {', '.join(METRICS)}")
        raise BadInput(f"--metric {text}: use NAME=PATH, the name of a metric and what it needs; {hint}")
    if not Path(path).exists():
        raise BadInput(f"--metric {text}: {absent(path, 'file or folder')}")
    return name, str(resolved(path))


def study_name(name: str | None, model: str, fingerprint: str) -> str:
    """Return the name of the study's folder: the user's, or one made from the model and the request's fingerprint.

    Raises BadInput for a name that could lead out of the folder of studies.
    """
    if name is None:
        return f"{re.sub(r'[^A-Za-z0-9]+', '-', Path(model).name).strip('-').lower()}-{fingerprint[:8]}"
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise BadInput(f"--study {name}: use letters, digits, '.', '_' and '-', beginning with a letter or digit")
    return name


# ---- the report ------------------------------------------------------------------------------------------------------


def report_study(folder: Path, *, as_json: bool = False) -> None:
    """Print the result of a study, and how to go on with it, and write its page."""
    from tuner.report.conclusion import go_on
    from tuner.report.renderers import RENDERERS
    from tuner.report.study_report import read_report
    from tuner.report.written import page_line

    report = read_report(folder)
    sys.stdout.write(RENDERERS["json" if as_json else "terminal"]().render(report))
    (sys.stderr if as_json else sys.stdout).write(f"{go_on(folder)}\n{page_line(report)}\n")
    sys.stdout.flush()
