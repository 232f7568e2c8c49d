"""Where the time of a call goes: text encoders, denoiser, VAE decode, and the rest."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from tuner.measure import Clock
from tuner.record import Components

DENOISERS = ("transformer", "transformer_2", "unet", "prior", "decoder")
DECODERS = ("vae", "vqvae", "vqgan", "movq")


def time_components(call: Callable[[], object], pipe: Any, clock: Clock) -> Components:
    """Time one more warm call, with marks around each part of it. It costs nothing that would wait for the device."""
    parts = _Parts(clock)
    with contextlib.ExitStack() as stack:
        for part, component in _components(pipe):
            parts.spans.setdefault(part, [])
            if part == "vae":
                owner = getattr(component, "_orig_mod", component)  # what torch.compile wraps keeps the attributes
                stack.enter_context(_replaced(owner, "decode", parts.around(part, owner.decode)))
            else:
                stack.enter_context(_calls_timed(component, part, parts))
        clock.wait()
        start = clock.mark()
        call()
        end = clock.mark()
        clock.wait()
    total = clock.between(start, end)
    seconds = {part: sum(clock.between(*span) for span in spans) for part, spans in parts.spans.items()}
    return Components(
        total_s=total,
        text_encoders_s=seconds.get("text encoders"),
        denoiser_s=seconds.get("denoiser"),
        vae_s=seconds.get("vae"),
        rest_s=max(total - sum(seconds.values()), 0.0),
    )


def _components(pipe: Any) -> Iterator[tuple[str, Any]]:
    """The components that belong to a part, with its name."""
    for name, component in pipe.components.items():
        if not callable(component):
            continue
        if name.startswith("text_encoder"):
            yield "text encoders", component
        elif name in DENOISERS:
            yield "denoiser", component
        elif name in DECODERS and hasattr(component, "decode"):
            yield "vae", component


class _Parts:
    """Start and end of every call of a part. A call inside another one belongs to that."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.spans: dict[str, list[tuple[Any, Any]]] = {}
        self.is_inside = False

    def around(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def marked(*arguments: Any, **named: Any) -> Any:
            if self.is_inside:
                return function(*arguments, **named)
            self.is_inside = True
            start = self.clock.mark()
            try:
                return function(*arguments, **named)
            finally:
                self.spans[part].append((start, self.clock.mark()))
                self.is_inside = False

        return marked


@contextlib.contextmanager
def _calls_timed(module: Any, part: str, parts: _Parts) -> Iterator[None]:
    """While calls of a module are marked, and those of what it consists of: some pipelines call an encoder's inside.

    A compiled module ignores hooks that come later, and would compile again if its class or its `forward` were another;
    that its class's `__call__` is, it does not notice.
    """
    members = [module, *_inside(module)] if part == "text encoders" else [module]
    known = {id(member) for member in members}
    with contextlib.ExitStack() as stack:
        for kind in {type(member) for member in members}:
            stack.enter_context(_replaced(kind, "__call__", _marking(kind.__call__, known, part, parts)))
        yield


def _marking(original: Callable[..., Any], known: set[int], part: str, parts: _Parts) -> Callable[..., Any]:
    """A class's `__call__` that marks the calls of the known objects."""
    marked = parts.around(part, original)

    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        function = marked if id(self) in known else original
        return function(self, *arguments, **named)

    return call


def _inside(module: Any) -> list[Any]:
    """The modules one and two levels inside another, but for torch's own layers."""
    children = [child for child in module.children() if not type(child).__module__.startswith("torch.nn")]
    grandchildren = [inner for child in children for inner in child.children()]
    return children + [inner for inner in grandchildren if not type(inner).__module__.startswith("torch.nn")]


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """While an attribute of an object or a class is another one."""
    own = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)
