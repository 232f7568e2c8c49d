"""What the user should know before a study starts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tuner.commands.machines import Machines
    from tuner.search.request import Request

MAX_REASONS = 3
"""More reasons why values are left out are not listed one by one."""


def start_notes(request: Request, machines: Machines) -> Iterator[str]:
    """Yield what the user should know before the study starts: the price, other GPU users, what is left out."""
    from tuner.numbers import format_latency

    yield f"cost at US$ {request.price.usd_per_hour:.2f} per hour ({request.price.source})"
    target_s = request.space.workload.latency_target_s
    if target_s is not None:
        limit = format_latency(target_s)
        yield f"latency target {limit}: slower calls do not count, slower configurations are not chosen"
    yield from negative_prompt_notes(request)
    yield from machines.notes(request.environment)
    yield from left_out_notes(request)


def negative_prompt_notes(request: Request) -> Iterator[str]:
    """Yield that a negative prompt has no effect, where the pipeline uses it only with another argument."""
    workload, arguments = request.space.workload, request.space.architecture.arguments
    scale = workload.arguments.get("true_cfg_scale", arguments.get("true_cfg_scale"))
    if workload.negative_prompt is not None and isinstance(scale, int | float) and scale <= 1:
        yield (
            f"workload.negative_prompt has no effect: {request.model.pipeline_class} uses it only with "
            "--set workload.arguments.true_cfg_scale=N above 1"
        )


def left_out_notes(request: Request) -> Iterator[str]:
    """Yield which values and recipes of the search space cannot be used here, with the reasons if they are few."""
    left_out = request.space.left_out
    names_by_reason: defaultdict[str, list[str]] = defaultdict(list)
    for name, reason in left_out.items():
        names_by_reason[reason].append(name)
    if len(names_by_reason) <= MAX_REASONS:
        yield from (f"left out: {', '.join(names)}: {reason}" for reason, names in names_by_reason.items())
    else:
        yield (
            f"left out: {len(left_out)} values or recipes that cannot be used here (`tune run --dry-run` with the "
            f"same options gives the reasons): {', '.join(left_out)}"
        )
