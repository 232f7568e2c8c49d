"""Quantization: refused with a reason where it cannot work, and otherwise done to the layers that it suits."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pipelines
import pytest
from kinds import kind

from tuner.errors import Unavailable
from tuner.hardware.environment import detect
from tuner.knobs import KNOBS, NoEffect, apply_knobs, static_fp8
from tuner.knobs.base import denoisers
from tuner.knobs.compile import repeated_blocks
from tuner.knobs.gguf import UNPACKED_ONLY, single_file_classes
from tuner.knobs.quantization import SCHEMES, criteria_code, is_converted, linear_layers, quantizable
from tuner.records.codec import Value, Values
from tuner.records.machine import Environment

SCHEME, GGUF = KNOBS["quantization.scheme"], KNOBS["quantization.gguf_file"]
CPU = detect("cpu")
PACKAGES = {"torchao": "0.18.0", "bitsandbytes": "0.50.2", "optimum-quanto": "0.2.7", "gguf": "0.19.0"}
needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
needs_quanto = pytest.mark.skipif(find_spec("optimum") is None, reason="optimum-quanto is not installed")
needs_gguf = pytest.mark.skipif(find_spec("gguf") is None, reason="gguf is not installed")


def machine(capability: str | None, **libraries: str) -> Environment:
    """A GPU of this compute capability, or a CPU."""
    return Environment(
        device="cuda" if capability else "cpu", device_name="it", compute_capability=capability,
        device_memory_bytes=2**34 if capability else None, driver="580" if capability else None, cpu_count=8,
        cpp_compiler="/usr/bin/g++", python="3.11.7", platform="Linux", libraries={"torch": "2.13.0", **libraries},
    )  # fmt: skip


# ---- where a value can work -----------------------------------------------------------------------------------------

EVERYWHERE = {"none", "int8-weight-only", "quanto-int8"}
ON_CPU = EVERYWHERE | {"int8-dynamic", "fp8-static-tensor"}
TURING = EVERYWHERE | {"bnb-nf4"}
AMPERE = TURING | {"int8-dynamic", "int4-weight-only"}
ADA = AMPERE | {"fp8-weight-only", "fp8-dynamic-row", "fp8-dynamic-tensor", "fp8-static-tensor"}
BLACKWELL = ADA | {"mxfp8", "nvfp4"}


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        (None, ON_CPU),
        ("7.5", TURING),
        ("8.0", AMPERE),
        ("8.9", ADA),
        ("9.0", ADA),
        ("10.0", BLACKWELL),
        ("12.0", BLACKWELL),
    ],
)
def test_with_every_package_it_is_the_device_that_decides(capability: str | None, expected: set[Value]) -> None:
    here = machine(capability, **PACKAGES)
    assert {value for value in SCHEME.choices if SCHEME.unavailable_reason(value, here, kind()) is None} == expected


@pytest.mark.parametrize("capability", [None, "7.5", "8.0", "8.9", "9.0", "10.0", "12.0"])
@pytest.mark.parametrize("value", [*(name for name, scheme in SCHEMES.items() if scheme.package), "nunchaku"])
def test_without_packages_nothing_works_and_the_reason_is_one_line(value: str, capability: str | None) -> None:
    reason = SCHEME.unavailable_reason(value, machine(capability), kind())
    assert reason
    assert "\n" not in reason


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        ("int8-dynamic", "pip install 'torchao>=0.18'"),
        ("bnb-nf4", "pip install 'bitsandbytes>=0.46'"),
        ("quanto-int8", "pip install 'optimum-quanto>=0.2.6'"),
        ("nunchaku", "no kernels for compute capability 9.0"),
    ],
)
def test_a_refusal_names_its_remedy(value: str, remedy: str) -> None:
    assert remedy in str(SCHEME.unavailable_reason(value, machine("9.0"), kind()))


def test_bitsandbytes_is_refused_where_it_would_download_code() -> None:
    here = machine("9.0", kernels="0.15.0", **PACKAGES)
    assert "pip uninstall kernels" in str(SCHEME.unavailable_reason("bnb-nf4", here, kind()))


def test_an_old_package_is_too_old() -> None:
    assert "is too old" in str(SCHEME.unavailable_reason("int8-dynamic", machine("9.0", torchao="0.9.0"), kind()))


@pytest.mark.parametrize(
    ("scheme", "dtype", "scope", "reason"),
    [
        ("int8-dynamic", "float32", "none", "uncompiled"),
        ("int8-dynamic", "float32", "regional", None),
        ("int8-weight-only", "float32", "none", None),
        ("fp8-dynamic-row", "float16", "full", "bfloat16"),
        ("fp8-dynamic-tensor", "float16", "full", None),
        ("fp8-dynamic-tensor", "float32", "full", "bfloat16 or float16"),
        ("int4-weight-only", "float16", "full", "bfloat16"),
        ("int4-weight-only", "bfloat16", "none", None),
        ("mxfp8", "bfloat16", "none", "uncompiled"),
        ("nvfp4", "bfloat16", "regional", None),
        ("bnb-nf4", "float16", "none", None),
        ("none", "float32", "none", None),
    ],
)
def test_conflicts(scheme: str, dtype: str, scope: str, reason: str | None) -> None:
    values: Values = {"quantization.scheme": scheme, "precision.dtype": dtype, "compile.scope": scope}
    said = SCHEME.conflict_reason(values, kind())
    assert said is None if reason is None else (said is not None and reason in said)


# ---- which layers ---------------------------------------------------------------------------------------------------

FEW_ROWS = 4
"""With one prompt and guidance a layer that sees the prompt or the time alone has two rows."""


def rows_of(pipe: Any, family: str) -> dict[str, int]:
    """How many rows each linear layer of the denoisers multiplies at least, while one prompt is drawn."""
    import torch

    rows: dict[str, int] = {}

    def watch(name: str) -> Callable[[Any, Any], None]:
        def note(_: Any, arguments: Any) -> None:
            seen = arguments[0].numel() // arguments[0].shape[-1]
            rows[name] = min(seen, rows.get(name, seen))

        return note

    hooks = [
        module.register_forward_pre_hook(watch(f"{number}.{name}"))
        for number, denoiser in enumerate(denoisers(pipe))
        for name, module in linear_layers(denoiser)
    ]
    size = {"num_inference_steps": 2, "height": 64, "width": 64, "output_type": "latent"}
    pipe(prompt=["a red cat"], generator=torch.Generator().manual_seed(0), **size, **pipelines.CALL.get(family, {}))
    for hook in hooks:
        hook.remove()
    return rows


@pytest.mark.parametrize("family", sorted(pipelines.BUILDERS))
def test_the_filter_takes_what_multiplies_many_rows(family: str) -> None:
    """In every family: all of the blocks' large products, and none of the products of one row an image."""
    pipe = pipelines.build(family)
    pipe.set_progress_bar_config(disable=True)
    rows = rows_of(pipe, family)
    for number, denoiser in enumerate(denoisers(pipe)):
        blocks = set(getattr(denoiser, "_repeated_blocks", None) or ())
        inside = tuple(f"{name}." for name, module in denoiser.named_modules() if type(module).__name__ in blocks)
        taken = {
            name
            for name, module in linear_layers(denoiser)
            if quantizable(module, name, "int8-weight-only", type(denoiser).__name__)
        }
        assert taken
        few = {name for name in taken if rows.get(f"{number}.{name}", FEW_ROWS + 1) <= FEW_ROWS}
        assert not few, "products of one row are quantized"
        missed = {
            name
            for name, _ in linear_layers(denoiser)
            if inside and name.startswith(inside) and "embedder" not in name and name not in taken
            if rows.get(f"{number}.{name}", 0) > FEW_ROWS
        }
        assert not missed, "products of many rows are left out"


