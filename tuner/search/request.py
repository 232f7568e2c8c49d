"""What a study is about."""

from __future__ import annotations

import msgspec

from tuner.records.codec import Record, Values, fingerprint
from tuner.records.machine import Environment
from tuner.records.model import Model
from tuner.records.quality import QualityPolicy
from tuner.result.prices import Price
from tuner.space.candidates import SearchSpace


class Request(Record):
    """What a study is about. Two requests with the same fingerprint are the same study."""

    model: Model
    environment: Environment
    space: SearchSpace
    price: Price
    quality: QualityPolicy = QualityPolicy()

    def fingerprint(self) -> str:
        """Hash everything but words: what was left out and why, and where recipes and the price are from."""
        recipes = tuple(msgspec.structs.replace(recipe, source="") for recipe in self.space.recipes)
        space = msgspec.structs.replace(self.space, left_out={}, recipes=recipes)
        price = msgspec.structs.replace(self.price, source="")
        return fingerprint(msgspec.to_builtins(msgspec.structs.replace(self, space=space, price=price)))


class Refusal(Record):
    """A candidate that was refused before it cost anything."""

    values: Values
    reason: str
