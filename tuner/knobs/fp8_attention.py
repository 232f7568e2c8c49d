"""Attention in fp8 by cuDNN, as another backend of diffusers' attention dispatcher.

Queries and keys are converted as they are: what attention multiplies is far from the limits of fp8. The values of each
image are scaled by their largest, and so is the output, which Hopper gives in fp8, too. See "FP8 Formats for Deep
Learning" (Micikevicius et al., 2022) and cuDNN's documentation of scaled dot product attention in fp8.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

CUDNN_FP8 = "cudnn_fp8"

MIN_KEYS = 2048
"""Attention to fewer keys stays in torch. On an H200 fp8 gains at 4608 keys, and loses at 1024 (docs/knobs_h200.md)."""

HEAD_SIZE = 128
"""Attention with heads of another size stays in torch: at 64 fp8 gained nothing, even at 4096 keys."""

SOFTMAX_SCALE = 256.0
"""What probabilities are scaled by: they are at most 1, and the largest number in fp8 is 448."""

MAX_SHAPES = 32
"""How many shapes are kept ready for cuDNN."""


def use_fp8_attention(denoiser: Any) -> int:
    """Have the attention processors of a denoiser call cuDNN in fp8, and return how many there are."""
    backend = dispatched()
    scales_on(denoiser.device)
    processors: list[Any] = [getattr(module, "processor", None) for module in denoiser.modules()]
    chosen = [processor for processor in processors if hasattr(processor, "_attention_backend")]
    for processor in chosen:
        processor._attention_backend = backend
    return len(chosen)


@cache
def dispatched() -> Any:
    """Register the backend with diffusers' dispatcher, and return its name there: a member of an enumeration."""
    from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

    name = str.__new__(AttentionBackendName, CUDNN_FP8)
    name._name_ = name._value_ = CUDNN_FP8
    _AttentionBackendRegistry.register(name)(attend)
    operator()
    return name


def attend(  # noqa: PLR0913 (the dispatcher's arguments)
    query: Any, key: Any, value: Any, attn_mask: Any = None, is_causal: bool = False, scale: float | None = None,
    enable_gqa: bool = False, *, min_keys: int = MIN_KEYS, head_size: int = HEAD_SIZE,
) -> Any:  # fmt: skip
    """Attend in fp8, given (batch, tokens, heads, size). What cuDNN does not suit is torch's.

    The dispatcher gives neither `min_keys` nor `head_size`. They are no globals, since dynamo does not know those of a
    file that is run by its path.
    """
    import torch

    is_short = key.shape[1] < min_keys or query.shape[3] != head_size
    if is_short or is_causal or enable_gqa:
        swapped = (each.transpose(1, 2) for each in (query, key, value))
        return torch.nn.functional.scaled_dot_product_attention(
            *swapped, attn_mask=attn_mask, is_causal=is_causal, scale=scale, enable_gqa=enable_gqa
        ).transpose(1, 2)
    if attn_mask is not None:
        raise ValueError("cudnn_fp8 attention takes no mask")
    limit = torch.finfo(torch.float8_e4m3fn).max
    largest = value.abs().amax(dim=(1, 2, 3), keepdim=True).float()
    value_scale = (largest / limit).clamp_min(torch.finfo(torch.float32).smallest_normal)
    q, k, v = (
        each.clamp(-limit, limit).to(torch.float8_e4m3fn).contiguous()
        for each in (query, key, value.float() / value_scale)
    )
    factor = query.shape[3] ** -0.5 if scale is None else scale
    return (torch.ops.tuner.fp8_attention(q, k, v, factor).float() * value_scale).to(query.dtype)


@cache
def operator() -> Any:
    """Define the operator that torch.compile leaves as it is: attention that is given fp8, and gives it."""
    import torch

    schema = "(Tensor q, Tensor k, Tensor v, float factor) -> Tensor"
    defined = torch.library.custom_op("tuner::fp8_attention", attend_with_cudnn, mutates_args=(), schema=schema)
    defined.register_fake(lambda q, *_: torch.empty_like(q))
    return defined


