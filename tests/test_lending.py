"""Lent weights: each tensor of a pipeline finds its own again, whatever is tied, shared, strided or quantized.

CUDA's handles are simulated by a table of storages; a GPU test of the real ones is in test_forked_worker.py.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tuner.worker import lending
from tuner.worker.weights import Weights


class Model(torch.nn.Module):
    """Tied weights, a module under two names, a strided weight, a buffer, and views of one storage."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(8, 4)
        self.head = torch.nn.Linear(4, 8, bias=False)
        self.head.weight = self.embedding.weight
        self.first = torch.nn.ModuleList([torch.nn.Linear(4, 4) for _ in range(6)])
        self.again = self.first
        self.strided = torch.nn.Parameter(torch.randn(4, 6).t())
        both = torch.randn(2, 5)
        self.register_buffer("upper", both[0])
        self.register_buffer("lower", both[1], persistent=False)


@pytest.fixture(autouse=True)
def handles(monkeypatch: pytest.MonkeyPatch) -> None:
    table: list[Any] = []

    def share(storage: Any) -> tuple[int]:
        table.append(storage)
        return (len(table) - 1,)

    monkeypatch.setattr(torch.UntypedStorage, "_share_cuda_", share, raising=False)
    monkeypatch.setattr(torch.UntypedStorage, "_new_shared_cuda", lambda index: table[index], raising=False)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)


def pipeline(*models: torch.nn.Module) -> Any:
    return SimpleNamespace(components={f"part_{index}": model for index, model in enumerate(models)} | {"text": None})


@pytest.mark.parametrize("attempt", range(5))
def test_every_tensor_is_that_of_the_lender(attempt: int) -> None:
    torch.manual_seed(attempt)
    shared = Model()
    lender = pipeline(shared, Model(), shared)
    other = copy.deepcopy(lender)
    for _, tensor in lending.tensors(other):
        tensor.data.zero_()
    addresses = lending.borrow(other, lending.lend(lender))
    pairs = list(zip(lending.tensors(lender), lending.tensors(other), strict=True))
    assert len(pairs) == 3 * 29
    for (name, ours), (same_name, theirs) in pairs:
        assert name == same_name
        assert torch.equal(ours, theirs)
        assert ours.stride() == theirs.stride()
        assert theirs.untyped_storage().data_ptr() in addresses
    model = other.components["part_0"]
    assert model.head.weight is model.embedding.weight
    assert model.first[0].weight is model.again[0].weight


def test_a_written_weight_changes_the_checksum() -> None:
    pipe = pipeline(Model())
    before = lending.checksum(pipe)
    assert lending.checksum(pipe) == before
    pipe.components["part_0"].first[3].weight.data[1, 2] += 1e-3
    assert lending.checksum(pipe) != before


def test_quantized_weights_are_not_lent_and_do_not_count() -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    pipe = pipeline(torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.LayerNorm(64)))
    whole = lending.size_bytes(pipe)
    lent = set(lending.storages(pipe))
    quantize_(pipe.components["part_0"], Int8WeightOnlyConfig())
    left = lending.size_bytes(pipe)
    assert whole - left == 64 * 64 * 4
    weights = Weights(None, None, "float32")  # type: ignore[arg-type]
    assert weights.lent_bytes(pipe) == 0
    weights.lent = lent
    assert weights.lent_bytes(pipe) == left
