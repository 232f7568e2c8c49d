"""Trials as runs of Weights & Biases, in a group that has the study's name."""

from __future__ import annotations

import os

from tuner.errors import Unavailable
from tuner.tracking.tracker import Tracker, TrialRun

PROJECT = "diffusion-tuner"
"""The project unless WANDB_PROJECT names one."""


class WandB(Tracker):
    """Weights & Biases, where and how its environment variables say."""

    package = "wandb"

    def __init__(self, study: str) -> None:
        import wandb

        self.study = study
        self.shown: set[int] = set()
        self.settings = wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True)
        if wandb.setup().settings.mode not in ("offline", "disabled") and not wandb.login(prompt=False):
            raise Unavailable("there is no API key: run `wandb login`, or set WANDB_MODE=offline")

    def log(self, trial: TrialRun) -> None:
        """Make the run of a trial, or bring it up to date."""
        import wandb

        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), group=self.study, name=f"trial {trial.number}",
            id=f"{self.study}-{trial.number}", resume="allow", reinit="create_new", settings=self.settings,
            config=dict(trial.knobs),
        )  # fmt: skip
        is_known = run.resumed or trial.number in self.shown  # `resumed` is what the server says, if there is one
        shown = [wandb.Image(str(image), caption=image.stem) for image in (() if is_known else trial.images)]
        run.log({**trial.metrics, **({"images": shown} if shown else {})})
        self.shown.add(trial.number)
        run.summary.update(trial.tags)
        run.finish(exit_code=0 if trial.metrics else 1)
