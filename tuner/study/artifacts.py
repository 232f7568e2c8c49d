"""The first images of a trial as Optuna's artifacts, which optuna-dashboard shows beside it."""

from __future__ import annotations

from typing import Any

from tuner.files import StudyFolder, thumbnail_path

IMAGES = 4
"""Images kept of each trial: copies, small ones of large images."""


def keep_images(trial: Any, paths: StudyFolder) -> None:
    """Keep the images of a trial that goes on, unless an interrupted run did: Optuna takes none of an ended one."""
    from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact

    images = sorted(paths.images(trial.number).glob("*.png"))[:IMAGES]
    if not images:
        return
    paths.artifacts.mkdir(exist_ok=True)
    store = FileSystemArtifactStore(paths.artifacts)
    known = get_all_artifact_meta(trial)
    kept = {artifact.filename for artifact in known if (paths.artifacts / artifact.artifact_id).is_file()}
    for image in images:
        small = thumbnail_path(image)
        shown = small if small.is_file() else image
        if shown.name not in kept:
            upload_artifact(artifact_store=store, file_path=str(shown), study_or_trial=trial)
