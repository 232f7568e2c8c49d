"""Graphs of the denoiser: captured as a CUDA graph by hand, or compiled together with the scheduler's step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tuner.knobs.base import Knob, NoEffect, denoisers, for_each_denoiser
from tuner.knobs.code import Code, assign
from tuner.knobs.compile import CUDA_GRAPH_MODES, clone_outputs, compile_options, cuda_graph_conflict
from tuner.records.codec import Value
from tuner.records.machine import Environment
from tuner.records.model import Architecture

WARM_UPS = 3
MAX_GRAPHS = 32
EULER = "FlowMatchEulerDiscreteScheduler"


def replays_cuda_graphs(values: Mapping[str, Value]) -> bool:
    """Return whether a candidate replays CUDA graphs, which hide the memory of a call: a replay allocates nothing."""
    return values.get("compile.mode") in CUDA_GRAPH_MODES or bool(values.get("graphs.denoiser"))


class SchedulerStep(Knob):
    """Whether the scheduler's Euler step is compiled in one graph with the denoiser, so that its arithmetic fuses."""

    name = "graphs.scheduler_step"
    choices = (False, True)
    order = 41

    def unavailable_reason(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        if not value:
            return None
        if architecture.pipeline_class != "FluxPipeline":
            return "only FluxPipeline passes its latents to the denoiser unchanged and calls it once a step"
        if architecture.components.get("scheduler") != EULER:
            return f"only the Euler step of {EULER} is built in"
        return None

    def is_active(self, values: Mapping[str, Value]) -> bool:
        return values["compile.scope"] == "full" and values.get("compile.backend", "inductor") == "inductor"

    def conflict_reason(self, values: Mapping[str, Value], architecture: Architecture) -> str | None:
        if not values.get(self.name):
            return None
        if values.get("cache.kind", "none") != "none":
            return "a cache breaks the graph that the step would be part of"
        if values.get("scheduler.kind", "own") != "own":
            return "only the pipeline's own Euler step is built in"
        return None

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        scheduler = pipe.scheduler
        if type(scheduler).__name__ != EULER or scheduler.config.stochastic_sampling:
            raise NoEffect(f"the scheduler is not a deterministic {EULER}")
        denoiser = denoisers(pipe)[0]
        denoiser._compiled_call_impl = DenoiserWithStep(denoiser, scheduler, compile_options(values))
        scheduler.step = denoiser._compiled_call_impl.step
        return f"{type(scheduler).__name__}.step compiled with the denoiser"

    def code(self, values: Mapping[str, Value]) -> Code | None:
        lines = (
            *assign("options", compile_options(values)),
            "denoiser._compiled_call_impl = DenoiserWithStep(denoiser, pipe.scheduler, options)",
            "pipe.scheduler.step = denoiser._compiled_call_impl.step",
        )
        return for_each_denoiser(*lines, carried=(DenoiserWithStep,))


class DenoiserWithStep:
    """A denoiser's call that also computes the scheduler's step, which `step` then returns."""

    def __init__(self, denoiser: Any, scheduler: Any, options: dict[str, Any]) -> None:
        import torch

        def denoise_and_step(change: Any, **named: Any) -> tuple[Any, Any]:
            output = denoiser._call_impl(**named)
            velocity = output[0]
            sample = named["hidden_states"].to(torch.float32)
            return output, (sample + change * velocity).to(velocity.dtype)

        self.call = torch.compile(denoise_and_step, **options)
        if options["mode"] in CUDA_GRAPH_MODES:
            self.call = clone_outputs(self.call)
        self._scheduler = scheduler
        self._plain_step = scheduler.step
        self._ready: tuple[Any, Any, Any] | None = None
        self._is_proven = False

    def __call__(self, **named: Any) -> Any:
        scheduler = self._scheduler
        index = scheduler.begin_index if scheduler.step_index is None else scheduler.step_index
        if index is None:
            raise NoEffect("the pipeline does not set the scheduler's begin index")
        change = scheduler.sigmas[index + 1] - scheduler.sigmas[index]
        output, after = self.call(change, **named)
        self._ready = (output[0], named["hidden_states"], after)
        return output

    def step(self, model_output: Any, timestep: Any, sample: Any, *others: Any, **named: Any) -> Any:
        """Return what the scheduler's own `step` would return.

        The scheduler's own is called if the pipeline changed the denoiser's output, as true classifier-free guidance
        does. Raises NoEffect if that is so from the first step on.
        """
        velocity, before, after = self._ready or (None, None, None)
        self._ready = None
        is_usual = not others and named.keys() <= {"return_dict"}
        if velocity is not model_output or before is not sample or not is_usual:
            if not self._is_proven:
                raise NoEffect("the pipeline does not pass the denoiser's output to the scheduler unchanged")
            return self._plain_step(model_output, timestep, sample, *others, **named)
        self._is_proven = True
        scheduler = self._scheduler
        if scheduler.step_index is None:
            scheduler._init_step_index(timestep)
        scheduler._step_index += 1
        if not named.get("return_dict", True):
            return (after,)
        from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteSchedulerOutput

        return FlowMatchEulerDiscreteSchedulerOutput(prev_sample=after)


class DenoiserGraph(Knob):
    """Whether the denoiser's call is captured in a CUDA graph by hand and replayed: no Python, one launch a call."""

    name = "graphs.denoiser"
    choices = (False, True)
    order = 42

    def unavailable_reason(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        return "CUDA graphs need a GPU, and this is a CPU" if value and environment.device == "cpu" else None

    def conflict_reason(self, values: Mapping[str, Value], architecture: Architecture) -> str | None:
        if not values.get(self.name):
            return None
        if values.get("compile.mode") in CUDA_GRAPH_MODES:
            return f"{values['compile.mode']} captures CUDA graphs itself"
        if values.get("compile.backend") == "tensorrt":
            return "TensorRT's engines run on a stream of their own, outside the capture"
        return cuda_graph_conflict(values)

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        names = []
        for denoiser in denoisers(pipe):
            call = denoiser._compiled_call_impl
            if isinstance(call, DenoiserWithStep):
                call.call = CapturedCall(call.call, denoiser.device)
            else:
                denoiser._compiled_call_impl = CapturedCall(call or denoiser._call_impl, denoiser.device)
            names.append(type(denoiser).__name__)
        if not names:
            raise NoEffect("the pipeline has no denoiser")
        return f"{', '.join(names)}: one CUDA graph for each shape of the inputs"

    def code(self, values: Mapping[str, Value]) -> Code | None:
        lines = ["call = denoiser._compiled_call_impl or denoiser._call_impl"]
        lines += ["denoiser._compiled_call_impl = CapturedCall(call, denoiser.device)"]
        if values.get("graphs.scheduler_step"):
            lines = ["step = denoiser._compiled_call_impl", "step.call = CapturedCall(step.call, denoiser.device)"]
        return for_each_denoiser(*lines, carried=(CapturedCall,))


class CapturedCall:
    """A call that is captured as a CUDA graph once for each signature of its inputs, and replayed from then on.

    A signature is the shape and type of each tensor, and everything else by value. The outputs are copies.
    """

    def __init__(self, call: Callable[..., Any], device: Any) -> None:
        self._call = call
        self._device = device
        self._captured: dict[Any, tuple[list[Any], Callable[[], None], Any]] = {}
        self._pool: Any = None

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        import torch
        from torch.utils._pytree import tree_flatten, tree_map_only

        leaves, form = tree_flatten((arguments, named))
        signature = (str(form), *(leaf_signature(leaf) for leaf in leaves))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        if signature not in self._captured:
            if len(self._captured) == MAX_GRAPHS:
                raise RuntimeError(
                    f"the denoiser had {MAX_GRAPHS} inputs of different shape or value, each a CUDA graph"
                )
            self._captured[signature] = self._capture(leaves, form)
        inputs, replay, outputs = self._captured[signature]
        for buffer, tensor in zip(inputs, tensors, strict=True):
            buffer.copy_(tensor, non_blocking=True)
        replay()
        return tree_map_only(torch.Tensor, torch.clone, outputs)

    def _capture(self, leaves: list[Any], form: Any) -> tuple[list[Any], Callable[[], None], Any]:
        """Capture the call; return its input buffers, a replay that reads them, and the outputs that it writes."""
        import torch
        from torch.utils._pytree import tree_unflatten

        def held(leaf: Any) -> Any:
            if not isinstance(leaf, torch.Tensor):
                return leaf
            return torch.empty_like(leaf, device=self._device).copy_(leaf)

        leaves = [held(leaf) for leaf in leaves]
        arguments, named = tree_unflatten(leaves, form)
        replay, outputs = self._record(lambda: self._call(*arguments, **named))
        return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)], replay, outputs

    def _record(self, call: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """Capture a call that reads and writes fixed memory; return its replay and its outputs."""
        import torch

        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):  # compiling, autotuning and set-up of a first call cannot be captured
            for _ in range(WARM_UPS):
                call()
        torch.cuda.current_stream(self._device).wait_stream(stream)
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            outputs = call()
        return graph.replay, outputs


def leaf_signature(leaf: Any) -> Any:
    """Return the part of an input that a captured graph depends on: a tensor's shape and type, or the value itself."""
    import torch

    return (leaf.shape, leaf.dtype) if isinstance(leaf, torch.Tensor) else (type(leaf), leaf)
