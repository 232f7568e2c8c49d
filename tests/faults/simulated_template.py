"""`python -m tuner.worker.template` whose workers are simulated; all the rest, the weights among it, is real."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # which the safe path of children leaves out

from sabotaged_worker import Saboteur, simulate

from tuner.worker import template

if __name__ == "__main__":
    template.worker.run, template.worker.Channel = simulate, Saboteur  # type: ignore[attr-defined, misc]
    template.LIBRARIES = ("diffusers",)  # the others take half of the start, and nothing here needs them
    template.main(sys.argv[1:])
