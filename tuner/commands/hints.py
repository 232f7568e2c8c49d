"""What a command or an option that does not exist may mean. Imported when one was misspelt only."""

from __future__ import annotations

import os
from collections.abc import Iterable

from tuner.errors import did_you_mean, plain_word
from tuner.knobs.aliases import KNOB_NAMES, by_word
from tuner.space.settings import settable_names

OPTIONS = by_word({
    "model pipeline": "the model has no option: tune run MODEL",
    "resume continue": "the same command goes on, and so does `tune resume`",
    "gpu gpus": "use --gpus N for so many of them, --gpus 0, for the first one",
    "cuda cpu": "use --device cuda or --device cpu",
    "timeout time maxtime duration": "use --budget TIME",
    "config yaml spacefile searchspace": "use --space FILE",
    "output outputdir dir folder": "use --out DIR",
    "name run": "use --study NAME",
    "ntrials maxtrials iterations": "use --trials N",
    "metrics objective": "use --quality NAME",
    "clip": "use --scorer MODEL",
    "usd cost": "use --price USD",
    "target maxlatency": "use --latency-target TIME",
})  # fmt: skip
COMMANDS = by_word({
    "help": "tune --help", "version": "tune --version",
    "start search optimize optimise bench benchmark": "tune run MODEL",
    "continue": "tune resume", "ls studies status": "tune list", "report result results summary": "tune show",
    "tensorboard ui view": "tune board", "check env info": "tune doctor", "profile": "tune trace FILE",
})  # fmt: skip
LOAD = "a result is used in Python: tuner.load('STUDY/best_config.json')"


def of_option(option: str, known: Iterable[str], takes_settings: bool) -> str:
    """Return what an unknown option may mean, or an empty text. `known` are the options of the command."""
    meant = _setting(plain_word(option)) if takes_settings else ""
    similar = did_you_mean(option.lstrip("-"), [name.lstrip("-") for name in known])
    return meant or similar.replace("did you mean ", "did you mean --")


def of_word(option: str) -> str:
    """Return which option of `tune run` a word of another program means, or an empty text."""
    return OPTIONS.get(plain_word(option), "")


def _setting(word: str) -> str:
    """Return the option or the setting of `tune run` that a word means, or an empty text."""
    names = {**{plain_word(name.rpartition(".")[2]): name for name in reversed(settable_names())}, **KNOB_NAMES}
    return OPTIONS.get(word) or (f"set it with --set {names[word]}=VALUE" if word in names else "")


def of_choice(argument: str, word: str, known: Iterable[str]) -> str:
    """Return what an argument that is none of its choices may mean, or an empty text."""
    return of_command(word, known) if argument == "COMMAND" else did_you_mean(word, known)


def of_command(word: str, known: Iterable[str]) -> str:
    """Return what an unknown command may mean, or an empty text."""
    if plain_word(word) in ("export", "apply", "load", "best", "use"):
        return LOAD
    if plain_word(word) in COMMANDS:
        return f"did you mean `{COMMANDS[plain_word(word)]}`?"
    if word == "demo" or "/" in word or os.path.exists(word):  # noqa: PTH110  (any string, of any length)
        return f"did you mean `tune run {word}`?"
    return did_you_mean(word, known)
