"""torch-tb-profiler as TensorBoard shows it, mended where it has fallen behind: its last release is of 2023.

TensorBoard finds `MendedProfiler` as an entry point, so that it serves plain `tensorboard --logdir` just as well. It
changes the plugin that is there instead of adding one: a second tab would load every trace once more, and a second
plugin of the same name stops TensorBoard.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from tensorboard.plugins.base_plugin import TBLoader


class MendedProfiler(TBLoader):  # type: ignore[misc]
    """Adds no tab; mends torch-tb-profiler's, which then needs no internet and reads current traces."""

    def fix_flags(self, flags: Namespace) -> None:
        """Change the plugin before TensorBoard makes it, which starts a thread that reads the traces."""
        from torch_tb_profiler import plugin

        from tuner.board import pages, reading

        plugin.RunLoader = reading.Loader
        plugin.TorchProfilerPlugin.static_file_route = pages.offline(plugin.TorchProfilerPlugin.static_file_route)
        plugin.TorchProfilerPlugin.is_active = has_traces


def has_traces(profiler: Any) -> bool:
    """Return whether there is a trace to show.

    The plugin says no until its thread has looked, and a page opened before that stays without the tab.
    """
    return next(Path(profiler.logdir).rglob("*.pt.trace.json*"), None) is not None
