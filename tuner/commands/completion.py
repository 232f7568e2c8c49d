"""`tune completion`: the script by which a shell completes commands and options."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tuner.commands.arguments import Subparsers, folder
from tuner.errors import Unavailable

SHELLS = ("bash", "zsh", "fish")
PATHS = ("model", "base", "space", "scorer", "study", "result", "results")
"""Arguments that may be files, and names too."""

SUMMARY = "print a script that completes commands and options in your shell"
DESCRIPTION = """\
Print a script by which bash, zsh or fish completes the commands of tune, their
options and choices, files and folders.
"""
EXAMPLES = """\
examples:
  eval "$(tune completion bash)"                                in ~/.bashrc
  tune completion zsh > "${fpath[1]}/_tune"                     then a new shell
  tune completion fish > ~/.config/fish/completions/tune.fish
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the arguments of `tune completion`."""
    parser = subparsers.add_parser("completion", help=SUMMARY, description=DESCRIPTION, epilog=EXAMPLES)
    parser.add_argument("shell", choices=SHELLS, help="shell to write it for")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the script for a shell."""
    try:
        import shtab
    except ImportError:
        raise Unavailable("tune completion: shtab is not installed; pip install shtab") from None
    for parser in (options.whole, *options.whole.commands.values()):
        _complete_paths(parser, shtab.FILE, shtab.DIRECTORY)
    sys.stdout.write(shtab.complete(options.whole, options.shell))
    return 0


def _complete_paths(parser: argparse.ArgumentParser, files: object, folders: object) -> None:
    """Let a shell complete the arguments that name files and folders."""
    for action in parser._actions:
        if action.type is folder:
            action.complete = folders  # type: ignore[attr-defined]
        elif action.type is Path or action.dest in PATHS:
            action.complete = files  # type: ignore[attr-defined]
