"""Teacher-forced denoiser error: a candidate's denoiser on the baseline's own latents, step by step.

Whatever a candidate does to a step cannot add up over the trajectory, so that a few calls tell rounding (which stays
small in every step) from damage. It does not apply where the steps are others than the baseline's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tuner.errors import Unavailable
from tuner.records.model import DENOISERS
from tuner.records.quality import DenoiserError

LATENTS = ("hidden_states", "sample")
"""What a denoiser calls its latents, if they are not its first argument."""


def record(pipe: Any, call: Callable[[], object], file: Path, about: Mapping[str, int]) -> None:
    """Write what the denoiser is given and gives back in each of its calls while `call` runs the pipeline.

    `about` (steps and batch of the call) is kept with it. Raises Unavailable for a denoiser that takes or gives other
    things than one tensor.
    """
    from safetensors.torch import save_file

    kept: dict[str, Any] = {}

    def tap(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output = module(*args, **kwargs)
        place = f"{len(kept) // 2:04}"
        kept[f"given.{place}"] = _latents(args, kwargs)[1].detach().cpu().contiguous().clone()
        kept[f"gave.{place}"] = _result(output).detach().cpu().contiguous().clone()
        return output

    with _tapped(pipe, tap):
        call()
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(kept, file, {name: str(value) for name, value in about.items()})


def recorded(file: Path) -> dict[str, int]:
    """Return the steps and the batch of the call that `record` kept."""
    from safetensors import safe_open

    with safe_open(file, "pt") as kept:
        return {name: int(value) for name, value in kept.metadata().items()}


def compare(
    pipe: Any, call: Callable[[], object], file: Path, batch: int, *, limit: int | None = None
) -> DenoiserError:  # fmt: skip
    """Return the relative error of calls of the denoiser while `call` runs the pipeline, given the latents that
    `record` wrote. `call` draws `batch` images of the prompts that were recorded, again and again.

    With a `limit` at most so many calls are computed, spread over all steps. The others return what the baseline's
    returned: a call knows nothing of the one before it, unless a cache skips some.

    Raises Unavailable when the calls do not match.
    """
    from safetensors.torch import load_file

    kept, recorded_batch = load_file(file), recorded(file)["batch"]
    count = len(kept) // 2
    compared = spread(count, limit or count)
    made, errors = 0, list[float]()
    pattern: Any = None

    def tap(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal made, pattern
        place, is_compared, made = f"{made:04}", made in compared, made + 1
        if f"given.{place}" not in kept:
            raise Unavailable(f"it calls its denoiser more than the baseline's {count} times")
        name, latents = _latents(args, kwargs)
        given, expected = (_again(kept[f"{what}.{place}"], recorded_batch, batch) for what in ("given", "gave"))
        if given.shape != latents.shape:
            raise Unavailable(f"its latents have shape {tuple(latents.shape)}, the baseline's {tuple(given.shape)}")
        if not is_compared:
            return _with_result(pattern, expected)
        given = given.to(latents.device, latents.dtype)
        if name is None:
            args = (given, *args[1:])
        else:
            kwargs = {**kwargs, name: given}
        output = module(*args, **kwargs)
        pattern = output if pattern is None else pattern
        ours, theirs = _result(output).detach().float().cpu(), expected.float()
        errors.append(float((ours - theirs).norm() / theirs.norm().clamp_min(1e-12)))
        return output

    with _tapped(pipe, tap):
        call()
    if made != count:
        raise Unavailable(f"it calls its denoiser {made} times, the baseline {count} times")
    return DenoiserError(per_call=tuple(errors), mean=sum(errors) / len(errors), largest=max(errors))


def spread(count: int, limit: int) -> set[int]:
    """Return at most `limit` of the indices below `count`, evenly spread, the first and the last among them."""
    if limit >= count:
        return set(range(count))
    return {round(place * (count - 1) / max(limit - 1, 1)) for place in range(limit)}


class _Tap:
    """Stands in for a component: all of it, but a call goes through `on_call`."""

    def __init__(self, module: Any, on_call: Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]) -> None:
        self._module = module
        self._on_call = on_call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._on_call(self._module, args, kwargs)


@contextmanager
def _tapped(pipe: Any, on_call: Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]) -> Iterator[None]:
    """While it lasts every call of a denoiser goes through `on_call(module, args, kwargs)`."""
    own: Mapping[str, Any] = {name: vars(pipe)[name] for name in DENOISERS if vars(pipe).get(name) is not None}
    if not own:
        raise Unavailable("the pipeline has no denoiser that is called once a step")
    try:
        vars(pipe).update({name: _Tap(module, on_call) for name, module in own.items()})
        yield
    finally:
        vars(pipe).update(own)


def _latents(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str | None, Any]:
    """Return the keyword of the latents (None: the first argument) and the latents."""
    import torch

    name = next((name for name in LATENTS if name in kwargs), None)
    given = kwargs[name] if name is not None else args[0] if args else None
    if not isinstance(given, torch.Tensor):
        raise Unavailable(f"its denoiser takes a {type(given).__name__} where a tensor of latents was expected")
    return name, given


def _result(output: Any) -> Any:
    import torch

    found = output if isinstance(output, torch.Tensor) else output[0]
    if not isinstance(found, torch.Tensor):
        raise Unavailable(f"its denoiser gives a {type(found).__name__} where a tensor was expected")
    return found


def _with_result(output: Any, result: Any) -> Any:
    """Return what a denoiser gives back with another tensor in it."""
    import torch

    of_output = _result(output)
    result = result.to(of_output.device, of_output.dtype)
    if isinstance(output, torch.Tensor):
        return result
    if isinstance(output, tuple):
        return (result, *output[1:])
    return dataclasses.replace(output, **{dataclasses.fields(output)[0].name: result})


def _again(rows: Any, recorded_batch: int, batch: int) -> Any:
    """Rows (groups * recorded_batch, ...) as (groups * batch, ...), the recorded ones again and again in each group."""
    groups = rows.shape[0] // recorded_batch
    of_group = rows.reshape(groups, recorded_batch, *rows.shape[1:])
    chosen = [index % recorded_batch for index in range(batch)]
    return of_group[:, chosen].reshape(groups * batch, *rows.shape[1:])
