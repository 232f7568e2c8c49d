"""The weights: made once on the GPU and lent to all processes, for a copy each would not fit."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import pipelines


def layout(pipe: Any) -> dict[int, tuple[int, Any]]:
    """Where each parameter of an empty pipeline lies in one stretch of memory, by id: offset in numbers, and shape."""
    places: dict[int, tuple[int, Any]] = {}
    end = 0
    for model in pipelines.models(pipe).values():
        for parameter in model.parameters():
            if id(parameter) not in places:
                places[id(parameter)] = (end, parameter.shape)
                end += -(-parameter.numel() // 256) * 256
    places[0] = (end, ())
    return places


def made(pipe: Any, device: str = "cuda") -> Any:
    """Random weights for all parameters of an empty pipeline, as `pipelines.fill` chooses them."""
    import torch

    places = layout(pipe)
    memory = torch.zeros(places[0][0], dtype=torch.bfloat16, device=device)
    for model in pipelines.models(pipe).values():
        for name, parameter in model.named_parameters():
            offset, shape = places[id(parameter)]
            weight = memory[offset : offset + prod(shape)]
            if name.endswith("bias"):
                continue
            if len(shape) == 1 or name.endswith("gamma"):
                weight.fill_(1.0)
            else:
                weight.normal_(0.0, prod(shape[1:]) ** -0.5)
    if device == "cuda":
        torch.cuda.synchronize()
    return memory


def put(pipe: Any, memory: Any) -> None:
    """Give an empty pipeline its weights: views of the memory, none of which is ever written to."""
    import torch

    places, views = layout(pipe), {}
    for model in pipelines.models(pipe).values():
        for module in model.modules():
            for name, parameter in list(module._parameters.items()):
                if parameter is not None and parameter.device.type == "meta":
                    if id(parameter) not in views:
                        offset, shape = places[id(parameter)]
                        view = memory[offset : offset + prod(shape)].view(shape)
                        views[id(parameter)] = (torch.nn.Parameter(view), parameter)  # kept, so that its id is too
                    module._parameters[name] = views[id(parameter)][0]


def lent(memory: Any) -> list[Any]:
    """A handle by which other processes find the memory, as JSON takes it."""
    shared = memory.untyped_storage()._share_cuda_()
    return [part.hex() if isinstance(part, bytes) else part for part in shared]


def borrowed(handle: Sequence[Any]) -> Any:
    """The memory behind a handle."""
    import torch

    torch.cuda.init()
    parts = [bytes.fromhex(part) if isinstance(part, str) else part for part in handle]
    storage = torch.UntypedStorage._new_shared_cuda(*parts)
    return torch.empty(0, dtype=torch.bfloat16, device="cuda").set_(storage)
