"""Lend the tensors of a pipeline on a GPU to other processes: CUDA's inter-process handles, as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tuner.records.protocol import LentStorage, LentTensor, LentWeights

WORDS = 1 << 24
"""Words that are summed at a time: torch copies them to 64 bits first."""


def tensors(pipe: Any) -> Iterator[tuple[tuple[str, str, str], Any]]:
    """Yield every parameter and buffer of a pipeline with its component, module and name, tied ones repeatedly."""
    import torch

    for component, model in pipe.components.items():
        if not isinstance(model, torch.nn.Module):
            continue
        for path, module in model.named_modules(remove_duplicate=False):
            for name, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is not None:
                    yield (component, path, name), tensor


def storages(pipe: Any) -> dict[int, Any]:
    """Return the storages of a pipeline's parameters and buffers by their address.

    Quantized weights are left out: they are built of tensors of their own, and are never lent.
    """
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass

    plain = (tensor for _, tensor in tensors(pipe) if not is_traceable_wrapper_subclass(tensor))
    found = (tensor.untyped_storage() for tensor in plain)
    return {storage.data_ptr(): storage for storage in found if storage.nbytes() > 0}


def size_bytes(pipe: Any) -> int:
    """Return the bytes of a pipeline's weights, those that are tied counted once."""
    return sum(storage.nbytes() for storage in storages(pipe).values())


def lend(pipe: Any) -> LentWeights:
    """Describe the tensors of a pipeline on a GPU so that another process can borrow them."""
    places: dict[int, int] = {}
    shared: list[LentStorage] = []
    lent = []
    for (component, module, name), tensor in tensors(pipe):
        storage = tensor.untyped_storage()
        if storage.nbytes() == 0:
            continue
        if storage.data_ptr() not in places:
            places[storage.data_ptr()] = len(shared)
            parts = storage._share_cuda_()
            shared.append(tuple(part.hex() if isinstance(part, bytes) else part for part in parts))
        lent.append(
            LentTensor(
                component=component, module=module, name=name, storage=places[storage.data_ptr()],
                dtype=str(tensor.dtype).removeprefix("torch."), offset=tensor.storage_offset(),
                shape=tuple(tensor.shape), stride=tuple(tensor.stride()),
            )
        )  # fmt: skip
    return LentWeights(storages=tuple(shared), tensors=tuple(lent))


def borrow(pipe: Any, weights: LentWeights) -> set[int]:
    """Replace the tensors of a pipeline of the same structure by lent ones. Returns the addresses of their storages."""
    import torch

    torch.cuda.init()
    lent = [torch.UntypedStorage._new_shared_cuda(*_parts(storage)) for storage in weights.storages]
    replaced: dict[int, tuple[Any, Any]] = {}
    """Each parameter with the lent one, by id. The old ones are kept, so that no new one gets the id of one of them."""
    for tensor in weights.tensors:
        model = pipe.components[tensor.component]
        module = model.get_submodule(tensor.module)
        view = torch.empty(0, dtype=getattr(torch, tensor.dtype), device=lent[tensor.storage].device).set_(
            lent[tensor.storage], tensor.offset, tensor.shape, tensor.stride
        )
        old = module._parameters.get(tensor.name)
        if old is None:
            module._buffers[tensor.name] = view
            continue
        if any(old is new for _, new in replaced.values()):
            continue  # the module has several names, and was here before
        if id(old) not in replaced:
            replaced[id(old)] = (old, torch.nn.Parameter(view, requires_grad=old.requires_grad))
        module._parameters[tensor.name] = replaced[id(old)][1]
    return {storage.data_ptr() for storage in lent}


def checksum(pipe: Any) -> tuple[int, ...]:
    """Return the sum of the words of every storage. Nearly every change of a weight gives another one.

    The host waits for the GPU once: where other processes use it, each wait takes milliseconds.
    """
    import torch

    sums = []
    for storage in storages(pipe).values():
        words = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
        words = words.view(torch.int32) if storage.nbytes() % 4 == 0 else words
        sums.append(torch.stack([part.sum(dtype=torch.int64) for part in words.split(WORDS)]).sum())
    found = tuple(torch.stack(sums).tolist()) if sums else ()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return found


def _parts(storage: LentStorage) -> list[Any]:
    return [bytes.fromhex(part) if isinstance(part, str) else part for part in storage]
