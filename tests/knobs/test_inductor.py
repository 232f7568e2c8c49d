"""Flags: each does something in this torch, changes what it says, and is offered only where it can matter."""

from __future__ import annotations

import inspect
import pkgutil
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from drawing import CPU, GPU, load, values
from kinds import kind

from tuner.knobs import KNOBS, NoEffect, apply_knobs
from tuner.knobs.inductor import NOT_OFFERED, InductorFlag
from tuner.records.codec import Value, Values

FLAGS = [knob for knob in KNOBS.values() if isinstance(knob, InductorFlag)]
AUTOTUNED = {"compile.scope": "full", "compile.mode": "max-autotune"}

pytestmark = pytest.mark.usefixtures("process_state")


def in_torch(flag: str) -> Any:
    """The value of a flag of torch by its full name."""
    return pkgutil.resolve_name(flag)


@pytest.mark.parametrize("knob", FLAGS, ids=lambda knob: knob.name)
def test_the_baseline_is_what_torch_has(knob: InductorFlag) -> None:
    from torch._inductor import config

    assert in_torch(f"torch._inductor.config:{knob.flag}") == knob.baseline(CPU) == knob.baseline(GPU)
    assert f"torch._inductor.config.{knob.flag}" not in NOT_OFFERED
    entry = config._config[knob.flag]
    assert not getattr(entry, "deprecated", False)


@pytest.mark.parametrize("knob", FLAGS, ids=lambda knob: knob.name)
def test_inductor_reads_every_flag_that_is_offered(knob: InductorFlag) -> None:
    import torch

    folder = Path(str(inspect.getsourcefile(torch))).parent / "_inductor"
    readers = [
        file
        for file in folder.rglob("*.py")
        if file.name != "config.py" and re.search(rf"config\.{re.escape(knob.flag)}\b", file.read_text())
    ]
    assert readers


@pytest.mark.parametrize("knob", FLAGS, ids=lambda knob: knob.name)
def test_a_flag_is_set_and_says_so_or_that_it_was_already(knob: InductorFlag) -> None:
    decoder = SimpleNamespace(named_modules=lambda: [("decoder.shortcut", one_pixel())])
    pipe = SimpleNamespace(vae=decoder)
    for value in knob.choices[1:]:
        chosen: Values = {"compile.scope": "none", knob.name: value}
        said = knob.apply(pipe, chosen)
        assert f"torch._inductor.config.{knob.flag} = {value}" in said
        assert "already" not in said
        assert in_torch(f"torch._inductor.config:{knob.flag}") == value
        assert f"{knob.flag} = {value} already" in knob.apply(pipe, chosen)


def test_one_process_can_apply_a_candidate_to_two_pipelines(tiny_pipeline: Path) -> None:
    chosen = values({"compile.vae": True, "inductor.aggressive_fusion": True, "inductor.freezing": True})
    first, second = (apply_knobs(load(tiny_pipeline), chosen, CPU) for _ in range(2))
    assert first.keys() == second.keys() == {"compile.vae", "inductor.aggressive_fusion", "inductor.freezing"}
    assert [name for name in second if "already" in second[name]] == [n for n in second if n.startswith("inductor.")]


@pytest.mark.parametrize("flag", [flag for flag, reason in NOT_OFFERED.items() if reason.startswith("already on")])
def test_what_is_said_to_be_on_already_is_on(flag: str) -> None:
    if flag.endswith("keep_addmm_fused_for_half_dtypes"):
        module, _, name = flag.rpartition(".")
        assert getattr(in_torch(module), name, True) is True
    else:
        assert in_torch(flag) is True


def test_what_is_said_to_be_ignored_is_read_by_nothing() -> None:
    import torch

    folder = Path(str(inspect.getsourcefile(torch))).parent / "_inductor"
    code = "\n".join(file.read_text() for file in folder.rglob("*.py") if file.name != "config.py")
    assert not re.search(r"config\.(use_mixed_mm|mixed_mm_choice)\b", code)
    # One function is left that reads it, and none that calls the function.
    assert code.count("force_fuse_int_mm_with_mul") == code.count("check_shape_cuda_and_fused_int_mm_mul_enabled") == 1


@pytest.mark.parametrize("reason", NOT_OFFERED.values())
def test_a_reason_is_one_line(reason: str) -> None:
    assert 0 < len(reason) < 120
    assert "\n" not in reason


# ---- where a flag means something -----------------------------------------------------------------------------------


def active(different: Values) -> set[str]:
    return {name for name in values(different) if name.startswith("inductor.")}


def test_nothing_compiled_no_flags() -> None:
    assert active({}) == set()


