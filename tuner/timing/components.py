"""Where the time of a call goes: text encoders, denoiser, VAE decode, and the rest."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from tuner.records.model import DENOISERS
from tuner.records.outcome import Components
from tuner.timing.measure import Clock

STAGES = (*DENOISERS, "prior", "decoder")
"""Components that step: the denoisers, and the halves of a cascade."""
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
                members = [component, *_inside(component)] if part == "text encoders" else [component]
                stack.enter_context(patch_calls(members, partial(parts.around, part)))
        clock.synchronize()
        start = clock.record()
        call()
        end = clock.record()
        clock.synchronize()
    total = clock.elapsed_s(start, end)
    seconds = {part: sum(clock.elapsed_s(*span) for span in spans) for part, spans in parts.spans.items()}
    return Components(
        total_s=total,
        text_encoders_s=seconds.get("text encoders"),
        denoiser_s=seconds.get("denoiser"),
        vae_s=seconds.get("vae"),
        rest_s=max(total - sum(seconds.values()), 0.0),
    )


def denoisers(pipe: Any) -> list[Any]:
    """The components that run once a step."""
    return [component for part, component in _components(pipe) if part == "denoiser"]


@contextlib.contextmanager
def patch_calls(members: Sequence[Any], replaced: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """While calls of some modules are other ones, each class's `__call__` being `replaced`.

    A compiled module ignores hooks that come later, and would compile again if its class or its `forward` were another;
    that its class's `__call__` is, it does not notice.
    """
    known = {id(member) for member in members}
    with contextlib.ExitStack() as stack:
        for kind in {type(member) for member in members}:
            original = kind.__call__
            stack.enter_context(_replaced(kind, "__call__", _for_some(known, replaced(original), original)))
        yield


def _for_some(known: set[int], ours: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    """A class's `__call__` that is another one for the known objects."""

    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        function = ours if id(self) in known else original
        return function(self, *arguments, **named)

    return call


def _components(pipe: Any) -> Iterator[tuple[str, Any]]:
    """The components that belong to a part, with its name."""
    for name, component in pipe.components.items():
        if not callable(component):
            continue
        if name.startswith("text_encoder"):
            yield "text encoders", component
        elif name in STAGES:
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
            start = self.clock.record()
            try:
                return function(*arguments, **named)
            finally:
                self.spans[part].append((start, self.clock.record()))
                self.is_inside = False

        return marked


def _inside(module: Any) -> list[Any]:
    """The modules one and two levels inside another, but for torch's own layers: some pipelines call an encoder's."""
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
