"""What a device-hour costs, where and as of when: what the user says, or the dated table in prices.json."""

from __future__ import annotations

import datetime
import re
import statistics
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from tuner.errors import BadInput
from tuner.records.codec import Record, read
from tuner.result.economics import usd_per_1000_images

NOMINAL_USD_PER_HOUR = 1.0
NOMINAL = "nominal"
TABLE_FILE = Path(__file__).parent / "prices.json"


class Price(Record):
    """US dollars for an hour of the device, and where the figure comes from."""

    usd_per_hour: float
    source: str


class Gpu(Record):
    """A GPU of the table; `device_name` is a regular expression for the whole name that the driver gives it, less the
    leading NVIDIA."""

    name: str
    device_name: str


class Quote(Record):
    """What one provider asked for an hour of one GPU, and where that was read when."""

    gpu: str
    provider: str
    offer: str
    usd_per_hour: float
    date: datetime.date
    source: str


class PriceTable(Record):
    """What prices.json holds."""

    about: str
    gpus: tuple[Gpu, ...]
    quotes: tuple[Quote, ...]


@cache
def price_table() -> PriceTable:
    return read(TABLE_FILE, PriceTable)


def gpu_name(device_name: str) -> str | None:
    """The table's name of a device, None for one that it does not know.

    The whole name must match: an L4 is no L40S, and a slice of a GPU (MIG) costs less than all of it.
    """
    name = device_name.removeprefix("NVIDIA ")
    return next((gpu.name for gpu in price_table().gpus if re.fullmatch(gpu.device_name, name)), None)


def quotes_for(device_name: str) -> list[Quote]:
    """The price of each provider for a device, cheapest first."""
    gpu = gpu_name(device_name)
    quotes = [quote for quote in price_table().quotes if quote.gpu == gpu]
    return sorted(quotes, key=lambda quote: (quote.usd_per_hour, quote.provider))


def price_for(device_name: str, override: float | None, provider: str | None = None) -> Price:
    """The price to reckon with: the user's, else the table's, else a nominal one that only ranks configurations.

    Of several providers the table's price is the lower median: one odd offer does not move it, and somebody asks it.
    With a `provider` it is that one's, and BadInput names those that have the device when that one does not.
    """
    if override is not None:
        return Price(usd_per_hour=override, source="--price")
    quotes = quotes_for(device_name)
    if provider is not None:
        found = [quote for quote in quotes if quote.provider.casefold() == provider.casefold()]
        if not found:
            others = ", ".join(quote.provider for quote in quotes) or "no provider"
            raise BadInput(f"--provider {provider}: no price for {device_name}; the table has {others} for it")
        quotes = found
    if quotes:
        return Price(usd_per_hour=statistics.median_low(quote.usd_per_hour for quote in quotes), source=_source(quotes))
    source = f"{NOMINAL}: no price is known for {device_name}, give --price"
    return Price(usd_per_hour=NOMINAL_USD_PER_HOUR, source=source)


def is_nominal(price: Price) -> bool:
    """Whether a price is no price, and can only rank the configurations of one device."""
    return price.source.startswith(f"{NOMINAL}:")


def cost_usd_per_1000_images(price: Price, images_per_s: float) -> float:
    """US dollars for 1000 images at a throughput in images per second."""
    return usd_per_1000_images(price.usd_per_hour, images_per_s)


def _source(quotes: Sequence[Quote]) -> str:
    """Who asked for how much, and when: what the lower median is one of."""
    if len(quotes) == 1:
        return f"{quotes[0].provider}, {quotes[0].date}"
    asked = ", ".join(f"{quote.provider} {quote.usd_per_hour:.2f}" for quote in quotes)
    oldest, newest = min(quote.date for quote in quotes), max(quote.date for quote in quotes)
    dates = f"{oldest}" if oldest == newest else f"{oldest} to {newest}"
    return f"lower median of {len(quotes)} providers, {dates}: {asked}"