def test_flags_of_products_only_where_kernels_are_chosen() -> None:
    products = {
        "inductor.epilogue_fusion", "inductor.persistent_tma_matmul", "inductor.max_autotune_gemm_backends",
    }  # fmt: skip
    assert not products & active({"compile.scope": "full"})
    assert products <= active(AUTOTUNED)
    assert products <= active({"compile.scope": "regional", "compile.mode": "max-autotune-no-cudagraphs"})


def test_all_directions_only_where_parameters_are_searched() -> None:
    name = "inductor.coordinate_descent_check_all_directions"
    assert name not in active({"compile.scope": "full"})
    assert name in active({"compile.scope": "full", "inductor.coordinate_descent_tuning": True})
    assert name in active(AUTOTUNED)


def test_convolutions_only_with_the_vae() -> None:
    assert "inductor.conv_1x1_as_mm" not in active({"compile.scope": "full"})
    assert "inductor.conv_1x1_as_mm" in active({"compile.vae": True})
    assert "inductor.aggressive_fusion" in active({"compile.vae": True})


def test_tf32_only_in_float32() -> None:
    assert "matmul.tf32" in values({"precision.dtype": "float32"})
    assert "matmul.tf32" not in values({"precision.dtype": "bfloat16"})


@pytest.mark.parametrize(
    ("different", "refused"),
    [
        ({"inductor.coordinate_descent_tuning": True}, "inductor.coordinate_descent_tuning"),
        ({"inductor.persistent_tma_matmul": True, "inductor.max_autotune_gemm_backends": "ATEN"},
         "inductor.persistent_tma_matmul"),
        ({"inductor.epilogue_fusion": False, "inductor.max_autotune_gemm_backends": "ATEN"},
         "inductor.max_autotune_gemm_backends"),
        ({"inductor.emulate_precision_casts": True, "precision.dtype": "float32"}, "inductor.emulate_precision_casts"),
    ],
)  # fmt: skip
def test_flags_that_leave_each_other_nothing_to_do(different: Values, refused: str) -> None:
    chosen = values({**AUTOTUNED, "precision.dtype": "bfloat16", **different})
    assert [name for name in chosen if KNOBS[name].conflict_reason(chosen, kind())] == [refused]


@pytest.mark.parametrize(
    ("name", "value", "here", "there"),
    [
        ("inductor.persistent_tma_matmul", True, "9.0", "8.9"),
        ("matmul.tf32", True, "8.0", "7.5"),
        ("inductor.epilogue_fusion", False, "7.5", None),
        ("cudnn.benchmark", True, "7.5", None),
    ],
)
def test_flags_for_gpus(name: str, value: Value, here: str, there: str | None) -> None:
    def reason(capability: str) -> str | None:
        gpu = msgspec.structs.replace(GPU, compute_capability=capability)
        return KNOBS[name].unavailable_reason(value, gpu, kind())

    assert reason(here) is None
    assert there is None or f"this GPU has {there}" in str(reason(there))
    assert KNOBS[name].unavailable_reason(value, CPU, kind())
    assert KNOBS[name].unavailable_reason(KNOBS[name].choices[0], CPU, kind()) is None


# ---- what a flag does -----------------------------------------------------------------------------------------------


def one_pixel(**named: Any) -> Any:
    import torch

    return torch.nn.Conv2d(8, 8, **{"kernel_size": 1, **named})


def with_shortcut() -> Any:
    """A VAE whose decoder has a 1x1 convolution, as real ones do where the channels change."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 16), norm_num_groups=4, latent_channels=4, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1,
    ).eval()  # fmt: skip


def test_convolutions_of_one_pixel_are_counted_where_they_are_compiled() -> None:
    import torch

    knob = KNOBS["inductor.conv_1x1_as_mm"]
    chosen: Values = {"compile.scope": "none", "compile.vae": True, knob.name: True}
    wide = SimpleNamespace(vae=torch.nn.Sequential(one_pixel(kernel_size=3), one_pixel(stride=2), one_pixel(groups=2)))
    with pytest.raises(NoEffect, match="no 1x1 convolution"):
        knob.apply(wide, chosen)
    assert "2 convolutions" in knob.apply(SimpleNamespace(vae=with_shortcut()), chosen)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_convolutions_of_one_pixel_become_products_and_decode_the_same() -> None:
    import torch
    from torch._inductor.utils import run_and_get_code

    vae = with_shortcut()
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = vae.decode(latents).sample
        codes = {}
        for flag in (False, True):
            torch._dynamo.reset()
            if flag:
                values_ = {"compile.scope": "none", "inductor.conv_1x1_as_mm": True}
                KNOBS["inductor.conv_1x1_as_mm"].apply(SimpleNamespace(vae=vae), values_)
            decoded, codes[flag] = run_and_get_code(torch.compile(vae.decode, dynamic=False), latents)
            assert torch.allclose(decoded.sample, plain, atol=1e-4)
    assert codes[True] != codes[False]
