"""A metric that the user wrote."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from tuner.errors import BadInput
from tuner.quality.images import Images
from tuner.quality.metrics import user_module
from tuner.quality.metrics.base import Metric, MetricContext

ENTRY_POINT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class CustomMetric(Metric):
    """A metric `module:function`, called as function(images, prompts) with PIL images and one prompt per image.

    The function returns one number per image. Higher is better. It runs in the worker. Its module is looked for in the
    folder that `tune` was started in first; what the module imports from there must not be named like an installed one.
    """

    unit = "of your metric"
    needs = "your module"
    cost = "depends on your function"

    def __init__(self, entry_point: str) -> None:
        self.name = self.title = entry_point  # type: ignore[misc]

    def scores(self, images: Images, baseline: Images, context: MetricContext) -> tuple[float, ...]:
        count = len(images.pil_images)
        with user_module.current_folder_last():
            values = [float(value) for value in self._function()(list(images.pil_images), images.prompt_per_still)]
        if len(values) != count or not all(map(math.isfinite, values)):
            raise BadInput(f"--quality {self.name}: it must return one finite number for each of the {count} images")
        return images.mean_by_prompt(values)

    def _function(self) -> Callable[..., Any]:
        try:
            function = user_module.load(self.name)
        except (ImportError, AttributeError) as error:
            raise BadInput(f"--quality {self.name}: it cannot be imported: {error}") from None
        if not callable(function):
            raise BadInput(f"--quality {self.name}: it is not a function")
        return function  # type: ignore[no-any-return]
