"""The command `tune` with sabotaged workers, and with the deadlines in TUNER_DEADLINES (JSON, stage to seconds)."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tuner import cli
from tuner.execution import launch, process, template
from tuner.search import baseline
from tuner.study import finalists, slots

EMPTY_PANEL = """
import pathlib, sys
pathlib.Path(sys.argv[2]).write_text('{"finalists": {}, "unavailable_reasons": {}}')
"""
TEMPLATE = (sys.executable, str(Path(__file__).with_name("simulated_template.py")))
WORKER = (sys.executable, str(Path(__file__).with_name("sabotaged_worker.py")))

if __name__ == "__main__":
    assert baseline.MAX_BASELINES > 2
    baseline.MAX_BASELINES = 2  # simulated timings have no noise, and each worker takes half a second to start
    launch.WORKER = WORKER
    template.TEMPLATE = TEMPLATE
    if "TUNER_TEMPLATE" not in os.environ:
        template.make_launcher = lambda cache, *_: launch.FreshLauncher(cache)  # quicker than to import the libraries
    finalists.EXAMINER = (sys.executable, "-c", EMPTY_PANEL)  # images that are made up say nothing
    slots.MAX_SLOTS["cpu"] = int(os.environ.get("TUNER_SLOTS", "1"))  # faults are planted by the order of the workers
    process.DEADLINES_S.update(json.loads(os.environ.get("TUNER_DEADLINES", "{}")))
    sys.exit(cli.main(sys.argv[1:]))
