"""Attention in fp8 by cuDNN, as another backend of diffusers' attention dispatcher.

Queries and keys are converted as they are: what attention multiplies is far from the limits of fp8. Values are scaled
by the largest of their tensor, and so is the output, which Hopper gives in fp8, too. See "FP8 Formats for Deep
Learning" (Micikevicius et al., 2022) and cuDNN's documentation of scaled dot product attention in fp8.
"""

from __future__ import annotations

from functools import cache
from typing import Any

CUDNN_FP8 = "cudnn_fp8"

MIN_KEYS = 2048
"""Attention to fewer keys stays in torch. On an H200 fp8 gains at 4608 of them, and loses at 1024."""

HEAD_SIZES = (64, 128)
"""The sizes of a head that were tried."""

SOFTMAX_SCALE = 256.0
"""What probabilities are scaled by: they are at most 1, and the largest number in fp8 is 448."""

MIN_VALUE_SCALE = 1e-6
"""The least scale: values that are all zero would be divided by it."""


def use_fp8_attention(denoiser: Any) -> int:
    """Have the attention processors of a denoiser call cuDNN in fp8, and return how many there are."""
    backend = dispatched()
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


def attend(query: Any, key: Any, value: Any, attn_mask: Any = None, scale: float | None = None) -> Any:
    """Attend in fp8, given (batch, tokens, heads, size). Short sequences and unusual heads are torch's."""
    import torch

    if attn_mask is not None:
        raise ValueError("cudnn_fp8 attention takes no mask")
    if key.shape[1] < MIN_KEYS or key.shape[2] != query.shape[2] or query.shape[3] not in HEAD_SIZES:
        swapped = (each.transpose(1, 2) for each in (query, key, value))
        return torch.nn.functional.scaled_dot_product_attention(*swapped, scale=scale).transpose(1, 2)
    limit = torch.finfo(torch.float8_e4m3fn).max
    descale = (value.abs().amax().float() / limit).clamp_min(MIN_VALUE_SCALE)
    q, k, v = (
        each.clamp(-limit, limit).to(torch.float8_e4m3fn).contiguous() for each in (query, key, value.float() / descale)
    )
    factor = query.shape[3] ** -0.5 if scale is None else scale
    output = torch.ops.tuner.fp8_attention(q, k, v, descale.reshape(1, 1, 1, 1), factor)
    return (output.float() * descale).to(query.dtype)


@cache
def operator() -> Any:
    """Define the operator that torch.compile leaves as it is.

    It attends given queries, keys and values in fp8, and gives an output in fp8 that has the scale of the values.
    """
    import torch

    schema = "(Tensor q, Tensor k, Tensor v, Tensor descale, float factor) -> Tensor"
    defined = torch.library.custom_op("tuner::fp8_attention", attend_with_cudnn, mutates_args=(), schema=schema)
    defined.register_fake(lambda q, *_: torch.empty_like(q))
    return defined


def attend_with_cudnn(q: Any, k: Any, v: Any, descale: Any, factor: float) -> Any:
    """Attend with the graph for these shapes."""
    return graph_for(tuple(q.shape), tuple(k.shape), factor, q.device).run(q, k, v, descale)


@cache
def graph_for(queries: tuple[int, ...], keys: tuple[int, ...], factor: float, device: Any) -> AttentionGraph:
    """Return cuDNN's graph for the shapes of queries and keys."""
    return AttentionGraph(queries, keys, factor, device)


class AttentionGraph:
    """cuDNN's graph for one shape, built in some seconds."""

    def __init__(self, queries: tuple[int, ...], keys: tuple[int, ...], factor: float, device: Any) -> None:
        import cudnn
        import torch

        number, real = cudnn.data_type.FP8_E4M3, cudnn.data_type.FLOAT
        self.cudnn, self.handle = cudnn, cudnn.create_handle()
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
        self.one, self.softmax, self.unsoftmax = (
            torch.full((1, 1, 1, 1), value, device=device) for value in (1.0, SOFTMAX_SCALE, 1 / SOFTMAX_SCALE)
        )

    def run(self, q: Any, k: Any, v: Any, descale: Any) -> Any:
        """Attend on the current stream. The output has the scale of the values, whose average it is."""
        import torch

        self.cudnn.set_stream(handle=self.handle, stream=torch.cuda.current_stream(q.device).cuda_stream)
        output = torch.empty_like(q)
        largest = [torch.empty_like(self.one) for _ in range(2)]
        given = [q, k, v, self.one, self.one, descale, self.unsoftmax, self.softmax, 1 / descale, output, *largest]
        workspace = torch.empty(self.workspace_bytes, dtype=torch.uint8, device=q.device)
        self.graph.execute(dict(zip(self.tensors, given, strict=True)), workspace, handle=self.handle)
        return output


def layout(shape: tuple[int, ...]) -> dict[str, list[int]]:
    """Return cuDNN's (batch, heads, tokens, size), with strides, of a contiguous (batch, tokens, heads, size)."""
    batch, tokens, heads, size = shape
    return {"dim": [batch, heads, tokens, size], "stride": [tokens * heads * size, size, heads * size, 1]}
