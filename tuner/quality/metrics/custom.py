"""A metric of the user's own."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable
from typing import Any

from tuner.errors import BadInput
from tuner.quality.images import Images
from tuner.quality.metrics.base import Metric, Setting

ENTRY_POINT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class CustomMetric(Metric):
    """`module:function`, called as function(images, prompts) with PIL images and a prompt each; gives one number for
    each, of which more is better. It runs in the worker, with the folder that `tune` was started in on the path."""

    unit = "of your metric"
    needs = "your module"
    cost = "as your function has it"

    def __init__(self, entry_point: str) -> None:
        self.name = self.title = entry_point  # type: ignore[misc]

    def scores(self, images: Images, baseline: Images, setting: Setting) -> tuple[float, ...]:
        values = [float(value) for value in self._function()(list(images.images), images.prompt_of_each)]
        if len(values) != len(images.images) or not all(map(math.isfinite, values)):
            count = len(images.images)
            raise BadInput(f"--quality {self.name}: it must give one finite number for each of the {count} images")
        return images.by_prompt(values)

    def _function(self) -> Callable[..., Any]:
        module, _, name = self.name.partition(":")
        try:
            function = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise BadInput(f"--quality {self.name}: cannot be imported: {error}") from None
        if not callable(function):
            raise BadInput(f"--quality {self.name}: {name} is not a function")
        return function  # type: ignore[no-any-return]
