"""A metric that the user wrote."""

from __future__ import annotations

import importlib
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from types import ModuleType
from typing import Any

from tuner.errors import BadInput
from tuner.quality.images import Images
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
        with _current_folder_last():
            values = [float(value) for value in self._function()(list(images.pil_images), images.prompt_per_still)]
        if len(values) != count or not all(map(math.isfinite, values)):
            raise BadInput(f"--quality {self.name}: it must return one finite number for each of the {count} images")
        return images.mean_by_prompt(values)

    def _function(self) -> Callable[..., Any]:
        module, _, name = self.name.partition(":")
        try:
            function = getattr(_import(module), name)
        except (ImportError, AttributeError) as error:
            raise BadInput(f"--quality {self.name}: it cannot be imported: {error}") from None
        if not callable(function):
            raise BadInput(f"--quality {self.name}: {name} is not a function")
        return function  # type: ignore[no-any-return]


def _import(name: str) -> ModuleType:
    """Import a module that the user named, from the current folder if it is there and not imported yet."""
    package = name.partition(".")[0]
    spec = None if package in sys.modules else PathFinder.find_spec(package, [os.getcwd()])  # noqa: PTH109
    if spec is not None and spec.loader is not None:
        sys.modules[package] = module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[package])
        except BaseException:
            del sys.modules[package]
            raise
    return importlib.import_module(name)


@contextmanager
def _current_folder_last() -> Iterator[None]:
    """Find modules in the current folder too, but only those that are found nowhere else."""
    folder = os.getcwd()  # noqa: PTH109
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
