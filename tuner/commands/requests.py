"""What a study, or a measurement without one, is asked to do: from the options to a request."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tuner.records.machine import Environment
    from tuner.records.quality import QualityPolicy
    from tuner.search.request import Request


def resolve(
    options: argparse.Namespace, settings: Sequence[str], scorer: str | None = None, price: float | None = None,
    quality: Callable[[str], QualityPolicy] | None = None, detect: Callable[[], Environment] | None = None,
) -> Request:  # fmt: skip
    """Resolve the model, the device and the search space with its settings. Raises BadInput or Unavailable.

    `quality` makes the quality policy for a scorer; without it the default one is taken. `detect` describes the
    machine, by default this one with the first visible GPU.
    """
    from tuner.hardware import environment
    from tuner.model import pipeline
    from tuner.records.quality import QualityPolicy
    from tuner.result.prices import price_for
    from tuner.search.request import Request
    from tuner.space import reader
    from tuner.space.settings import check_written

    check_written(settings)
    env = detect() if detect else environment.detect(options.device, None, options.devices)
    model, architecture = pipeline.resolve(options.model, options.revision, scorer, options.variant, options.base)
    space_file = reader.find(options.space, architecture, model.source == pipeline.DEMO)
    policy = quality(model.scorer) if quality else QualityPolicy()
    return Request(
        model=model,
        environment=env,
        space=reader.load(space_file, architecture, env, settings, policy.metric),
        price=price_for(env.device_name, price),
        quality=policy,
    )
