"""What torch's own libraries may do: the flags stand afterwards, and everything that reads them still can."""

from __future__ import annotations

import msgspec
import pytest
from drawing import CPU, GPU
from kinds import kind

from tuner.knobs import KNOBS, NoEffect
from tuner.knobs.base import set_flag

pytestmark = pytest.mark.usefixtures("process_state")


def test_tf32_stands_and_can_be_read_by_its_old_and_its_new_name() -> None:
    import torch

    assert KNOBS["matmul.tf32"].apply(None, {"matmul.tf32": True}) == "torch.backends.cuda.matmul.allow_tf32 = True"
    assert torch.backends.cuda.matmul.allow_tf32 is True
    assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    assert torch.get_float32_matmul_precision() == "high"
    assert KNOBS["matmul.tf32"].apply(None, {"matmul.tf32": True}).endswith("= True already")


def test_tf32_is_no_rounding() -> None:
    assert KNOBS["matmul.tf32"].may_change_image
    assert not KNOBS["cudnn.benchmark"].may_change_image


def test_cudnn_times_its_convolutions() -> None:
    import torch

    assert KNOBS["cudnn.benchmark"].apply(None, {"cudnn.benchmark": True}) == "torch.backends.cudnn.benchmark = True"
    assert torch.backends.cudnn.benchmark is True
    assert KNOBS["cudnn.benchmark"].apply(None, {"cudnn.benchmark": True}).endswith("= True already")


def test_a_flag_that_does_not_stay_is_no_effect() -> None:
    class Stubborn:
        @property
        def flag(self) -> bool:
            return False

        @flag.setter
        def flag(self, value: bool) -> None:
            pass

    with pytest.raises(NoEffect, match="a flag stayed False"):
        set_flag(Stubborn(), "flag", True, "a flag")


def test_cudnn_has_nothing_to_time_without_convolutions() -> None:
    knob = KNOBS["cudnn.benchmark"]
    assert knob.unavailable_reason(True, GPU, kind()) is None
    assert knob.unavailable_reason(True, GPU, kind("StableDiffusionXLPipeline")) is None
    without = msgspec.structs.replace(kind(), components={"transformer": "FluxTransformer2DModel"})
    assert "no convolutions" in str(knob.unavailable_reason(True, GPU, without))
    assert "NVIDIA" in str(knob.unavailable_reason(True, CPU, kind()))


@pytest.mark.gpu
def test_tf32_changes_products_on_a_gpu() -> None:
    import torch

    left, right = (
        torch.randn(512, 512, device="cuda", generator=torch.Generator("cuda").manual_seed(s)) for s in (0, 1)
    )
    exact = left @ right
    KNOBS["matmul.tf32"].apply(None, {"matmul.tf32": True})
    assert 1e-4 < (left @ right - exact).abs().max().item() < 1
