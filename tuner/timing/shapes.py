"""The shapes of the matrix products and attentions of a step, as torch is asked for them. In the worker."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

MIN_ROWS = 17
"""int8 kernels multiply no fewer rows."""

MAX_PRODUCTS = 3
"""Shapes of products that are kept: those with the most FLOP in a step."""


@dataclass(frozen=True)
class Product:
    """A product of `rows` x `inner` by `inner` x `columns`, so many times in a step."""

    rows: int
    inner: int
    columns: int
    count: int = 1

    @property
    def flop(self) -> float:
        """The FLOP of one such product."""
        return 2.0 * self.rows * self.inner * self.columns


@dataclass(frozen=True)
class Attention:
    """An attention: the sizes of its queries and keys (batch, heads, tokens, width), and its type."""

    query: tuple[int, ...]
    key: tuple[int, ...]
    dtype: str

    @property
    def flop(self) -> float:
        """The FLOP of both of its products."""
        return 4.0 * math.prod(self.query) * self.key[-2]


@dataclass(frozen=True)
class Shapes:
    """The products that make up most of the FLOP, and the largest attention without a mask."""

    products: tuple[Product, ...] = ()
    attention: Attention | None = None


class ShapeRecorder:
    """Notes the shapes that are asked for in calls of functions that it is put `around`."""

    def __init__(self) -> None:
        self.products: Counter[Product] = Counter()
        self.attentions: set[Attention] = set()

    def around(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that notes what the original one asks for."""

        def call(*arguments: Any, **named: Any) -> Any:
            with self._mode():
                return original(*arguments, **named)

        return call

    def _mode(self) -> Any:
        """Return a mode of torch in which functions are noted before they are called."""
        from torch.overrides import TorchFunctionMode

        recorder = self

        class Mode(TorchFunctionMode):  # type: ignore[misc]
            """Passes each function on."""

            def __torch_function__(self, function: Any, _: Any, arguments: Any = (), named: Any = None) -> Any:
                recorder.note(function, arguments, named or {})
                return function(*arguments, **(named or {}))

        return Mode()

    def note(self, function: Any, arguments: Any, named: Any) -> None:
        """Note the shape of a product or an attention."""
        from torch.nn import functional

        if function is functional.linear and len(arguments) > 1:
            self.products[_product(*arguments[:2])] += 1
        elif function is functional.scaled_dot_product_attention:
            self.attentions.update(_attention(arguments, named))

    def shapes(self) -> Shapes:
        """Return the shapes that most of the work has."""
        known = [replace(product, count=count) for product, count in self.products.items() if product.rows >= MIN_ROWS]
        largest = sorted(known, key=lambda product: -product.count * product.flop)[:MAX_PRODUCTS]
        return Shapes(tuple(largest), max(self.attentions, key=lambda attention: attention.flop, default=None))


def _product(inputs: Any, weight: Any) -> Product:
    return Product(inputs.numel() // max(1, inputs.shape[-1]), int(inputs.shape[-1]), int(weight.shape[0]))


def _attention(arguments: Any, named: Any) -> set[Attention]:
    query, key = (arguments[0], arguments[1]) if len(arguments) > 1 else (named.get("query"), named.get("key"))
    is_masked = named.get("attn_mask") is not None or any(mask is not None for mask in arguments[3:4])
    if query is None or key is None or query.dim() != 4 or is_masked:
        return set()
    return {Attention(tuple(query.shape), tuple(key.shape), str(query.dtype).removeprefix("torch."))}
