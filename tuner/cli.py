"""The command line of `tune`: parse arguments, run a command, turn errors into one line and an exit code."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NoReturn

from tuner.commands import (
    advise,
    board,
    compare,
    completion,
    cost,
    doctor,
    export,
    knobs,
    package,
    report,
    resume,
    run,
    show,
    streams,
    trace,
    verify,
)
from tuner.commands import list as list_
from tuner.errors import BadInput, Interrupted, TunerError
from tuner.files import is_unicode
from tuner.records.text import visible

COMMANDS = (
    run,
    resume,
    list_,
    show,
    report,
    board,
    advise,
    knobs,
    doctor,
    trace,
    cost,
    compare,
    export,
    package,
    verify,
    completion,
)
"""Each adds its parser with `add_parser` and sets `run`, which handles the parsed options."""

DESCRIPTION = """\
Find the cheapest way to run a diffusers pipeline at a given image quality, on
this machine.
"""
EXAMPLES = """\
examples:
  tune doctor                                    check this machine
  tune run                                       try it on the bundled demo
  tune run black-forest-labs/FLUX.1-dev --price 2.49
  tune list                                      list the studies
  tune board                                     look at the newest study

`tune COMMAND --help` describes each command.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns its exit code; an error is explained in one line on standard error."""
    if streams.replace_closed():
        return fail("standard output is closed, so that no result could be shown")
    try:
        with streams.written_output():
            return run_command(sys.argv[1:] if arguments is None else arguments)
    except TunerError as error:
        return fail(str(error), error.exit_code)


def run_command(arguments: Sequence[str]) -> int:
    """Run a command. Raises SystemExit for --help and wrong arguments, BrokenPipeError if nobody reads the output."""
    for text in arguments:
        if not is_unicode(text):
            raise BadInput(f"{text}: not UTF-8 text, which records need; rename the file")
    options = make_parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except BrokenPipeError:
        raise
    except UnicodeEncodeError as error:
        raise BadInput(f"{error.object[:200]}: not UTF-8 text") from None
    except OSError as error:
        return fail(str(error) if error.filename is None else f"{error.filename}: {error.strerror}")
    except MemoryError:
        return fail("out of memory")
    except KeyboardInterrupt:
        return fail("interrupted", Interrupted.exit_code)


def fail(message: str, exit_code: int = BadInput.exit_code) -> int:
    """Print an error as one line and return the exit code."""
    print(one_line(f"tune: {message}"), file=sys.stderr)
    return exit_code


def make_parser() -> Parser:
    """Build the parser of `tune` and of all its commands."""
    parser = Parser(prog="tune", description=DESCRIPTION, epilog=EXAMPLES)
    parser.add_argument("--version", action=Version, nargs=0, help="print the version and exit")
    # Not `required`, which argparse checks before it finds a misspelt option of this parser.
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    parser.set_defaults(
        run=lambda _: parser.error(f"COMMAND is missing: choose one of {', '.join(subparsers.choices)}")
    )
    for command in COMMANDS:
        command.add_parser(subparsers)
    for each in (parser, *subparsers.choices.values()):
        each.commands = subparsers.choices
    subparsers.choices["completion"].set_defaults(whole=parser)
    return parser


class Parser(argparse.ArgumentParser):
    """A parser that reports errors in one line, with a suggestion for misspelt commands and options."""

    commands: Mapping[str, argparse.ArgumentParser] = MappingProxyType({})
    """The parsers of all commands, by name."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse the arguments and refuse unknown ones here, where the options to suggest are known."""
        given = with_negative_values(sys.argv[1:] if args is None else args)
        self._refuse_option_before_command(given)
        options, unknown = super().parse_known_args(given, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._option_hint(unknown[0])}")
        return options, unknown

    def _refuse_option_before_command(self, given: Sequence[str]) -> None:
        first = given[0].partition("=")[0] if given else ""
        if self._subparsers is not None and first.startswith("--") and first not in self._option_string_actions:
            self.error(f"unrecognized arguments: {given[0]}{self._option_hint(first)}")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print a message. The one of argparse passes over errors, such as a full disk."""
        (file or sys.stderr).write(message)

    def _option_hint(self, text: str) -> str:
        """Return the option that may be meant, or the commands that have this one."""
        option = text.partition("=")[0]
        owners = [name for name, parser in self.commands.items() if option in parser._option_string_actions]
        from tuner.commands import hints

        known = self._option_string_actions
        own = hints.of_word(option) if "--set" in known else ""
        if owners and option.startswith("-") and not own:
            return f"; it is an option of {' and '.join(f'tune {name}' for name in owners)}"
        if not option.startswith("-"):
            return ""
        return after_semicolon(hints.of_option(option, known, takes_settings="--set" in known))

    def error(self, message: str) -> NoReturn:
        """Exit with a message of one line."""
        unknown = re.search(r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", message)
        if unknown:
            from tuner.commands import hints

            message += after_semicolon(hints.of_choice(unknown[1], unknown[2], re.findall(r"[\w-]+", unknown[3])))
        self.exit(BadInput.exit_code, one_line(f"{self.prog}: {message} (see {self.prog} --help)") + "\n")


def with_negative_values(arguments: Sequence[str]) -> list[str]:
    """Join an option with a value that begins with a minus and a digit, which argparse takes for an option."""
    joined: list[str] = []
    for text in arguments:
        if re.match(r"-\.?\d", text) and joined and re.fullmatch(r"--[a-z-]+", joined[-1]):
            joined[-1] += f"={text}"
        else:
            joined.append(text)
    return joined


class Version(argparse.Action):
    """Print the version of the installed package, looked up only now because that takes time."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from tuner.hardware.environment import installed_version

        print(f"tune {installed_version('diffusion-tuner') or '(not installed)'}")
        parser.exit()


def after_semicolon(hint: str) -> str:
    """Return a hint as it follows a message, if there is one."""
    return f"; {hint}" if hint else ""


def one_line(text: str) -> str:
    """Replace all whitespace, such as line breaks, by single spaces, and escape what would steer the terminal."""
    return visible(" ".join(text.split()))
