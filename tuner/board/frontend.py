"""TensorBoard's own pages as `tune board` serves them: HParams is the first tab and ticks every column that varies.

TensorBoard ticks five columns, sorts metrics by name, and opens on time series. What cannot be changed in another
version of it is left as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import wraps
from io import BytesIO
from typing import Any, BinaryIO
from zipfile import ZIP_STORED, ZipFile

METRICS = ("quality", "latency_s", "images_per_s", "peak_memory_bytes", "first_call_s")
"""The metrics that are ticked, since TensorBoard ticks five. Cost and quality are columns at the left, too, so that
the scatter plots have quality against cost in their first column."""

FIRST = "hparams"
"""The name of the plugin that the plain address opens."""

TICKED = re.compile(r"Math\.min\(5,(\w+)\.length\)(?=;for\(let (\w+)=0;\2<\w+;\2\+\+\)\1\[\2\]\.displayed=!0)")
SCRIPT = re.compile(r"index\.js\?_file_hash=(\w+)")


def assets(original: Callable[[], BinaryIO]) -> BinaryIO:
    """Return the archive of TensorBoard's pages with those of `MENDED` changed."""
    mended = BytesIO()
    with original() as file, ZipFile(file) as pages, ZipFile(mended, "w", ZIP_STORED) as copy:
        for name in pages.namelist():
            content = pages.read(name)
            copy.writestr(name, MENDED[name](content.decode()) if name in MENDED else content)
    mended.seek(0)
    return mended


def tick_what_varies(script: str) -> str:
    """Tick each column of HParams that differs between trials. Columns that do not come last."""
    return TICKED.sub(r"(\1.filter(column=>column.info.differs).length||\g<0>)", script)


def name_anew(page: str) -> str:
    """Give the script another address: a browser keeps that of a plain TensorBoard for a day."""
    return SCRIPT.sub(r"index.js?_file_hash=tune\1", page)


MENDED: dict[str, Callable[[str], str]] = {"index.js": tick_what_varies, "index.html": name_anew}


def in_our_order(experiment_from_metadata: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap what lists the columns of HParams, so that `METRICS` come first."""

    @wraps(experiment_from_metadata)
    def ordered(*arguments: Any, **named: Any) -> Any:
        experiment = experiment_from_metadata(*arguments, **named)
        infos = sorted(experiment.metric_infos, key=lambda info: rank(info.name.tag))
        experiment.ClearField("metric_infos")
        experiment.metric_infos.extend(infos)
        return experiment

    return ordered


def rank(metric: str) -> int:
    """Return the place of a metric."""
    return METRICS.index(metric) if metric in METRICS else len(METRICS)


def opens_on_hparams(plugins: Sequence[Any]) -> list[Any]:
    """Order TensorBoard's plugins so that HParams comes first. A loader has no name and keeps its place."""
    return sorted(plugins, key=lambda plugin: getattr(plugin, "plugin_name", None) != FIRST)
