"""Attention in fp8: on a CPU with an attention in float32 in place of cuDNN's, and cuDNN's own on a GPU."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from drawing import CPU, draw, load
from kinds import kind

from tuner.export.source import Carried
from tuner.knobs import KNOBS, NoEffect, fp8_attention, other_arithmetic, require_effects
from tuner.knobs.fp8_attention import CUDNN_FP8, MIN_KEYS, attend, graph_for, scales_on
from tuner.records.codec import Values

BACKEND = KNOBS["attention.backend"]
VALUES: Values = {"attention.backend": CUDNN_FP8}


class OnCpu:
    """Computes what cuDNN's graph does, given and giving fp8."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.calls = 0

    def run(self, q: Any, k: Any, v: Any) -> Any:
        import torch

        assert {each.dtype for each in (q, k, v)} == {torch.float8_e4m3fn}
        self.calls += 1
        query, key, value = (each.float().transpose(1, 2) for each in (q, k, v))
        output = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=self.factor)
        return output.transpose(1, 2).to(torch.float8_e4m3fn).contiguous()


@pytest.fixture(autouse=True)
def defined() -> Iterator[None]:
    """The operator, and diffusers' active backend of the process put back, which `set_attention_backend` sets."""
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry

    fp8_attention.operator()
    backend = Registry._active_backend
    yield
    Registry._active_backend = backend


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[tuple[tuple[int, ...], tuple[int, ...]], OnCpu]]:
    """The graphs that were asked for, by the shapes of queries and keys."""
    found: dict[tuple[tuple[int, ...], tuple[int, ...]], OnCpu] = {}
    monkeypatch.setattr(
        fp8_attention, "graph_for",
        lambda queries, keys, factor, device: found.setdefault((queries, keys), OnCpu(factor)),
    )  # fmt: skip
    return found


def random(*shape: int, times: float = 1.0, device: str = "cpu") -> Any:
    import torch

    generator = torch.Generator(device).manual_seed(sum(shape))
    return times * torch.randn(shape, generator=generator, dtype=torch.float32, device=device)


def exact(query: Any, key: Any, value: Any, **named: Any) -> Any:
    import torch

    swapped = (each.float().transpose(1, 2) for each in (query, key, value))
    return torch.nn.functional.scaled_dot_product_attention(*swapped, **named).transpose(1, 2)


