"""Targets that have their own words for some settings, and none for others."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tuner.errors import BadInput
from tuner.export.base import Target, differing
from tuner.export.facts import comments, facts, setting
from tuner.knobs.attention import OWN
from tuner.records.codec import Values
from tuner.result.records import BestConfig

READ_BY: Mapping[str, str] = {
    "cache.threshold": "cache.kind",
    "cache.interval": "cache.kind",
    "cache.max_skip_steps": "cache.kind",
    "lora.scale": "lora.file",
}
"""Settings that are parameters of another, and are written with it."""


@dataclass(frozen=True)
class Words:
    """A setting in a target's words, as plain data, and how it differs from what was measured, if it does."""

    data: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


Wording = Callable[[Values], Words | None]


def always(**data: Any) -> Wording:
    """Return the wording of a setting with one value besides the baseline's."""
    return lambda _: Words(data)


def by_value(name: str, key: str, words: Mapping[str, Any], note: str = "") -> Wording:
    """Return the wording of a setting whose values the target names otherwise; a value without a name has none."""
    return lambda values: Words({key: words[str(values[name])]}, note) if str(values[name]) in words else None


def attention_backend(write: Callable[[str], Words]) -> Wording:
    """Return the wording of a backend of diffusers' attention dispatcher. One of this package has none."""
    return lambda values: None if values["attention.backend"] in OWN else write(str(values["attention.backend"]))


@dataclass
class Said:
    """A whole configuration in a target's words: the data, what differs, and what cannot be written."""

    data: dict[str, Any]
    notes: list[str]
    missing: list[str]


class WordingTarget(Target):
    """A target with a table of wordings: `words` of settings, `unchanged` of settings that have to be written anyway.

    `version` is the version of the program whose words these are. `title` is its name.
    """

    title: ClassVar[str]
    version: ClassVar[str]
    words: ClassVar[Mapping[str, Wording]]
    unchanged: ClassVar[tuple[str, ...]] = ()

    def render(self, best: BestConfig) -> str:
        if best.model.base is not None:
            raise BadInput(f"model.source: {best.model.source} is a checkpoint file, which only --to python can load")
        said = self.say(best)
        body = list(self.body(best, said))
        return "\n".join([*comments(self.head(best, said)), "", *body, ""])

    @abstractmethod
    def body(self, best: BestConfig, said: Said) -> Iterator[str]:
        """Yield the lines of the file below its head."""

    def say(self, best: BestConfig) -> Said:
        """Write every setting. Raises BadInput if the target has words for none of them."""
        values, changed = best.chosen.values, differing(best)
        said = Said({}, [], [])
        for name in dict.fromkeys((*changed, *(name for name in self.unchanged if name in values))):
            owner = READ_BY.get(name)
            words = self.words[name](values) if name in self.words else None
            if words is not None:
                said.data.update(words.data)
                said.notes += [f"{setting(name, values[name])}: {words.note}"] * bool(words.note)
            elif owner is None or self._is_missing(owner, values):
                said.missing.append(setting(name, values[name]))
        if not said.data:
            trial = best.chosen.trial
            missing = ", ".join(said.missing)
            raise BadInput(
                f"trial {trial}: {self.title} {self.version} has none of: {missing}; --to python has every setting"
            )
        return said

    def _is_missing(self, name: str, values: Values) -> bool:
        return name not in self.words or self.words[name](values) is None

    def head(self, best: BestConfig, said: Said) -> Iterator[str]:
        """Yield the lines of the head: what was measured, in what, and what is missing here."""
        yield from facts(best)
        yield "The figures are of these settings as diffusion-tuner applies them to diffusers. None was taken of this"
        yield f"file; its names are those of {self.title} {self.version}."
        if said.notes:
            yield "Written, but not the same as what was measured:"
            yield from (f"  {note}" for note in said.notes)
        yield f"Cannot be written for {self.title}, and is left out:" if said.missing else "Nothing is left out."
        yield from (f"  {name}" for name in said.missing)