def test_short_prompts_are_kept_from_int8_kernels() -> None:
    """Qwen-Image's text layers see as many rows as the prompt has tokens, and int8 kernels want more than 16."""
    denoiser = pipelines.build("qwen-image").transformer
    name = type(denoiser).__name__
    layers = dict(linear_layers(denoiser))
    text = "transformer_blocks.0.attn.add_q_proj"
    assert quantizable(layers[text], text, "int8-weight-only", name)
    assert not quantizable(layers[text], text, "int8-dynamic", name)
    assert quantizable(layers[text], text, "int8-dynamic", "FluxTransformer2DModel")


@pytest.mark.parametrize(
    ("sides", "scheme", "suits"),
    [
        ((64, 64), "int4-weight-only", True),
        ((96, 64), "int4-weight-only", False),
        ((96, 64), "mxfp8", True),
        ((48, 64), "mxfp8", False),
        ((48, 64), "nvfp4", True),
        ((48, 24), "int8-dynamic", False),
        ((20, 64), "fp8-dynamic-row", False),
    ],
)
def test_sides_must_suit_the_kernel(sides: tuple[int, int], scheme: str, suits: bool) -> None:
    import torch

    assert (
        quantizable(torch.nn.Linear(*sides), "transformer_blocks.0.ff.net.2", scheme, "FluxTransformer2DModel") is suits
    )


