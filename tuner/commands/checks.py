"""Check before a study starts what is known without loading anything: models, metrics, the workload."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.errors import BadInput, Unavailable
from tuner.execution import python
from tuner.files import absent

if TYPE_CHECKING:
    from tuner.records.model import Model
    from tuner.records.quality import QualityPolicy
    from tuner.search.request import Request


TRIAL_IMPORT: tuple[str, ...] = python.command("tuner.quality.metrics.trial_import")
TRIAL_IMPORT_S = 2.0
"""What takes longer to import, as packages that import torch do, is left to the worker."""


def check_own_metric(name: str) -> None:
    """Check that a metric `module:function` can be imported and called: by its source, then in a process of its own.

    Raises BadInput with its file and line.
    """
    from tuner.quality.metrics import entry_point

    problem = entry_point.problem(name) or trial_import(name)
    if problem:
        raise BadInput(f"--quality {name}: {problem}")


def trial_import(name: str) -> str | None:
    """Return why an entry point cannot be imported or called, or None if it can, or takes long."""
    child = subprocess.Popen(
        [*TRIAL_IMPORT, name], env=python.environment() | {"PYTHONDONTWRITEBYTECODE": "1"}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        answer, _ = child.communicate(timeout=TRIAL_IMPORT_S)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    ended = f"importing it ends the process with exit code {child.returncode}"
    return answer.decode(errors="replace") or (ended if child.returncode else None)


def check_devices(request: Request) -> None:
    """Refuse several devices for an image where no candidate would use them."""
    devices, kinds = request.environment.devices, request.space.knobs.get("parallel.kind", ())
    if devices > 1 and all(kind == "none" for kind in kinds):
        raise BadInput(
            f"--devices {devices}: the search space has no parallel.kind, so an image would use one device; add "
            "--set 'parallel.kind=[none, ulysses]'"
        )


def check_models(request: Request) -> None:
    """Check the folders of the pipeline and of the CLIP model that scores. Raises BadInput or Unavailable."""
    check_pipeline(request.model)
    check_scorer(request.model, request.quality)


def check_pipeline(model: Model) -> None:
    """Check the pipeline's folder, if it is on this machine. Raises BadInput."""
    from tuner.model import folder_check, hub, pipeline

    folder = pipeline.settings_folder(model)
    if folder is not None:
        is_whole = model.base is None and (Path(model.source).is_dir() or not hub.incomplete_reason(folder))
        folder_check.check_folder(folder, model.variant, has_weights=is_whole)


def check_scorer(model: Model, quality: QualityPolicy) -> None:
    """Check the CLIP model that scores, and what other metrics read. Raises BadInput or Unavailable."""
    from tuner.model import pipeline
    from tuner.quality.metrics import get_metric

    if "--scorer" in get_metric(quality.metric).needs and model.scorer != pipeline.DEMO:
        check_clip(model.scorer, is_demo=model.source == pipeline.DEMO)
    for name, path in quality.metric_paths.items():
        check_metric_path(name, Path(path), model.scorer, quality)


def check_clip(scorer: str, *, is_demo: bool = False) -> Path | None:
    """Check the CLIP model that scores: a folder, or a hub id, cached or on the hub. Raises BadInput or Unavailable.

    Returns its folder, or None if it has yet to be fetched. The bundled scorer is a remedy for the demo alone.
    """
    from tuner.model import folder_check, hub

    more = "; the demo pipeline has a scorer of its own, --scorer demo" if is_demo else ""
    kept = Path(scorer) if Path(scorer).is_dir() else hub.require(scorer, "--scorer FOLDER", more)
    if kept is not None:
        folder_check.check_clip(kept, "--scorer")
    return kept


def scorer_text(model: Model, quality: QualityPolicy) -> str | None:
    """Return which model scores the images and whether it is here, or None if the metric needs none.

    Raises BadInput if it is here and damaged.
    """
    from tuner.model import pipeline
    from tuner.quality.metrics import get_metric

    if "--scorer" not in get_metric(quality.metric).needs:
        return None
    if model.scorer == pipeline.DEMO:
        return "demo, which comes with the package"
    try:
        kept = check_clip(model.scorer, is_demo=model.source == pipeline.DEMO)
    except Unavailable as error:
        return f"{model.scorer}, which is not here yet and cannot be fetched now, so that a run is refused: {error}"
    if kept is None:
        return f"{model.scorer}, which is not here yet: a run fetches it from the hub"
    return f"{model.scorer}, which is here"


def check_metric_path(name: str, path: Path, scorer: str, quality: QualityPolicy) -> None:
    """Check the file or folder that --metric gives for a metric. Raises BadInput with the option."""
    from tuner.model import folder_check, safetensors_file
    from tuner.quality.metrics import METRICS, MetricContext

    if name in ("preference", "cmmd") and not path.is_dir():
        raise BadInput(f"--metric {name}={path}: {absent(path, 'folder')}")
    if name == "preference":
        folder_check.check_clip(path, "--metric preference=FOLDER:")
    elif name in ("fid", "kid"):
        safetensors_file.read_header(path)
    elif name == "cmmd":
        reason = METRICS[name].unavailable_reason(MetricContext("cpu", scorer, quality.metric_paths))
        if reason:
            raise BadInput(reason)


def check_call(request: Request, space: str, settings: Sequence[str]) -> None:
    """Check the workload against what the pipeline's call accepts.

    `space` is the file, or the name, that sets what no setting does. Raises BadInput with either and the field.
    """
    from tuner.model import call_limits, pipeline
    from tuner.space.settings import origins

    folder = pipeline.settings_folder(request.model)
    if folder is None:
        return
    set_by, workload = origins(settings), request.space.workload
    call_limits.check_call(
        request.model.pipeline_class, folder, {name: getattr(workload, name) for name in call_limits.FIELDS},
        {name: set_by.get(f"workload.{name}", space) for name in call_limits.FIELDS},
    )  # fmt: skip
