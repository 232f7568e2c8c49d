"""`python -m tuner.worker.template` whose workers are simulated, and may be sabotaged; all the rest is real.

It reads no weights and imports no libraries, which nothing here needs, unless TUNER_TEMPLATE is set.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # which the safe path of children leaves out

import sabotaged_worker

from tuner.records.codec import read
from tuner.records.protocol import Job
from tuner.worker import template
from tuner.worker.prctl import die_with_parent
from tuner.worker.weights import no_weights


def serve(arguments: list[str]) -> None:
    """What the template does once it has everything that workers share."""
    die_with_parent(signal.SIGKILL)
    channel, job = socket.socket(fileno=int(arguments[0])), read(Path(arguments[1]), Job)
    die_with_parent(0)
    template.set_threads = lambda _: None
    template.Template(channel, no_weights(job), 1).serve()


if __name__ == "__main__":
    template.worker.main = sabotaged_worker.main  # type: ignore[attr-defined]
    if "TUNER_TEMPLATE" in os.environ:
        template.LIBRARIES = ("diffusers",)  # the others take half of the start, and nothing here needs them
        template.main(sys.argv[1:])
    else:
        serve(sys.argv[1:])
