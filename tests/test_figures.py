"""The figures of the choice beside the baseline's: what is shown, what is a dash, and that it fits."""

from __future__ import annotations

import io
from typing import Any

import msgspec
import pytest
from test_export import example

from tuner.records.codec import Estimate
from tuner.records.machine import LimitShare, Roofline
from tuner.records.outcome import Components, PredictionCheck
from tuner.report.console import make_console
from tuner.report.figures import figures_table
from tuner.result.economics import economics
from tuner.result.records import BestConfig, MeasuredPoint, TimingNoise

replace = msgspec.structs.replace


def printed(best: BestConfig, width: int = 100) -> str:
    stream = io.StringIO()
    make_console(stream, width).print(figures_table(best))
    return stream.getvalue()


def row(text: str, name: str) -> str:
    (found,) = [line for line in text.splitlines() if line.strip().startswith(name)]
    return found.strip().removeprefix(name).strip()


def parts(total_s: float, vae_s: float | None = 0.1) -> Components:
    return Components(total_s=total_s, text_encoders_s=0.05, denoiser_s=total_s * 0.8, vae_s=vae_s, rest_s=0.01)


def full(best: BestConfig | None = None, **of_chosen: Any) -> BestConfig:
    """An example in which everything was measured."""
    best = best or example()
    common: dict[str, Any] = {
        "latency_samples": 100, "latency_p95_s": 2.1, "peak_reserved_bytes": 20 * 10**9, "joules_per_image": 500.0,
        "compile_s": 1.0, "components": parts(2.0), "limit": LimitShare(share=0.36, rate="bfloat16"),
    }  # fmt: skip
    baseline = replace(best.baseline, **common)
    chosen = replace(best.chosen, **common | {"compile_s": 31.0, "components": parts(1.0)} | of_chosen)

    def reckoned(point: MeasuredPoint) -> MeasuredPoint:
        return replace(point, economics=economics(3.6, point.measurement(), baseline.measurement()))

    gpu = replace(best.environment, device="cuda", device_name="NVIDIA H200")
    return replace(best, environment=gpu, baseline=reckoned(baseline), chosen=reckoned(chosen))


@pytest.mark.parametrize("width", [80, 100, 160])
def test_it_fits(width: int) -> None:
    assert max(map(len, printed(full(), width).splitlines())) <= width


def test_everything_that_was_measured_stands_beside_the_baselines() -> None:
    text = printed(full())
    heading = text.splitlines()[0]
    assert heading.startswith("The chosen configuration ")
    assert heading.endswith("trial 5")
    assert " ".join(row(text, "latency ").split()) == "2.00 s of 100 calls 1.00 s of 100 calls"
    assert "The chosen denoiser runs at 36 % of this GPU's bf16 rate" in text
    assert row(text, "latency, 95th percentile").split() == ["2.10", "s", "2.10", "s"]
    assert row(text, "images in a call").split() == ["1", "2"]
    assert row(text, "one image, part by part").split() == ["2.00", "s", "100%", "500", "ms", "100%"]
    assert row(text, "denoiser  ").split() == ["1.60", "s", "80%", "400", "ms", "80%"]
    assert row(text, "VAE decode").split() == ["100", "ms", "5%", "50.0", "ms", "10%"]
    assert row(text, "denoiser's share of the limit").split() == ["36", "%", "of", "bf16"] * 2
    assert row(text, "images per hour").split() == ["1,800", "7,200"]
    assert row(text, "images per 1000 US$").split() == ["500k", "2.00M"]
    assert row(text, "US$ per 1000 images").split() == ["2.00", "0.500"]
    assert row(text, "US$ per million images").split() == ["2,000", "500"]
    assert row(text, "joules per image").split() == ["500", "500"]
    assert row(text, "images/s per watt").split() == ["0.00200", "0.00200"]
    assert row(text, "compiling  ").split() == ["1.00", "s", "31.0", "s"]
    assert row(text, "compiling is paid for after").split() == ["-", "20", "images"]
    assert row(text, "smallest card it fits").split() == ["24", "GB", "24", "GB"]
    assert "discarded" not in text
    assert "Not known" not in text


