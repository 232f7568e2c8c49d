"""Check what a best_config.json says of its study against the study.json beside it: either may have been edited."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tuner.errors import BadInput
from tuner.files import StudyFolder
from tuner.records.text import shown
from tuner.result.config import damaged
from tuner.result.records import BestConfig
from tuner.search.request import Request, read_request


def unlike_request(best: BestConfig, request: Request) -> Iterator[str]:
    """Yield the fields of a result that are not those of its study."""
    study = {
        "environment": request.environment,
        "workload": request.space.workload,
        "quality_metric": request.quality.metric,
        "quality_tolerance": request.space.tolerance,
    }
    for field in best.model.__struct_fields__:
        value, asked = getattr(best.model, field), getattr(request.model, field)
        if value != asked:
            yield f"model.{field}: {shown(value) or 'empty'}, not that of study.json, {shown(asked)}"
    yield from (f"{name}: not that of study.json" for name, value in study.items() if getattr(best, name) != value)


def require_its_study(file: Path, best: BestConfig) -> None:
    """Raise BadInput with the field if a result is not that of the study in its folder, where there is one."""
    paths = StudyFolder(file.parent)
    if not paths.request.exists():
        return
    try:
        request = read_request(paths.request)
    except BadInput:
        return  # a result may be used although its study is damaged
    problem = next(unlike_request(best, request), None)
    if problem is not None:
        raise damaged(file, problem)
