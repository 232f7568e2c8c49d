"""The layers of a denoiser that read an embedding of one row an image: found by watching a call, and computed apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any


class Caught(Exception):
    """Ends a denoiser's call at its embedding, with the embedding's arguments."""

    def __init__(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.arguments = arguments
        self.named = named


def read_row(layer: Any, *arguments: Any, **named: Any) -> Any:
    """Return the row written to a layer: the `forward` of a layer whose output is computed elsewhere.

    Every layer has this function, bound to it, so that compiled code of one block serves all blocks like it.
    """
    if layer.is_catching:
        raise Caught(arguments, named)
    return layer.row


class Layers:
    """The embedding of a denoiser, and the products that read it, each with the activation before it or None.

    A table has a row for each timestep and image: the embedding, then the products' outputs.
    """

    def __init__(self, denoiser: Any, embedding: Any, products: list[tuple[Any, Any]]) -> None:
        self._denoiser = denoiser
        self._embedding = embedding
        self._products = products
        self._replaced = [embedding, *(product for _, product in products)]
        self._buffers: dict[Any, Any] = {}
        self._shown: Any = None
        for layer in self._replaced:
            layer.is_catching = False
            layer.row = None
            layer.forward = MethodType(read_row, layer)

    def undo(self) -> None:
        """Give the layers their own forward again."""
        for layer in self._replaced:
            del layer.forward, layer.row, layer.is_catching

    def compute(self, named: dict[str, Any], timesteps: Any) -> Any:
        """Return the table of these timesteps for a call with these arguments."""
        import torch

        images, steps = len(named["hidden_states"]), len(timesteps)
        if steps == images > 1:  # another number tells the timesteps from what there is for each image
            return self.compute(named, torch.cat([timesteps, timesteps[-1:]]))[:-1]

        def repeated(value: Any) -> Any:
            if not isinstance(value, torch.Tensor) or not 1 <= value.ndim <= 2 or len(value) not in (steps, images):
                return value
            if len(value) == steps:
                return value.repeat_interleave(images, 0)
            return value.repeat(steps, *[1] * (value.ndim - 1))

        caught = self._catch(named | {"timestep": timesteps})
        given = {name: repeated(value) for name, value in caught.named.items()}
        embedded = plain(self._embedding, *map(repeated, caught.arguments), **given)
        columns = [embedded]
        for activation, product in self._products:
            columns.append(plain(product, activation(embedded) if activation is not None else embedded))
        return torch.cat(columns, dim=1).reshape(steps, images, -1)

    def fill(self, rows: Any) -> None:
        """Write the rows of a step to where the layers read them."""
        import torch

        key = (rows.shape, rows.dtype)
        if key not in self._buffers:
            with torch.inference_mode(False):  # whoever calls in inference mode now may not do so later
                self._buffers[key] = torch.empty(rows.shape, dtype=rows.dtype, device=rows.device)
        buffer = self._buffers[key]
        buffer.copy_(rows)
        if buffer is not self._shown:
            self._shown = buffer
            width = buffer.shape[1] - sum(product.out_features for _, product in self._products)
            widths = [width, *(product.out_features for _, product in self._products)]
            for layer, columns in zip(self._replaced, buffer.split(widths, dim=1), strict=True):
                layer.row = columns

    def _catch(self, named: dict[str, Any]) -> Caught:
        """Call the denoiser up to its embedding."""
        self._embedding.is_catching = True
        try:
            plain(self._denoiser, **named)
        except Caught as caught:
            return caught
        finally:
            self._embedding.is_catching = False
        raise RuntimeError("the denoiser did not embed its timestep")


def plain(module: Any, *arguments: Any, **named: Any) -> Any:
    """Call the forward of a module's class, whatever was put in its place."""
    return type(module).forward(module, *arguments, **named)


def find_layers(denoiser: Any, named: dict[str, Any]) -> Layers | None:
    """Watch one call of the denoiser; return the embedding that most products read, or None.

    These layers then give back what is computed elsewhere. First that must be what they computed here.
    """
    import torch

    found = watched(denoiser, named)
    if not found:
        return None
    embedding, products = max(found, key=lambda each: len(each[1]))
    layers = Layers(denoiser, embedding[0], [(activation, product) for activation, product, _ in products])
    expected = torch.cat([embedding[1], *(output for _, _, output in products)], dim=1)
    try:
        table = layers.compute(named, named["timestep"].flatten()[:1].repeat(3))
        error = (table - expected).float().norm() / expected.expand_as(table).float().norm()
        if table.dtype == expected.dtype and error < 0.02:
            return layers
    except (RuntimeError, TypeError, ValueError, IndexError):
        pass  # what the denoiser does with a timestep for each image cannot be done with several
    layers.undo()
    return None


def watched(denoiser: Any, named: dict[str, Any]) -> list[tuple[tuple[Any, Any], list[tuple[Any, Any, Any]]]]:
    """Return each child of the denoiser that gives one row an image, with its output, and the products that read it.

    A product comes with the activation before it, or None, and with its output.
    """
    import torch

    images = len(named["hidden_states"])
    seen: list[tuple[tuple[Any, Any], list[tuple[Any, Any, Any]]]] = []
    activated: list[tuple[int, Any, Any]] = []

    def embed(module: Any, given: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.ndim == 2 and len(output) == images:
            seen.append(((module, output), []))

    def activate(module: Any, given: Any, output: Any) -> None:
        activated.extend((place, module, output) for place, (each, _) in enumerate(seen) if each[1] is given[0])

    def multiply(module: Any, given: Any, output: Any) -> None:
        for place, (each, products) in enumerate(seen):
            if each[1] is given[0]:
                products.append((None, module, output))
            products.extend(
                (activation, module, output)
                for other, activation, result in activated
                if other == place and result is given[0]
            )

    hooks = [child.register_forward_hook(embed) for child in denoiser.children()]
    for module in denoiser.modules():
        if isinstance(module, torch.nn.Linear):
            hooks.append(module.register_forward_hook(multiply))
        elif not list(module.children()) and not list(module.parameters(recurse=False)):
            hooks.append(module.register_forward_hook(activate))
    try:
        with plain_forwards(denoiser):
            plain(denoiser, **named)
    finally:
        for hook in hooks:
            hook.remove()
    once = [each for each in seen if [other[0][0] for other in seen].count(each[0][0]) == 1]
    return [each for each in once if each[1]]


@contextmanager
def plain_forwards(model: Any) -> Iterator[None]:
    """Take off compiled code and caches in place of modules' forwards while the context lasts.

    A module with other layers than its class has keeps the forward that reads them, its `own_forward`.
    """
    own = [(module, vars(module).pop("forward")) for module in model.modules() if "forward" in vars(module)]
    for module, _ in own:
        if hasattr(module, "own_forward"):
            module.forward = module.own_forward
    try:
        yield
    finally:
        for module, forward in own:
            module.forward = forward
