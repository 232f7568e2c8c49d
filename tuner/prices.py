"""What a device-hour costs, and who said so."""

from __future__ import annotations

from tuner.record import Record

NOMINAL_USD_PER_HOUR = 1.0


class Price(Record):
    """US dollars for an hour of the device, and where the figure comes from."""

    usd_per_hour: float
    source: str


def price_of(device_name: str, override: float | None) -> Price:
    """The price to reckon with: the user's, or a nominal one that only ranks configurations."""
    if override is not None:
        return Price(usd_per_hour=override, source="--price")
    source = f"nominal: no price is known for {device_name}, give --price"
    return Price(usd_per_hour=NOMINAL_USD_PER_HOUR, source=source)


def cost_usd_per_1000_images(price: Price, images_per_s: float) -> float:
    """US dollars for 1000 images at a throughput in images per second."""
    return price.usd_per_hour / 3600.0 * 1000.0 / images_per_s
