"""Attention: every backend of diffusers' dispatcher is known, refused with a reason where it cannot work, and works."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pipelines
import pytest
from kinds import COMPONENTS, kind

from tuner.hardware.environment import detect
from tuner.knobs import KNOBS, NoEffect
from tuner.knobs.attention import BACKENDS, FROM_HUB, IMPLEMENTATIONS, MASKED, OWN
from tuner.quality.similarity import psnr_and_ssim
from tuner.records.codec import Value, Values
from tuner.records.machine import Environment
from tuner.space.candidates import image_key

BACKEND, FLASH = KNOBS["attention.backend"], KNOBS["attention.flash_impl"]
CPU = detect("cpu")
PACKAGES = {
    "flash-attn": "2.8.3.post2", "flash-attn-3": "3.0.0b1", "flash-attn-4": "4.0.0b36", "sageattention": "2.2.0",
    "xformers": "0.0.35+cu130", "kernels": "0.15.0", "nvidia-cudnn-frontend": "1.18.0",
}  # fmt: skip
GENERATIONS = ("7.5", "8.0", "8.9", "9.0", "10.0", "12.0")


def gpu(capability: str, **libraries: str) -> Environment:
    return Environment(
        device="cuda", device_name="a GPU", compute_capability=capability, device_memory_bytes=2**34, driver="580",
        cpu_count=8, cpp_compiler="/usr/bin/g++", python="3.11.7", platform="Linux",
        libraries={"torch": "2.13.0", "triton": "3.6.0", **libraries},
    )  # fmt: skip


def available(environment: Environment, pipeline_class: str = "FluxPipeline") -> set[str]:
    return {name for name in BACKENDS if BACKEND.unavailable_reason(name, environment, kind(pipeline_class)) is None}


# ---- the table ------------------------------------------------------------------------------------------------------


def test_the_table_has_every_backend_of_diffusers() -> None:
    from diffusers.models.attention_dispatch import AttentionBackendName

    assert set(BACKENDS) - set(OWN) == {backend.value for backend in AttentionBackendName}
    assert BACKEND.choices[0] == "native"


def test_the_least_versions_are_those_of_diffusers() -> None:
    from diffusers.models import attention_dispatch as dispatch

    assert BACKENDS["flash"].package == ("flash-attn", dispatch._REQUIRED_FLASH_VERSION)
    assert BACKENDS["sage"].package == ("sageattention", dispatch._REQUIRED_SAGE_VERSION)
    assert BACKENDS["xformers"].package == ("xformers", dispatch._REQUIRED_XFORMERS_VERSION)


def test_what_diffusers_downloads_is_never_offered() -> None:
    from diffusers.models.attention_dispatch import _HUB_KERNELS_REGISTRY

    assert {name for name, backend in BACKENDS.items() if backend.refused == FROM_HUB} == {
        backend.value for backend in _HUB_KERNELS_REGISTRY
    }


def test_types_and_masks_are_those_of_diffusers() -> None:
    """Backends that diffusers checks for half precision take no float32; those that raise on a mask take none."""
    import inspect

    from diffusers.models import attention_dispatch as dispatch

    for name in BACKENDS.keys() - set(OWN):
        backend = BACKENDS[name]
        key = dispatch.AttentionBackendName(name)
        checks = dispatch._AttentionBackendRegistry._constraints[key]
        if dispatch._check_qkv_dtype_bf16_or_fp16 in checks or dispatch._check_qkv_dtype_bf16 in checks:
            assert not backend.takes_float32, name
        if "`attn_mask` is not supported" in inspect.getsource(dispatch._AttentionBackendRegistry._backends[key]):
            assert not backend.takes_mask, name


def test_every_class_with_a_mask_is_one_of_diffusers() -> None:
    import diffusers

    assert all(hasattr(diffusers, name) for name in MASKED)


# ---- where a value can work -----------------------------------------------------------------------------------------

TORCH_ONLY = {"native", "_native_flash", "_native_cudnn", "_native_efficient", "_native_math", "flex"}
AMPERE = TORCH_ONLY | {"flash", "xformers", "sage", "_sage_qk_int8_pv_fp16_triton", "_sage_qk_int8_pv_fp16_cuda"}


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ("7.5", {"native", "_native_efficient", "_native_math", "flex", "xformers"}),
        ("8.0", AMPERE),
        ("8.9", AMPERE),
        ("9.0", AMPERE | {"_flash_3", "_sage_qk_int8_pv_fp8_cuda", "_sage_qk_int8_pv_fp8_cuda_sm90", "cudnn_fp8"}),
        ("10.0", (AMPERE | {"cudnn_fp8"}) - {"sage", "_sage_qk_int8_pv_fp16_cuda"}),
        ("12.0", AMPERE | {"_sage_qk_int8_pv_fp8_cuda"}),
    ],
)
def test_with_every_package_it_is_the_gpu_that_decides(capability: str, expected: set[str]) -> None:
    assert available(gpu(capability, **PACKAGES)) == expected


def test_without_packages_torch_is_what_there_is() -> None:
    assert available(gpu("9.0")) == TORCH_ONLY
    assert available(CPU) == {"native", "_native_flash", "_native_math", "flex"}


@pytest.mark.parametrize("name", BACKENDS)
def test_every_refusal_is_one_line(name: str) -> None:
    environments = [CPU, *(gpu(generation) for generation in GENERATIONS), gpu("9.0", **PACKAGES)]
    for environment in environments:
        for pipeline_class in COMPONENTS:
            reason = BACKEND.unavailable_reason(name, environment, kind(pipeline_class))
            assert reason is None or (reason.strip() and "\n" not in reason)


@pytest.mark.parametrize(
    ("name", "libraries", "remedy"),
    [
        ("flash", {}, "flash-attn is not installed (pip install 'flash-attn>=2.6.3')"),
        ("flash", {"flash-attn": "2.5.9"}, "flash-attn 2.5.9 is too old"),
        ("_flash_3", {}, "build it from the folder hopper"),
        ("sage", {"sageattention": "1.0.6"}, "build it from github.com/thu-ml/SageAttention"),
        ("xformers", {"xformers": "0.0.28.post3"}, "pip install 'xformers>=0.0.29'"),
        ("cudnn_fp8", {}, "pip install 'nvidia-cudnn-frontend>=1.18'"),
    ],
)
def test_a_missing_package_names_its_remedy(name: str, libraries: dict[str, str], remedy: str) -> None:
    reason = BACKEND.unavailable_reason(name, gpu("9.0", **libraries), kind())
    assert reason is not None
    assert remedy in reason


def test_a_pipeline_without_the_dispatcher_has_only_torch() -> None:
    for pipeline_class in ("StableDiffusion3Pipeline", "StableDiffusionXLPipeline", "PixArtSigmaPipeline"):
        assert available(gpu("9.0", **PACKAGES), pipeline_class) == {"native"}


def test_a_mask_leaves_the_backends_that_take_one() -> None:
    expected = {"native", "_native_cudnn", "_native_efficient", "_native_math", "xformers"}
    assert available(gpu("9.0", **PACKAGES), "LTXPipeline") == expected


@pytest.mark.parametrize(
    ("value", "environment", "reason"),
    [
        ("FA3", gpu("9.0", **PACKAGES), None),
        ("FA4", gpu("9.0", **PACKAGES), None),
        ("FA4", gpu("10.0", **PACKAGES), None),
        ("FA3", gpu("10.0", **PACKAGES), "9.x"),
        ("FA4", gpu("12.0", **PACKAGES), "9.x or 10.x"),
        ("FA3", gpu("8.9", **PACKAGES), "compute capability 9.0"),
        ("FA3", CPU, "needs a GPU"),
        ("FA3", gpu("9.0"), "hopper"),
        ("FA4", gpu("9.0"), "pip install --pre flash-attn-4"),
    ],
)
def test_flash_implementations_need_their_gpu_and_package(
    value: str, environment: Environment, reason: str | None
) -> None:
    said = FLASH.unavailable_reason(value, environment, kind())
    assert said is None if reason is None else (said is not None and reason in said)


def test_the_flash_implementations_are_those_of_torch() -> None:
    from torch.nn import attention

    assert set(IMPLEMENTATIONS) == set(attention.list_flash_attention_impls())


@pytest.mark.parametrize(("backend", "active"), [("native", False), ("_native_flash", True), ("flash", False)])
def test_a_flash_implementation_matters_to_torchs_flash_only(backend: str, active: bool) -> None:
    assert FLASH.is_active({"attention.backend": backend}) is active


# ---- beside other values --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("different", "reason"),
    [
        ({"attention.backend": "flex"}, "when compiled"),
        ({"attention.backend": "flex", "compile.scope": "regional"}, None),
        ({"attention.backend": "flash", "precision.dtype": "float32"}, "no float32 kernel"),
        ({"attention.backend": "_native_efficient", "precision.dtype": "float32"}, None),
        ({"attention.backend": "_native_cudnn"}, None),
    ],
)
def test_conflicts(different: Values, reason: str | None) -> None:
    said = BACKEND.conflict_reason({"compile.scope": "none", "precision.dtype": "bfloat16", **different}, kind())
    assert said is None if reason is None else (said is not None and reason in said)


@pytest.mark.parametrize("value", ["", "Native", "native ", "NATIVE", "flash2", 1, True, None])
def test_what_is_no_backend_is_wrong(value: Any) -> None:
    assert BACKEND.invalid_reason(value) == "must be native or another of the 28 attention backends"


@pytest.mark.parametrize(("name", "changes"), [("sage", True), ("_sage_qk_int8_pv_fp8_cuda", True), ("flash", False)])
def test_only_an_approximate_backend_changes_the_image(name: str, changes: bool) -> None:
    assert BACKEND.changes_image(name) is changes
    values: Values = {"attention.backend": "native", "steps": 28}
    assert (image_key(values) != image_key({**values, "attention.backend": name})) is changes


# ---- on a pipeline --------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def process_state() -> Iterator[None]:
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry
    from torch.nn import attention

    backend = Registry._active_backend
    yield
    Registry._active_backend = backend
    attention.restore_flash_attention_impl(_raise_warn=False)


def load(folder: Path) -> Any:
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: Any, family: str, *prompts: str) -> Any:
    import torch

    more = {"num_inference_steps": 2, "height": 32, "width": 32, "output_type": "np", **pipelines.CALL.get(family, {})}
    drawn = pipe(prompt=list(prompts), generator=[torch.Generator().manual_seed(0) for _ in prompts], **more)
    return np.asarray(drawn.images if hasattr(drawn, "images") else drawn.frames)


@pytest.mark.parametrize("family", ["flux", "flux2", "qwen-image", "z-image", "wan", "ltx"])
def test_a_kernel_is_exact_on_every_family(family: str, pipeline_folder: Callable[[str], Path]) -> None:
    untouched = draw(load(pipeline_folder(family)), family, "a red cat", "the blue dog on a mat")
    pipe = load(pipeline_folder(family))
    said = BACKEND.apply(pipe, {"attention.backend": "_native_math"})
    assert said.endswith("attention processors use _native_math")
    drawn = draw(pipe, family, "a red cat", "the blue dog on a mat")
    assert np.isfinite(drawn).all()
    shape = (-1, *drawn.shape[-3:])
    assert min(psnr_and_ssim(drawn.reshape(shape), untouched.reshape(shape))[0]) > 40


def gets_masks(pipe: Any, family: str, monkeypatch: pytest.MonkeyPatch, *prompts: str) -> set[bool]:
    """Whether the attention calls of one image each had a mask."""
    import sys

    from diffusers.models import attention_dispatch as dispatch

    seen = set()

    def watched(query: Any, key: Any, value: Any, attn_mask: Any = None, **named: Any) -> Any:
        seen.add(attn_mask is not None)
        return original(query, key, value, attn_mask=attn_mask, **named)

    original = dispatch.dispatch_attention_fn
    for name, module in list(sys.modules.items()):
        if name.startswith("diffusers.models.") and vars(module).get("dispatch_attention_fn") is original:
            monkeypatch.setattr(module, "dispatch_attention_fn", watched)
    draw(pipe, family, *prompts)
    return seen


@pytest.mark.parametrize(
    "family", ["flux", "flux2", "qwen-image", "z-image", "wan", "chroma", "ltx", "hunyuan-video", "sana-video"]
)
def test_the_classes_with_a_mask_are_those_that_pass_one(
    family: str, pipeline_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = load(pipeline_folder(family))
    masked = type(pipe.transformer).__name__ in MASKED
    assert (True in gets_masks(pipe, family, monkeypatch, "a red cat")) is masked


@pytest.mark.parametrize(("value", "name"), [("FA3", "flash_attn_interface"), ("FA4", "flash_attn")])
def test_a_flash_implementation_that_is_not_there_is_an_error(value: Value, name: str) -> None:
    from importlib.util import find_spec

    if find_spec(name) is not None:
        pytest.skip(f"{name} is installed")
    with pytest.raises(ImportError, match=name):
        FLASH.apply(None, {"attention.flash_impl": value})


def test_a_flash_implementation_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.nn import attention

    class Handle:
        def remove(self) -> None:
            pass

    attention.register_flash_attention_impl("FA3", register_fn=Handle)
    try:
        assert FLASH.apply(None, {"attention.flash_impl": "FA3"}) == "torch's flash attention is FA3"
        attention.register_flash_attention_impl("FA3", register_fn=lambda: None)
        with pytest.raises(NoEffect, match="its own"):
            FLASH.apply(None, {"attention.flash_impl": "FA3"})
    finally:
        from torch.nn.attention import _fa3

        attention.register_flash_attention_impl("FA3", register_fn=_fa3.register_flash_attention_fa3)
