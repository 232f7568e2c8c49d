"""Where the settings are that people look for in another place."""

from __future__ import annotations

from collections.abc import Iterable

from tuner.errors import did_you_mean, plain_word
from tuner.knobs import KNOBS
from tuner.knobs.aliases import KNOB_NAMES, by_word

OPTIONS = by_word({
    "model pipeline pretrainedmodelnameorpath": "`tune run MODEL`",
    "metric objective": "`tune run --quality NAME`",
    "scorer clip clipmodel": "`tune run --scorer MODEL`",
    "budget time timeout maxtime": "`tune run --budget TIME`",
    "trials maxtrials ntrials": "`tune run --trials N`",
    "price cost": "`tune run --price USD`",
    "device gpu": "`tune run --device NAME`",
    "out output outputdir study": "`tune run --out DIR --study NAME`",
    "revision variant": "`tune run MODEL`, which has options for it",
    "include inherits parent base": "extends",
})  # fmt: skip
"""What is no setting of a space: the option of the command line that it is."""

PARTS = by_word({
    "size resolution imagesize dimensions": "height and width, each in pixels",
    "guidance cfg cfgscale": "guidance_scale",
    "frames length": "num_frames",
    "negative": "negative_prompt",
    "enabled enable on off": "count_per_step and max_idle_ms_per_step, which say what is tolerated",
})  # fmt: skip
"""Fields of a group by another name."""


def hint(name: str, fields: Iterable[str]) -> str:
    """Return what to write instead of an unknown field: a similar one, a knob, an option, or the list of fields."""
    word, known = plain_word(name), list(fields)
    if word in PARTS and set(known) & set(PARTS[word].replace(",", "").split()):
        return f"use {PARTS[word]}"
    meant = name if name in KNOBS else KNOB_NAMES.get(word, "")
    if meant in KNOBS and meant.rpartition(".")[2] not in known and "values" not in known:
        return f"it is a knob: write {meant} in the group knobs, or give --set {meant}=VALUE"
    otherwise = f"it is an option: {OPTIONS[word]}" if word in OPTIONS else f"use {', '.join(known)}"
    return did_you_mean(name, known, otherwise)
