"""The time of a call by component: text encoders, denoiser, VAE decoder, and the rest."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from tuner.records.model import DENOISERS
from tuner.records.outcome import Components
from tuner.timing.measure import Clock

STAGES = (*DENOISERS, "prior", "decoder")
"""Components that run once per step: the denoisers, and the two stages of a cascade."""
DECODERS = ("vae", "vqvae", "vqgan", "movq")


def time_components(call: Callable[[], object], pipe: Any, clock: Clock) -> Components:
    """Time one more warm call with marks around each component. The marks do not make the host wait for the device."""
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
    steps = parts.spans.get("denoiser")
    return Components(
        total_s=total,
        text_encoders_s=seconds.get("text encoders"),
        denoiser_s=seconds.get("denoiser"),
        vae_s=seconds.get("vae"),
        rest_s=max(total - sum(seconds.values()), 0.0),
        denoiser_calls=len(steps) if steps else None,
        between_steps_s=_between_steps_s(parts, steps) if steps else None,
    )


def denoisers(pipe: Any) -> list[Any]:
    """Return the components that run once per step."""
    return [component for part, component in _components(pipe) if part == "denoiser"]


@contextlib.contextmanager
def patch_calls(members: Sequence[Any], replaced: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Replace the calls of some modules by `replaced(class.__call__)` inside this context.

    A compiled module ignores hooks that are added later, and recompiles if its class or its `forward` changes. It does
    not notice another `__call__` of its class.
    """
    known = {id(member) for member in members}
    with contextlib.ExitStack() as stack:
        for cls in {type(member) for member in members}:
            original = cls.__call__
            stack.enter_context(_replaced(cls, "__call__", _for_some(known, replaced(original), original)))
        yield


def _for_some(known: set[int], ours: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `__call__` for a class that runs `ours` for the known objects and `original` for all others."""

    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        function = ours if id(self) in known else original
        return function(self, *arguments, **named)

    return call


def _components(pipe: Any) -> Iterator[tuple[str, Any]]:
    """Yield each component that is timed, with the name of its part."""
    for name, component in pipe.components.items():
        if not callable(component):
            continue
        if name.startswith("text_encoder"):
            yield "text encoders", component
        elif name in STAGES:
            yield "denoiser", component
        elif name in DECODERS and hasattr(component, "decode"):
            yield "vae", component


def _between_steps_s(parts: _Parts, steps: Sequence[tuple[Any, Any]]) -> float:
    """Return the time from the first of these calls to the last that no component takes."""
    first, last, elapsed_s = steps[0][0], steps[-1][1], parts.clock.elapsed_s
    spans = [span for spans in parts.spans.values() for span in spans]
    within = [span for span in spans if elapsed_s(first, span[0]) >= 0 and elapsed_s(span[1], last) >= 0]
    return max(elapsed_s(first, last) - sum(elapsed_s(*span) for span in within), 0.0)


class _Parts:
    """The start and the end of every call of a part. A call inside another call belongs to the outer one."""

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
    """Return the modules one and two levels inside, except torch.nn layers: some pipelines call those of an encoder."""
    children = [child for child in module.children() if not type(child).__module__.startswith("torch.nn")]
    grandchildren = [inner for child in children for inner in child.children()]
    return children + [inner for inner in grandchildren if not type(inner).__module__.startswith("torch.nn")]


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Replace an attribute of an object or a class inside this context."""
    own = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)
