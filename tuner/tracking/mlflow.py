"""Trials as runs of an MLflow experiment, which has the study's name."""

from __future__ import annotations

import time

from tuner.tracking.tracker import Tracker, TrialRun

TRIAL = "trial"
"""The tag by which the run of a trial is found again."""


class MLflow(Tracker):
    """MLflow, where MLFLOW_TRACKING_URI says."""

    package = "mlflow"

    def __init__(self, study: str) -> None:
        from mlflow import MlflowClient

        self.client = MlflowClient()
        known = self.client.get_experiment_by_name(study)
        self.experiment = known.experiment_id if known else self.client.create_experiment(study)

    def log(self, trial: TrialRun) -> None:
        """Make the run of a trial, or bring it up to date."""
        from mlflow.entities import Metric, Param, RunTag

        number, now_ms = str(trial.number), int(time.time() * 1e3)
        known = self.client.search_runs([self.experiment], f"tags.{TRIAL} = '{number}'", max_results=1)
        run = known[0] if known else self.client.create_run(self.experiment, run_name=f"trial {number}")
        self.client.log_batch(
            run.info.run_id,
            metrics=[Metric(name, value, now_ms, 0) for name, value in trial.metrics.items()],
            params=[] if known else [Param(name, value) for name, value in trial.knobs.items()],
            tags=[RunTag(name, value) for name, value in {**trial.tags, TRIAL: number}.items()],
        )
        for image in () if known else trial.images:
            self.client.log_artifact(run.info.run_id, str(image), "images")
        self.client.set_terminated(run.info.run_id, "FINISHED" if trial.metrics else "FAILED")
