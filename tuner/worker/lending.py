"""Lend the tensors of a pipeline on a GPU to other processes: CUDA's inter-process handles, as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tuner.records.protocol import LentStorage, LentTensor, LentWeights


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


def unique_bytes(of: Iterable[Any]) -> int:
    """Return the bytes of the storages of tensors, each counted once."""
    return sum({tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in of}.values())


def lend(pipe: Any) -> LentWeights:
    """Describe the tensors of a pipeline on a GPU so that another process can borrow them."""
    storages: dict[int, int] = {}
    shared: list[LentStorage] = []
    lent = []
    for (component, module, name), tensor in tensors(pipe):
        storage = tensor.untyped_storage()
        if storage.nbytes() == 0:
            continue
        if storage.data_ptr() not in storages:
            storages[storage.data_ptr()] = len(shared)
            parts = storage._share_cuda_()
            shared.append(tuple(part.hex() if isinstance(part, bytes) else part for part in parts))
        lent.append(
            LentTensor(
                component=component, module=module, name=name, storage=storages[storage.data_ptr()],
                dtype=str(tensor.dtype).removeprefix("torch."), offset=tensor.storage_offset(),
                shape=tuple(tensor.shape), stride=tuple(tensor.stride()),
            )
        )  # fmt: skip
    return LentWeights(storages=tuple(shared), tensors=tuple(lent))


def borrow(pipe: Any, weights: LentWeights) -> set[int]:
    """Replace the tensors of a pipeline of the same structure by lent ones. Returns the addresses of their storages."""
    import torch

    torch.cuda.init()
    storages = [torch.UntypedStorage._new_shared_cuda(*_parts(storage)) for storage in weights.storages]
    parameters: dict[int, Any] = {}
    for tensor in weights.tensors:
        model = pipe.components[tensor.component]
        module = model.get_submodule(tensor.module)
        view = torch.empty(0, dtype=getattr(torch, tensor.dtype), device="cuda").set_(
            storages[tensor.storage], tensor.offset, tensor.shape, tensor.stride
        )
        old = module._parameters.get(tensor.name)
        if old is None:
            module._buffers[tensor.name] = view
            continue
        if id(old) not in parameters:
            parameters[id(old)] = torch.nn.Parameter(view, requires_grad=old.requires_grad)
        module._parameters[tensor.name] = parameters[id(old)]
    return {storage.data_ptr() for storage in storages}


def checksum(pipe: Any) -> tuple[int, ...]:
    """Return a sum over the bytes of every storage: one that is written to gives another sum."""
    import torch

    sums = {}
    for _, tensor in tensors(pipe):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in sums and storage.nbytes() > 0:
            words = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
            words = words[: storage.nbytes() // 4 * 4].view(torch.int32) if storage.nbytes() % 4 == 0 else words
            sums[storage.data_ptr()] = words.sum(dtype=torch.int64)
    return tuple(int(value) for value in torch.stack(list(sums.values())).cpu()) if sums else ()


def _parts(storage: LentStorage) -> list[Any]:
    return [bytes.fromhex(part) if isinstance(part, str) else part for part in storage]
