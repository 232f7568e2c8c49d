"""`tune export`: write a tuned configuration for other programs."""

from __future__ import annotations

import argparse
import sys

from tuner.commands.arguments import Subparsers, add_result, add_studies, add_trial
from tuner.commands.streams import note, note_running
from tuner.errors import BadInput

FORMATS = ("python", "diffusers", "cache-dit", "sglang", "vllm-omni")
SUMMARY = "write a tuned configuration for other programs: plain Python, diffusers, servers"
DESCRIPTION = """\
Write the chosen configuration of a best_config.json in the words of another
program. The file says what was measured and what was not, and lists each
setting that the program cannot have.
"""
EXAMPLES = """\
examples:
  tune export --to python > tuned.py                 of the newest study
  tune export demo-9ec7c40c --to python --trial 12 > tuned.py
  tune export best_config.json --to sglang

targets:
  python      a Python file that needs only torch, diffusers and what the
              settings themselves need, and not this package; every setting
  diffusers   Python in diffusers' own terms: PipelineQuantizationConfig, caches
  cache-dit   a YAML file for cache_dit.load_configs
  sglang      the command of SGLang Diffusion, with its diffusers backend
  vllm-omni   the command of vLLM-Omni
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the arguments of `tune export`."""
    parser = subparsers.add_parser("export", help=SUMMARY, description=DESCRIPTION, epilog=EXAMPLES)
    add_result(parser)
    add_studies(parser)
    parser.add_argument("--to", required=True, choices=FORMATS, help="program to write it for")
    add_trial(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print a configuration in the words of another program."""
    from tuner.export.base import read_tuned
    from tuner.export.targets import TARGETS
    from tuner.report.studies import find_result
    from tuner.result.source import is_elsewhere

    file = find_result(options.result, options.out)
    note_running(file.parent)
    best = read_tuned(file, options.trial)
    try:
        text = TARGETS[options.to]().render(best)
    except BadInput as error:
        raise BadInput(f"{file}: {error}") from None
    if is_elsewhere(best.model):
        note(f"{file}: model.source: {best.model.source} is not on this machine; what is written loads it from there")
    sys.stdout.write(text)
    sys.stdout.flush()
    return 0
