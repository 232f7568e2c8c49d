"""Attention in fp8: on a CPU with an attention in float32 in place of cuDNN's, and cuDNN's own on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from drawing import CPU, draw, load
from kinds import kind

from tuner.knobs import KNOBS, NoEffect, fp8_attention, require_effects
from tuner.knobs.fp8_attention import CUDNN_FP8, MIN_KEYS, attend, graph_for
from tuner.records.codec import Values

BACKEND = KNOBS["attention.backend"]
VALUES: Values = {"attention.backend": CUDNN_FP8}


class OnCpu:
    """Computes what cuDNN's graph does, given and giving fp8."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.calls = 0

    def run(self, q: Any, k: Any, v: Any, descale: Any) -> Any:
        import torch

        assert {each.dtype for each in (q, k, v)} == {torch.float8_e4m3fn}
        self.calls += 1
        query, key, value = (each.float().transpose(1, 2) for each in (q, k, v))
        output = torch.nn.functional.scaled_dot_product_attention(query, key, value * descale, scale=self.factor)
        return (output.transpose(1, 2) / descale).to(torch.float8_e4m3fn).contiguous()


@pytest.fixture(autouse=True)
def defined() -> None:
    fp8_attention.operator()


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[tuple[tuple[int, ...], tuple[int, ...]], OnCpu]]:
    """The graphs that were asked for, by the shapes of queries and keys. Heads of tiny pipelines are allowed."""
    found: dict[tuple[tuple[int, ...], tuple[int, ...]], OnCpu] = {}
    monkeypatch.setattr(
        fp8_attention, "graph_for",
        lambda queries, keys, factor, device: found.setdefault((queries, keys), OnCpu(factor)),
    )  # fmt: skip
    monkeypatch.setattr(fp8_attention, "HEAD_SIZES", (8, 12, 16, 32, 64, 128))
    return found


def random(*shape: int, times: float = 1.0, device: str = "cpu") -> Any:
    import torch

    generator = torch.Generator(device).manual_seed(sum(shape))
    return times * torch.randn(shape, generator=generator, dtype=torch.float32, device=device)


def exact(query: Any, key: Any, value: Any, scale: float | None = None) -> Any:
    import torch

    swapped = (each.float().transpose(1, 2) for each in (query, key, value))
    return torch.nn.functional.scaled_dot_product_attention(*swapped, scale=scale).transpose(1, 2)


def error(found: Any, wanted: Any) -> float:
    return float((found.float() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("times", [1e-3, 1.0, 1e3])
def test_values_of_any_size_keep_their_precision(times: float, graphs: dict[Any, OnCpu]) -> None:
    query, key, value = random(2, 64, 2, 64), random(2, MIN_KEYS, 2, 64), random(2, MIN_KEYS, 2, 64, times=times)
    assert error(attend(query, key, value), exact(query, key, value)) < 0.06
    assert graphs.keys() == {((2, 64, 2, 64), (2, MIN_KEYS, 2, 64))}


def test_a_scale_and_zeros_are_passed_on(graphs: dict[Any, OnCpu]) -> None:
    query, key = random(1, 64, 2, 64), random(1, MIN_KEYS, 2, 64)
    value = random(1, MIN_KEYS, 2, 64) + 1
    assert error(attend(query, key, value, scale=0.5), exact(query, key, value, scale=0.5)) < 0.06
    assert (attend(query, key, 0 * value) == 0).all()


@pytest.mark.parametrize(
    ("queries", "keys"),
    [
        ((1, 4096, 2, 64), (1, MIN_KEYS - 1, 2, 64)),
        ((1, 64, 2, 40), (1, MIN_KEYS, 2, 40)),
    ],
)
def test_what_it_does_not_suit_is_exact(queries: tuple[int, ...], keys: tuple[int, ...]) -> None:
    query, key, value = random(*queries), random(*keys), random(*keys)
    assert error(attend(query, key, value), exact(query, key, value)) < 1e-5


def test_a_mask_is_an_error() -> None:
    import torch

    query = random(1, MIN_KEYS, 2, 64)
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
    monkeypatch.setattr(fp8_attention, "MIN_KEYS", 0)
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
    assert BACKEND.changes_image(CUDNN_FP8)
    assert BACKEND.conflict_reason({**VALUES, "compile.scope": "none", "precision.dtype": "float32"}, kind())


@pytest.mark.gpu
@pytest.mark.parametrize("size", [64, 128])
def test_cudnn_attends_compiled_and_in_a_cuda_graph(size: int) -> None:
    import torch

    pytest.importorskip("cudnn")
    graph_for.cache_clear()
    query, key = (random(2, MIN_KEYS + 256, 4, size, device="cuda").bfloat16() for _ in range(2))
    value = random(2, MIN_KEYS + 256, 4, size, times=20.0, device="cuda").bfloat16() + 5
    compiled = torch.compile(attend, fullgraph=True, mode="reduce-overhead")
    with torch.no_grad():
        for found in (attend(query, key, value), *(compiled(query, key, value).clone() for _ in range(4))):
            assert error(found, exact(query, key, value)) < 0.06
    assert graph_for.cache_info().currsize == 1