def error(found: Any, wanted: Any) -> float:
    return float((found.float() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("times", [1e-3, 1.0, 1e3])
def test_values_of_any_size_keep_their_precision(times: float, graphs: dict[Any, OnCpu]) -> None:
    import torch

    query, key, value = random(2, 64, 2, 128), random(2, MIN_KEYS, 2, 128), random(2, MIN_KEYS, 2, 128, times=times)
    value = value * torch.tensor([1.0, 1e-4]).reshape(2, 1, 1, 1)  # each image has a scale of its own
    found, wanted = attend(query, key, value), exact(query, key, value)
    assert max(error(*each) for each in zip(found, wanted, strict=True)) < 0.06
    assert graphs.keys() == {((2, 64, 2, 128), (2, MIN_KEYS, 2, 128))}


def test_a_scale_and_zeros_are_passed_on(graphs: dict[Any, OnCpu]) -> None:
    query, key = random(1, 64, 2, 128), random(1, MIN_KEYS, 2, 128)
    value = random(1, MIN_KEYS, 2, 128) + 1
    assert error(attend(query, key, value, scale=0.2), exact(query, key, value, scale=0.2)) < 0.06
    assert (attend(query, key, 0 * value) == 0).all()


@pytest.mark.parametrize(
    ("queries", "keys", "named"),
    [
        ((1, 4096, 2, 128), (1, MIN_KEYS - 1, 2, 128), {}),
        ((1, 64, 2, 64), (1, MIN_KEYS, 2, 64), {}),
        ((1, MIN_KEYS, 2, 128), (1, MIN_KEYS, 2, 128), {"is_causal": True}),
        ((1, 64, 4, 128), (1, MIN_KEYS, 2, 128), {"enable_gqa": True}),
        ((1, 64, 2, 128), (1, 96, 2, 128), {"attn_mask": "random"}),
    ],
)
def test_what_it_does_not_suit_is_exact(queries: tuple[int, ...], keys: tuple[int, ...], named: dict[str, Any]) -> None:
    import torch
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    query, key, value = random(*queries), random(*keys), random(*keys)
    if "attn_mask" in named:
        named = {"attn_mask": torch.rand(1, 1, queries[1], keys[1]) > 0.5}
    found = dispatch_attention_fn(query, key, value, backend=fp8_attention.dispatched(), **named)
    assert error(found, exact(query, key, value, **named)) < 1e-5


def test_a_mask_is_an_error() -> None:
    import torch

    query = random(1, MIN_KEYS, 2, 128)
    with pytest.raises(ValueError, match="takes no mask"):
        attend(query, query, query, attn_mask=torch.ones(MIN_KEYS, MIN_KEYS, dtype=torch.bool))


@pytest.mark.parametrize("family", ["flux", "wan"])
@pytest.mark.parametrize("scope", ["none", "regional"])
@pytest.mark.usefixtures("only_dynamo")
def test_a_pipeline_draws_nearly_the_same(
    family: str, scope: str, pipeline_folder: Callable[[str], Path], graphs: dict[Any, OnCpu],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    untouched = draw(load(pipeline_folder(family)), family)
    pipe = load(pipeline_folder(family))
    for name, value in {"min_keys": 0, "head_size": pipe.transformer.config.attention_head_dim}.items():
        monkeypatch.setitem(attend.__kwdefaults__, name, value)
    assert BACKEND.apply(pipe, VALUES).endswith("attention processors use cudnn_fp8")
    assert BACKEND.is_set(pipe, VALUES)
    if scope == "regional":
        KNOBS["compile.scope"].apply(pipe, {"compile.scope": scope, "compile.mode": "default"})
    drawn = draw(pipe, family)
    assert sum(graph.calls for graph in graphs.values()) > 2
    assert 0 < abs(drawn - untouched).mean() < 0.05
    BACKEND.apply(pipe, {"attention.backend": "_native_math"})
    assert abs(draw(pipe, family) - untouched).mean() < 1e-3, "another backend can follow"


def test_a_pipeline_without_long_sequences_is_not_measured(pipeline_folder: Callable[[str], Path]) -> None:
    pipe = load(pipeline_folder("flux"))
    BACKEND.apply(pipe, VALUES)
    draw(pipe, "flux")
    with pytest.raises(NoEffect, match="2048 keys or more"):
        require_effects(pipe, VALUES, CPU)


def test_its_code_needs_its_package() -> None:
    code = BACKEND.code(VALUES)
    assert code is not None
    assert code.needs == ("nvidia-cudnn-frontend",)


def test_it_has_its_conditions() -> None:
    assert BACKEND.changes_image(CUDNN_FP8)
    assert not BACKEND.mixes_batch
    assert other_arithmetic(VALUES, {"attention.backend": "native"})
    assert not other_arithmetic({"attention.backend": "_native_cudnn"}, {"attention.backend": "native"})
    values = {**VALUES, "compile.scope": "none", "precision.dtype": "bfloat16"}
    assert BACKEND.conflict_reason(values, kind()) is None
    assert "float32" in str(BACKEND.conflict_reason({**values, "precision.dtype": "float32"}, kind()))
    assert "each length" in str(BACKEND.conflict_reason(values, kind("QwenImagePipeline")))


@pytest.mark.usefixtures("only_dynamo")
def test_its_code_is_compiled_in_a_file_that_is_run_by_its_path(
    pipeline_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    carried = Carried()
    carried.add([fp8_attention.use_fp8_attention])
    text = "\n".join(["from __future__ import annotations", *carried.imports, carried.text()])
    (tmp_path / "exported.py").write_text(text)
    exported = runpy.run_path(str(tmp_path / "exported.py"))
    pipe = load(pipeline_folder("flux"))
    untouched = draw(pipe, "flux")
    assert exported["use_fp8_attention"](pipe.transformer) > 2
    KNOBS["compile.scope"].apply(pipe, {"compile.scope": "regional", "compile.mode": "default"})
    assert abs(draw(pipe, "flux") - untouched).max() < 1e-4


@pytest.mark.gpu
def test_cudnn_attends_compiled_and_in_a_cuda_graph() -> None:
    import torch

    pytest.importorskip("cudnn")
    graph_for.cache_clear()
    scales_on(torch.device("cuda", 0))  # as `use_fp8_attention` does
    query, key = (random(2, MIN_KEYS + 256, 4, 128, device="cuda").bfloat16() for _ in range(2))
    value = random(2, MIN_KEYS + 256, 4, 128, times=20.0, device="cuda").bfloat16() + 5
    compiled = torch.compile(attend, fullgraph=True, mode="reduce-overhead")
    with torch.no_grad():
        for _ in range(4):
            assert error(compiled(query, key, value).clone(), exact(query, key, value)) < 0.1
        assert error(attend(query, key, value), exact(query, key, value)) < 0.1
    assert graph_for.cache_info().currsize == 1
