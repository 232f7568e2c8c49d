"""The table of prices, and which device it knows by which name."""

from __future__ import annotations

import datetime
import math
import re

import pytest

from tuner.errors import BadInput
from tuner.result import prices
from tuner.result.prices import Price, Quote, gpu_name, price_for, quotes_for

DEVICES = {
    "NVIDIA H200": "H200 SXM",
    "NVIDIA H100 80GB HBM3": "H100 SXM",
    "NVIDIA H100 PCIe": "H100 PCIe",
    "NVIDIA H100 NVL": "H100 NVL",
    "NVIDIA B200": "B200 SXM",
    "NVIDIA GH200 480GB": "GH200 96 GB",
    "NVIDIA A100-SXM4-80GB": "A100 SXM 80 GB",
    "A100-SXM4-40GB": "A100 SXM 40 GB",
    "NVIDIA A100 80GB PCIe": "A100 PCIe 80 GB",
    "NVIDIA GeForce RTX 4090": "RTX 4090",
    "NVIDIA GeForce RTX 5090": "RTX 5090",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": "RTX PRO 6000 Server Edition",
    "NVIDIA L40S": "L40S",
    "NVIDIA L40": "L40",
    "NVIDIA L4": "L4",
    "NVIDIA A10": "A10",
    "NVIDIA A10G": "A10G",
    "NVIDIA RTX A6000": "RTX A6000",
    "Tesla T4": "T4",
    "NVIDIA T4": "T4",
    "Quadro RTX 6000": "Quadro RTX 6000",
}
UNKNOWN = (
    "AMD EPYC",
    "Intel(R) Xeon(R) Platinum 8480+",
    "NVIDIA A100-SXM4-80GB MIG 1g.10gb",
    "NVIDIA H200 NVL",
    "NVIDIA GeForce RTX 4090 D",
    "NVIDIA GeForce RTX 4090 Laptop GPU",
    "NVIDIA RTX 6000 Ada Generation",
    "NVIDIA GeForce RTX 3060",
    "NVIDIA L400",
    "xL4",
    "",
)


@pytest.mark.parametrize(("device_name", "gpu"), DEVICES.items())
def test_a_device_is_known_by_the_name_that_its_driver_gives_it(device_name: str, gpu: str) -> None:
    assert gpu_name(device_name) == gpu
    assert not prices.is_nominal(price_for(device_name, None))


@pytest.mark.parametrize("device_name", UNKNOWN)
def test_an_unknown_device_has_a_nominal_price_that_says_so(device_name: str) -> None:
    assert gpu_name(device_name) is None
    price = price_for(device_name, None)
    assert price == Price(usd_per_hour=1.0, source=f"nominal: no price is known for {device_name}, give --price")
    assert prices.is_nominal(price)


# ---- the table ------------------------------------------------------------------------------------------------------


def test_every_gpu_has_a_price_and_every_price_a_gpu() -> None:
    names = [gpu.name for gpu in prices.price_table().gpus]
    assert len(set(names)) == len(names)
    assert {quote.gpu for quote in prices.price_table().quotes} == set(names)


@pytest.mark.parametrize("quote", prices.price_table().quotes, ids=lambda q: f"{q.gpu}, {q.provider}, {q.date}")
def test_every_price_says_who_asked_it_and_where_that_was_read_when(quote: Quote) -> None:
    assert 0 < quote.usd_per_hour < 20
    assert quote.provider and quote.offer
    assert datetime.date(2025, 1, 1) <= quote.date <= datetime.datetime.now(datetime.UTC).date()
    assert len(quote.source) > 10
    assert not quote.source.startswith(("/", "."))


def test_no_device_matches_two_gpus() -> None:
    for device_name in DEVICES:
        name = device_name.removeprefix("NVIDIA ")
        assert sum(bool(re.fullmatch(gpu.device_name, name)) for gpu in prices.price_table().gpus) == 1


def test_a_provider_stands_once_for_a_gpu() -> None:
    pairs = [(quote.gpu, quote.provider) for quote in prices.price_table().quotes]
    assert len(set(pairs)) == len(pairs), "a newer price replaces the row"


def test_the_prices_of_a_device_are_in_order() -> None:
    quotes = quotes_for("NVIDIA H100 80GB HBM3")
    assert len(quotes) > 2
    assert [quote.usd_per_hour for quote in quotes] == sorted(quote.usd_per_hour for quote in quotes)


# ---- the price ------------------------------------------------------------------------------------------------------


def test_the_users_price_wins() -> None:
    for name in ("NVIDIA H200", "AMD EPYC"):
        assert price_for(name, 2.5) == Price(usd_per_hour=2.5, source="--price")


def test_of_several_providers_it_is_the_median_and_says_so() -> None:
    quotes = quotes_for("NVIDIA H200")
    assert len(quotes) == 3
    price = price_for("NVIDIA H200", None)
    assert price.usd_per_hour == quotes[1].usd_per_hour
    assert price.source.startswith("lower median of 3 providers, 20")
    for quote in quotes:
        assert f"{quote.provider} {quote.usd_per_hour:.2f}" in price.source
    assert str(max(quote.date for quote in quotes)) in price.source


@pytest.mark.parametrize(("device_name", "count", "rank"), [("A100-SXM4-80GB", 2, 0), ("H100 80GB HBM3", 4, 1)])
def test_of_an_even_number_it_is_one_that_somebody_asks(device_name: str, count: int, rank: int) -> None:
    asked = [quote.usd_per_hour for quote in quotes_for(device_name)]
    assert len(asked) == count
    price = price_for(device_name, None)
    assert price.usd_per_hour == asked[rank]
    assert price.source.startswith(f"lower median of {count} providers, 20")


def test_of_one_provider_it_is_that_ones() -> None:
    (quote,) = quotes_for("NVIDIA L4")
    assert price_for("NVIDIA L4", None) == Price(
        usd_per_hour=quote.usd_per_hour, source=f"{quote.provider}, {quote.date}"
    )


def test_one_provider_can_be_asked_for() -> None:
    price = price_for("NVIDIA H100 80GB HBM3", None, "lambda")
    assert price.source.startswith("Lambda, 20")
    assert price.usd_per_hour in {quote.usd_per_hour for quote in quotes_for("NVIDIA H100 80GB HBM3")}


@pytest.mark.parametrize(("device_name", "who"), [("NVIDIA L4", "Modal"), ("AMD EPYC", "no provider")])
def test_a_provider_without_the_device_is_refused(device_name: str, who: str) -> None:
    with pytest.raises(BadInput, match=rf"--provider Lambda: no price for {device_name}; the table has {who}"):
        price_for(device_name, None, "Lambda")


@pytest.mark.parametrize("device_name", ["NVIDIA L4", "AMD EPYC"])
def test_an_unknown_provider_is_answered_with_the_known_ones(device_name: str) -> None:
    told = r"^--provider Nosuch: the table has no such provider, only .*Lambda, .*Modal, .*; .* or give --price USD$"
    with pytest.raises(BadInput, match=told):
        price_for(device_name, None, "Nosuch")


def test_the_cost_of_images() -> None:
    assert math.isclose(prices.cost_usd_per_1000_images(Price(usd_per_hour=3.6, source="a test"), 2.0), 0.5)