def test_parts_that_do_not_add_up_to_the_median_stand_below_the_call_that_they_are_of() -> None:
    best = full(components=parts(1.5))
    names = [line.strip().split("  ")[0] for line in printed(best).splitlines()]
    first = names.index("one image, part by part")
    assert names[first + 1 : first + 5] == ["text encoders", "denoiser", "VAE decode", "rest of the call"]
    assert row(printed(best), "latency ").endswith("1.00 s of 100 calls")
    assert row(printed(best), "one image, part by part").split() == ["2.00", "s", "100%", "750", "ms", "100%"]
    assert row(printed(best), "denoiser  ").split()[-3:] == ["600", "ms", "80%"], "of that call"
    assert "is not one of those of the median" in printed(best)


def test_parts_of_calls_of_several_images_are_per_image_and_the_batch_is_named() -> None:
    text = printed(full(batch=4, components=parts(6.0)))
    assert row(text, "images in a call").split() == ["1", "4"]
    assert row(text, "one image, part by part").split() == ["2.00", "s", "100%", "1.50", "s", "100%"]
    assert row(text, "denoiser  ").split() == ["1.60", "s", "80%", "1.20", "s", "80%"]
    assert "images in a call" not in printed(full(batch=1)), "where all are of one image, a call is an image"


def test_what_was_not_measured_is_no_row() -> None:
    text = printed(example())
    for name in ("95th", "joules", "card", "limit", "denoiser", "part by part", "also on", "None", "nan"):
        assert name not in text


def test_a_percentile_that_the_samples_do_not_support_is_not_shown() -> None:
    assert row(printed(full(latency_samples=58)), "latency, 95th percentile").split() == ["2.10", "s", "-"]
    assert row(printed(full(latency_samples=4)), "latency ").endswith("1.00 s of 4 calls")


def test_a_predicted_latency_says_from_what() -> None:
    text = printed(full(latency_samples=0, predicted_from=(4,), processes=0))
    assert row(text, "latency ").endswith("1.00 s, from calls of 4 steps")


def test_what_was_seen_of_the_gpu_is_said() -> None:
    text = printed(
        full(
            discarded_samples={"HW thermal slowdown": 3},
            other_processes=1,
            other_memory_bytes=5 * 10**9,
            unavailable_reasons=("energy: Not Supported",),
        )
    )
    assert row(text, "calls discarded").endswith("3 by HW thermal slowdown")
    assert row(text, "also on the GPU").endswith("  1 other process with 5.00 GB")
    assert "Not known: energy: Not Supported" in text


def test_compiling_that_never_pays_is_said_so() -> None:
    assert row(printed(full(images_per_s=0.4)), "compiling is paid for after").split() == ["-", "never"]
    assert row(printed(full(compile_s=0.5)), "compiling is paid for after").split() == ["-", "at", "once"]


def test_what_is_not_compiled_has_no_figure_of_compiling() -> None:
    text = printed(full(compile_s=0.0))
    assert row(text, "compiling  ").split() == ["1.00", "s", "-"]
    assert "paid for" not in text


def test_a_model_that_fits_no_card_of_the_list() -> None:
    assert row(printed(full(peak_reserved_bytes=100 * 10**9)), "smallest card it fits").endswith("over 80 GB")


def test_a_chosen_baseline_has_one_column() -> None:
    best = full()
    text = printed(replace(best, chosen=best.baseline))
    assert text.startswith("The chosen configuration is the baseline\n")
    assert row(text, "images per hour") == "1,800"


def test_the_notes_say_how_sure_the_figures_are() -> None:
    check = PredictionCheck(
        trial=5, predicted_s=Estimate(value=1.01, low=1.0, high=1.02), error=0.01, held=True,
        measured_s=Estimate(value=1.0, low=1.0, high=1.0),
    )  # fmt: skip
    best = replace(
        full(), timing_noise=TimingNoise(processes=3, coefficient_of_variation=0.0031), predictions=(check,),
        roofline=Roofline(flop_per_s={"bfloat16": 790e12}, copy_bytes_per_s=4.1e12,
            unavailable_reasons=("rate of fp16: no",)),
    )  # fmt: skip
    text = " ".join(printed(best).split())
    assert "Timing noise 0.31% (coefficient of variation between 3 processes of the baseline)" in text
    assert "Predictions measured later: 1, the worst +1.00% off (trial 5)" in text
    assert "TFLOP/s: bf16 790; copies 4.10 TB/s" in text
    assert "Not known: rate of fp16: no" in text


def test_the_latency_target() -> None:
    text = printed(full(within_latency_target=0.93))
    assert row(text, "calls within the latency target").split() == ["-", "93%"]
    assert row(text, "images per hour").split() == ["1,800", "6,696"]