@pytest.mark.parametrize("scheme", ["int8-dynamic", "fp8-dynamic-row", "fp8-static-tensor"])
def test_what_a_regional_compile_leaves_uncompiled_is_not_converted(scheme: str) -> None:
    denoiser = pipelines.build("sdxl").unet
    blocks = {id(layer) for block in repeated_blocks(denoiser) for layer in block.modules()}
    name = type(denoiser).__name__
    chosen = [layer for path, layer in linear_layers(denoiser) if quantizable(layer, path, scheme, name)]
    assert chosen
    assert all(id(layer) in blocks for layer in chosen)


@pytest.mark.parametrize("family", ["sdxl", "qwen-image", "flux"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_exported_code_chooses_the_same_layers(scheme: str, family: str) -> None:
    for denoiser in denoisers(pipelines.build(family)):
        criteria = criteria_code(scheme)
        names = {function.__name__: function for function in criteria.values()}
        for path, layer in linear_layers(denoiser):
            here = {**names, "denoiser": denoiser, "module": layer, "name": path}
            is_chosen = all(eval(text, here) for text in criteria)
            assert is_chosen is quantizable(layer, path, scheme, type(denoiser).__name__), path


def test_what_is_quantized_already_is_left_alone(tiny: Callable[[], Any]) -> None:
    pipe = tiny()
    SCHEME.apply(pipe, {"quantization.scheme": "int8-weight-only"})
    with pytest.raises(NoEffect, match="no linear layer"):
        SCHEME.apply(pipe, {"quantization.scheme": "int8-weight-only"})


# ---- on a pipeline --------------------------------------------------------------------------------------------------


def load(folder: Path) -> Any:
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(autouse=True)
def usual_call(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    """Take the scales of static fp8 from small images and short videos: the default sizes take minutes on a CPU."""
    usual = static_fp8.short_call
    small = {"height": 64, "width": 64, "num_inference_steps": 2}
    monkeypatch.setattr(static_fp8, "short_call", lambda pipe: {**usual(pipe), **small})
    return usual


@pytest.fixture
def tiny(tiny_pipeline: Path) -> Callable[[], Any]:
    return lambda: load(tiny_pipeline)


def draw(pipe: Any, family: str = "flux") -> Any:
    import torch

    more = {"num_inference_steps": 2, "height": 32, "width": 32, "output_type": "np", **pipelines.CALL.get(family, {})}
    drawn = pipe(prompt=["a red cat"], generator=torch.Generator().manual_seed(0), **more)
    return np.asarray(drawn.images if hasattr(drawn, "images") else drawn.frames)


IN_PLACE = [
    "int8-weight-only",
    "int8-dynamic",
    "fp8-static-tensor",
    pytest.param("bnb-nf4", marks=needs_bitsandbytes),
    pytest.param("quanto-int8", marks=needs_quanto),
]


@pytest.mark.parametrize("scheme", IN_PLACE)
@pytest.mark.parametrize("family", pipelines.FAMILIES)
def test_a_scheme_changes_the_blocks_of_every_family(
    family: str, scheme: str, pipeline_folder: Callable[[str], Path]
) -> None:
    untouched = load(pipeline_folder(family))
    pipe = load(pipeline_folder(family))
    said = SCHEME.apply(pipe, {"quantization.scheme": scheme})
    layers = linear_layers(denoisers(pipe)[0])
    changed = [name for name, module in layers if is_converted(module.weight, scheme)]
    assert said == f"{len(changed)} of {len(layers)} linear layers in {scheme}"
    assert 0 < len(changed) < len(layers)
    drawn, before = draw(pipe, family), draw(untouched, family)
    assert np.isfinite(drawn).all()
    assert drawn.std() > 0.01
    assert not np.array_equal(drawn, before)
    assert np.abs(drawn - before).mean() < 0.15


@pytest.mark.parametrize("scheme", IN_PLACE)
def test_fused_projections_are_quantized_too(scheme: str, tiny: Callable[[], Any]) -> None:
    pipe = tiny()
    changes = apply_knobs(pipe, {"fuse_qkv": True, "quantization.scheme": scheme}, CPU)
    assert list(changes) == ["fuse_qkv", "quantization.scheme"]
    weight = pipe.transformer.transformer_blocks[0].attn.to_qkv.weight
    assert is_converted(weight, scheme)
    assert np.isfinite(draw(pipe)).all()


@pytest.mark.parametrize("scheme", IN_PLACE)
def test_a_quantized_block_is_one_graph(scheme: str, tiny: Callable[[], Any]) -> None:
    import torch

    pipe = tiny()
    SCHEME.apply(pipe, {"quantization.scheme": scheme})
    expected = draw(pipe)
    for block in pipe.transformer.single_transformer_blocks:
        block.forward = torch.compile(block.forward, backend="eager", fullgraph=True, dynamic=False)
    try:
        assert np.allclose(draw(pipe), expected, atol=0.02)
    finally:
        torch._dynamo.reset()


def test_torchao_leaves_inductors_flags_alone(tiny: Callable[[], Any]) -> None:
    from torch._inductor import config

    before = (config.coordinate_descent_tuning, config.epilogue_fusion, config.force_fuse_int_mm_with_mul)
    SCHEME.apply(tiny(), {"quantization.scheme": "int8-dynamic"})
    assert before == (config.coordinate_descent_tuning, config.epilogue_fusion, config.force_fuse_int_mm_with_mul)


@pytest.mark.parametrize("scheme", [name for name, scheme in SCHEMES.items() if scheme.tensor_package == "torchao"])
def test_torchao_takes_every_configuration(scheme: str) -> None:
    from torchao.core.config import AOBaseConfig

    from tuner.knobs.torchao_configs import CONFIGS

    config = CONFIGS[scheme]()
    assert isinstance(config, AOBaseConfig)
    assert getattr(config, "set_inductor_config", False) is False


@pytest.mark.parametrize("scheme", ["fp8-dynamic-row", "fp8-dynamic-tensor"])
def test_zeros_are_numbers_in_fp8(scheme: str) -> None:
    """SDXL gives the denoiser zeros for an empty negative prompt."""
    import torch
    from torchao.quantization import Float8Tensor

    from tuner.knobs.torchao_configs import CONFIGS

    config = CONFIGS[scheme]()
    granularity = config.granularity[0] if isinstance(config.granularity, (list, tuple)) else config.granularity
    packed = Float8Tensor.from_hp(
        torch.zeros(32, 64, dtype=torch.bfloat16), granularity=granularity, hp_value_lb=config.activation_value_lb
    )
    assert (packed.dequantize() == 0).all()


INT8_PRODUCTS = """
import sys
import torch
from torch._dynamo.utils import counters
from torchao.quantization import Int8WeightOnlyConfig, quantize_
from tuner.knobs.torchao_configs import avoid_int8pack

if sys.argv[1] == "kept":
    avoid_int8pack()
linear = torch.nn.Linear(64, 64, bias=False).to(torch.bfloat16)
quantize_(linear, Int8WeightOnlyConfig(set_inductor_config=False))
seen = torch.randn(2, 32, 64, dtype=torch.bfloat16)
with torch.no_grad():
    torch.compile(linear)(seen)
print(counters["inductor"]["woq_matcher_count"])
"""


@pytest.mark.exhaustive
@pytest.mark.slow
def test_inductor_is_kept_from_the_int8_product_without_tensor_cores() -> None:
    def matched(how: str) -> int:
        command = [sys.executable, "-c", INT8_PRODUCTS, how]
        environment = {**os.environ, "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600, env=environment)
        return int(done.stdout)

    assert matched("as it is") == 1
    assert matched("kept") == 0


def test_static_scales_follow_what_a_layer_is_given(tiny: Callable[[], Any]) -> None:
    """Layers with one input share its scale, and a product is that of the untouched layer but for rounding to fp8."""
    import torch

    pipe = tiny()
    untouched = tiny().transformer.transformer_blocks[0]
    SCHEME.apply(pipe, {"quantization.scheme": "fp8-static-tensor"})
    block = pipe.transformer.transformer_blocks[0]
    assert block.attn.to_q.input_scale is block.attn.to_k.input_scale is block.attn.to_v.input_scale
    assert block.attn.to_q.input_scale is not block.attn.add_q_proj.input_scale
    layer, before = block.ff.net[2], untouched.ff.net[2]
    seen = float(layer.input_scale) * torch.finfo(torch.float8_e4m3fn).max / static_fp8.HEADROOM
    given = torch.rand(2, 5, before.in_features) * seen
    product, expected = layer(given), before(given)
    assert product.shape == expected.shape
    assert 0 < (product - expected).norm() / expected.norm() < 0.05
    columns = given[:1].transpose(1, 2).contiguous().transpose(1, 2)  # as SDXL gives its images with a batch of one
    assert layer(columns).equal(layer(given[:1]))
    assert torch.isfinite(layer(given * 1e6)).all()
    assert "weight" not in dict(layer.named_parameters())
    assert pipe.transformer.dtype == torch.float32


@pytest.mark.parametrize(("family", "frames"), [("sdxl", {}), ("wan", {"num_frames": 17})])
def test_scales_come_from_a_short_call(family: str, frames: dict[str, int], usual_call: Callable[[Any], Any]) -> None:
    call = usual_call(pipelines.build(family))
    assert call == {"num_inference_steps": 12, "output_type": "latent", **frames}


def test_a_layer_that_is_never_called_stays_as_it_is(tiny: Callable[[], Any]) -> None:
    import torch

    pipe = tiny()
    idle = torch.nn.Linear(64, 64)
    pipe.transformer.transformer_blocks[0].register_module("idle", idle)
    said = SCHEME.apply(pipe, {"quantization.scheme": "fp8-static-tensor"})
    assert idle.weight.dtype == torch.float32
    name = type(pipe.transformer).__name__
    fresh = tiny().transformer
    suit = [path for path, layer in linear_layers(fresh) if quantizable(layer, path, "fp8-static-tensor", name)]
    assert said.startswith(f"{len(suit)} of {len(linear_layers(pipe.transformer))} linear layers")


def test_a_microscaled_weight_is_made(tiny: Callable[[], Any]) -> None:
    """The conversion works anywhere; the product needs the hardware."""
    import torch

    pipe = tiny().to(torch.bfloat16)
    assert SCHEME.apply(pipe, {"quantization.scheme": "mxfp8"}).endswith("linear layers in mxfp8")


# ---- gguf -----------------------------------------------------------------------------------------------------------


def write_gguf(model: Any, file: Path, packed: bool = True) -> int:
    """A file with the model's weights under diffusers' names, those of even rows in 8 bits; how many are packed."""
    import gguf

    writer = gguf.GGUFWriter(str(file), "flux")
    count = 0
    for name, parameter in model.state_dict().items():
        data = parameter.float().numpy()
        if packed and ".attn.to_" in name and name.endswith("weight") and data.shape[-1] % 32 == 0:
            kind_ = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(data, kind_), raw_dtype=kind_)
            count += 1
        else:
            writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return count


@pytest.fixture
def gguf_file(tiny: Callable[[], Any], tmp_path: Path) -> Path:
    write_gguf(tiny().transformer, tmp_path / "weights.gguf")
    return tmp_path / "weights.gguf"


@needs_gguf
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gguf_file_replaces_the_weights(dtype: str, gguf_file: Path, tiny: Callable[[], Any]) -> None:
    import torch

    before = draw(tiny())
    pipe = tiny().to(getattr(torch, dtype))
    old = pipe.transformer
    said = GGUF.apply(pipe, {"quantization.gguf_file": str(gguf_file)})
    packed = sum(hasattr(parameter, "quant_type") for parameter in pipe.transformer.parameters())
    assert said == f"{packed} packed weights from weights.gguf"
    assert packed > 0
    assert pipe.transformer is not old
    assert dict(pipe.transformer.config) | {"_name_or_path": 0} == dict(old.config) | {"_name_or_path": 0}
    drawn = draw(pipe)
    assert np.isfinite(drawn).all()
    assert 0 < np.abs(drawn - before).mean() < 0.05


@needs_gguf
def test_a_gguf_file_comes_before_everything_else(gguf_file: Path, tiny: Callable[[], Any]) -> None:
    values: Values = {"attention.backend": "_native_math", "quantization.gguf_file": str(gguf_file)}
    pipe = tiny()
    changes = apply_knobs(pipe, values, CPU)
    assert list(changes) == ["quantization.gguf_file", "attention.backend"]
    backend = pipe.transformer.transformer_blocks[0].attn.processor._attention_backend
    assert str(backend.value) == "_native_math"


@needs_gguf
def test_a_gguf_file_without_packed_weights_has_no_effect(tiny: Callable[[], Any], tmp_path: Path) -> None:
    write_gguf(tiny().transformer, tmp_path / "plain.gguf", packed=False)
    with pytest.raises(NoEffect, match="no quantized weights"):
        GGUF.apply(tiny(), {"quantization.gguf_file": str(tmp_path / "plain.gguf")})


@pytest.mark.parametrize("value", ["", "model.gguf", "./model.gguf", "/tmp/model.safetensors", 1, True, None, "None"])
def test_only_an_absolute_path_of_a_gguf_file_will_do(value: Any) -> None:
    assert GGUF.invalid_reason(value) == "must be none or the absolute path of a .gguf file"


def test_a_gguf_file_is_refused_with_a_reason(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.gguf", tmp_path / "bad.gguf"
    good.write_bytes(b"GGUF\3\0\0\0")
    bad.write_bytes(b"PK\3\4 not one")
    with_gguf = machine("9.0", **PACKAGES)

    def reason(file: Path | str, here: Environment = with_gguf, pipeline_class: str = "FluxPipeline") -> str | None:
        return GGUF.unavailable_reason(str(file), here, kind(pipeline_class))

    assert GGUF.invalid_reason(str(good)) is None
    assert reason(good) is None
    assert reason("none") is None
    assert "is no GGUF file" in str(reason(bad))
    assert "there is no" in str(reason(tmp_path / "missing.gguf"))
    os.mkfifo(tmp_path / "pipe.gguf")
    assert "no regular file" in str(reason(tmp_path / "pipe.gguf"))
    assert "cannot be read" in str(reason("/" + "x" * 5000 + ".gguf"))
    assert "cannot be read" in str(reason("/a\0b.gguf"))
    assert "pip install 'gguf>=0.10'" in str(reason(good, machine("9.0")))
    assert "reads no single file" in str(reason(good, with_gguf, "PixArtSigmaPipeline"))
    with pytest.raises(Unavailable, match="there is no"):
        GGUF.apply(SimpleNamespace(), {"quantization.gguf_file": str(tmp_path / "missing.gguf")})


def test_a_gguf_file_excludes_other_quantization_and_fusing() -> None:
    assert not GGUF.is_active({"quantization.scheme": "int8-dynamic"})
    assert GGUF.is_active({"quantization.scheme": "none"})
    assert (
        GGUF.conflict_reason({"quantization.gguf_file": "/a.gguf", "fuse_qkv": True}, kind())
        == "packed weights cannot be fused"
    )
    assert GGUF.conflict_reason({"quantization.gguf_file": "none", "fuse_qkv": True}, kind()) is None
    for name, untouched, reason in UNPACKED_ONLY:
        assert KNOBS[name].choices[0] == untouched
        assert GGUF.conflict_reason({"quantization.gguf_file": "/a.gguf", name: untouched}, kind()) is None
        assert GGUF.conflict_reason({"quantization.gguf_file": "/a.gguf", name: "another"}, kind()) == reason


def test_the_classes_of_single_files_are_those_of_diffusers() -> None:
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES

    assert single_file_classes() == set(SINGLE_FILE_LOADABLE_CLASSES)