def attend_with_cudnn(q: Any, k: Any, v: Any, factor: float) -> Any:
    """Attend with the graph for these shapes."""
    return graph_for(tuple(q.shape), tuple(k.shape), factor, q.device).run(q, k, v)


@lru_cache(MAX_SHAPES)
def graph_for(queries: tuple[int, ...], keys: tuple[int, ...], factor: float, device: Any) -> AttentionGraph:
    """Return cuDNN's graph for the shapes of queries and keys."""
    return AttentionGraph(queries, keys, factor, device)


@cache
def scales_on(device: Any) -> tuple[Any, Any, Any]:
    """Return the scales that cuDNN reads from a device's memory: 1, that of probabilities, and its inverse.

    They outlive the memory of a CUDA graph, and are made before one is captured.
    """
    import torch

    values = (1.0, SOFTMAX_SCALE, 1 / SOFTMAX_SCALE)
    one, softmax, unsoftmax = (torch.full((1, 1, 1, 1), value, device=device) for value in values)
    return one, softmax, unsoftmax


@cache
def handle_on(device: Any) -> Any:
    """Return cuDNN's handle for a device."""
    import cudnn
    import torch

    with torch.cuda.device(device):
        return cudnn.create_handle()


class AttentionGraph:
    """cuDNN's graph for one shape, built in some seconds."""

    def __init__(self, queries: tuple[int, ...], keys: tuple[int, ...], factor: float, device: Any) -> None:
        import cudnn

        number, real = cudnn.data_type.FP8_E4M3, cudnn.data_type.FLOAT
        self.cudnn, self.handle, self.scales = cudnn, handle_on(device), scales_on(device)
        self.graph = cudnn.pygraph(
            io_data_type=number, intermediate_data_type=real, compute_data_type=real, handle=self.handle
        )
        inputs = [self.graph.tensor(name=name, data_type=number, **layout(shape))
                  for name, shape in zip("qkv", (queries, keys, keys), strict=True)]  # fmt: skip
        names = ("descale_q", "descale_k", "descale_v", "descale_s", "scale_s", "scale_o")
        scales = [self.graph.tensor(name=name, data_type=real, dim=[1] * 4, stride=[1] * 4) for name in names]
        output, _, *largest = self.graph.sdpa_fp8(
            **dict(zip("qkv", inputs, strict=True)), **dict(zip(names, scales, strict=True)),
            attn_scale=factor, generate_stats=False, use_causal_mask=False, name="attention",
        )  # fmt: skip
        output.set_output(True).set_dim(layout(queries)["dim"]).set_stride(layout(queries)["stride"])
        for each in largest:
            each.set_output(True).set_dim([1] * 4).set_stride([1] * 4).set_data_type(real)
        self.tensors = [*inputs, *scales, output, *largest]
        self.graph.validate()
        self.graph.build_operation_graph()
        self.graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
        self.graph.check_support()
        self.graph.build_plans()
        self.workspace_bytes = max(self.graph.get_workspace_size(), 1)

    def run(self, q: Any, k: Any, v: Any) -> Any:
        """Attend on the current stream. The output has the scale of the values, whose average it is."""
        import torch

        self.cudnn.set_stream(handle=self.handle, stream=torch.cuda.current_stream(q.device).cuda_stream)
        one, softmax, unsoftmax = self.scales
        output = torch.empty_like(q)
        largest = [torch.empty_like(one) for _ in range(2)]
        given = [q, k, v, one, one, one, unsoftmax, softmax, one, output, *largest]
        workspace = torch.empty(self.workspace_bytes, dtype=torch.uint8, device=q.device)
        self.graph.execute(dict(zip(self.tensors, given, strict=True)), workspace, handle=self.handle)
        return output


def layout(shape: tuple[int, ...]) -> dict[str, list[int]]:
    """Return cuDNN's (batch, heads, tokens, size), with strides, of a contiguous (batch, tokens, heads, size)."""
    batch, tokens, heads, size = shape
    return {"dim": [batch, heads, tokens, size], "stride": [tokens * heads * size, size, heads * size, 1]}
