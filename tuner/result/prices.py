"""The price of a device-hour: the user's, or one from the dated table in prices.json."""

from __future__ import annotations

import datetime
import re
import statistics
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated

import msgspec

from tuner.errors import BadInput
from tuner.records.codec import Positive, Record, read
from tuner.records.outcome import Timing
from tuner.result.economics import goodput, usd_per_1000_images

NOMINAL_USD_PER_HOUR = 1.0
NOMINAL = "nominal"
UsdPerHour = Annotated[float, msgspec.Meta(ge=1e-6, le=1e6)]
TABLE_FILE = Path(__file__).parent / "prices.json"


class Price(Record):
    """US dollars for an hour of the device, and where the figure comes from."""

    usd_per_hour: UsdPerHour
    source: str


class Gpu(Record):
    """A GPU of the table.

    `device_name` is a regular expression for the whole name that the driver reports, without the leading NVIDIA.
    """

    name: str
    device_name: str


class Quote(Record):
    """One provider's price for an hour of one GPU, with the page and the date of the quote."""

    gpu: str
    provider: str
    offer: str
    usd_per_hour: Positive
    date: datetime.date
    source: str


class PriceTable(Record):
    """The contents of prices.json."""

    about: str
    gpus: tuple[Gpu, ...]
    quotes: tuple[Quote, ...]


@cache
def price_table() -> PriceTable:
    """Read the price table once."""
    return read(TABLE_FILE, PriceTable)


def gpu_name(device_name: str) -> str | None:
    """Return the table's name of a device, None if it is not in the table.

    The whole name must match: an L4 is not an L40S, and a MIG slice costs less than the whole GPU.
    """
    name = device_name.removeprefix("NVIDIA ")
    return next((gpu.name for gpu in price_table().gpus if re.fullmatch(gpu.device_name, name)), None)


def quotes_for(device_name: str) -> list[Quote]:
    """Return the price of each provider for a device, cheapest first."""
    gpu = gpu_name(device_name)
    quotes = [quote for quote in price_table().quotes if quote.gpu == gpu]
    return sorted(quotes, key=lambda quote: (quote.usd_per_hour, quote.provider))


def price_for(device_name: str, override: float | None, provider: str | None = None) -> Price:
    """Return the price of a device: the user's, else the table's, else a nominal one that only ranks configurations.

    With several providers the table's price is the lower median: a single outlier does not move it, and it is a real
    offer. With `provider` it is the price of that one. Raises BadInput, with the providers that are known, if that one
    is not or does not have the device.
    """
    if override is not None:
        return Price(usd_per_hour=override, source="--price")
    quotes = quotes_for(device_name)
    if provider is not None:
        offers = [quote for quote in quotes if quote.provider.casefold() == provider.casefold()]
        if not offers:
            raise BadInput(f"--provider {provider}: {_no_price_reason(device_name, provider, quotes)}")
        quotes = offers
    if quotes:
        return Price(usd_per_hour=statistics.median_low(quote.usd_per_hour for quote in quotes), source=_source(quotes))
    source = f"{NOMINAL}: no price is known for {device_name}, give --price"
    return Price(usd_per_hour=NOMINAL_USD_PER_HOUR, source=source)


def _no_price_reason(device_name: str, provider: str, quotes: Sequence[Quote]) -> str:
    """Say why a provider has no price for a device, and what to give instead."""
    known = sorted({quote.provider for quote in price_table().quotes}, key=str.casefold)
    if provider.casefold() not in map(str.casefold, known):
        return f"the table has no such provider, only {', '.join(known)}; name one of them, or give --price USD"
    others = ", ".join(quote.provider for quote in quotes)
    if not others:
        return f"no price for {device_name}; the table has no provider for it, give --price USD"
    return f"no price for {device_name}; the table has {others} for it, or give --price USD"


def is_nominal(price: Price) -> bool:
    """Return whether a price is nominal, so that it can only rank the configurations of one device."""
    return price.source.startswith(f"{NOMINAL}:")


def cost_usd_per_1000_images(price: Price, images_per_s: float) -> float:
    """Return the US dollars for 1000 images at a throughput in images per second."""
    return usd_per_1000_images(price.usd_per_hour, images_per_s)


def cost_of(timing: Timing, price: Price) -> float:
    """Return the US dollars for 1000 images on all devices that compute one together.

    With a latency target only images that meet it count.
    """
    return timing.devices * cost_usd_per_1000_images(price, goodput(timing.images_per_s, timing.within_target))


def _source(quotes: Sequence[Quote]) -> str:
    """Describe the quotes behind a price: providers, prices and dates."""
    if len(quotes) == 1:
        return f"{quotes[0].provider}, {quotes[0].date}"
    offers = ", ".join(f"{quote.provider} {quote.usd_per_hour:.2f}" for quote in quotes)
    oldest, newest = min(quote.date for quote in quotes), max(quote.date for quote in quotes)
    dates = f"{oldest}" if oldest == newest else f"{oldest} to {newest}"
    return f"lower median of {len(quotes)} providers, {dates}: {offers}"
