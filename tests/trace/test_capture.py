"""What capture marks in a trace, and that it leaves the scheduler as it was."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tuner.trace import capture as capturing  # noqa: E402
from tuner.trace import events, read, sync_lines  # noqa: E402
from tuner.trace.capture import DIAGNOSED_STEPS, capture, diagnose  # noqa: E402
from tuner.trace.summary import summarise  # noqa: E402


class Scheduler:
    """A scheduler as pipelines use it: they look into the signatures of both of its methods."""

    def __init__(self) -> None:
        self.seen: list[set[str]] = []

    def set_timesteps(self, num_inference_steps: int, sigmas: Any = None) -> None:
        self.steps = num_inference_steps

    def step(self, model_output: Any, timestep: int, generator: Any = None) -> Any:
        return model_output * 2

    def call(self, steps: int) -> None:
        torch.ones(4).sum()  # a text encoder, say
        self.seen += [set(inspect.signature(method).parameters) for method in (self.set_timesteps, self.step)]
        self.set_timesteps(steps)
        latents = torch.ones(4)
        for index in range(steps):
            latents = self.step(torch.relu(latents), index)


def test_the_first_step_is_marked_apart(tmp_path: Path) -> None:
    scheduler = Scheduler()
    trace = read.load(capture(scheduler.call, scheduler, tmp_path, "t"))
    assert [step.name for step in trace.steps] == ["denoise_step#2", "denoise_step#3", "denoise_step#4"]
    assert trace.first is not None
    assert trace.first.end <= trace.steps[0].ts
    before = [event.name for event in trace.host if event.ts < trace.first.ts]
    assert "aten::sum" in before
    assert "aten::relu" not in before


def test_with_stacks_the_first_steps_are_recorded_and_nothing_after_them(tmp_path: Path) -> None:
    scheduler, made = Scheduler(), list[int]()

    def call(steps: int) -> None:
        made.append(steps)
        scheduler.call(steps)
        torch.ones(4).cumsum(0)  # a decoder, say

    trace = read.load(diagnose(call, scheduler, tmp_path))
    assert made == [DIAGNOSED_STEPS]
    assert trace.first is not None and len(trace.steps) == DIAGNOSED_STEPS - 1
    assert any(event.name == "aten::relu" for event in trace.host)
    assert not any(event.name == "aten::cumsum" for event in trace.host)


def test_a_call_that_fails_with_stacks_leaves_no_profiler(tmp_path: Path) -> None:
    scheduler = Scheduler()

    def fail(steps: int) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        diagnose(fail, scheduler, tmp_path)
    assert read.load(diagnose(scheduler.call, scheduler, tmp_path)).steps


def test_the_scheduler_is_a_component_of_its_own(tmp_path: Path) -> None:
    scheduler = Scheduler()
    summary = summarise(read.load(capture(scheduler.call, scheduler, tmp_path, "t")))
    assert set(summary.components) == {"denoiser", events.SCHEDULER}


def test_the_scheduler_looks_and_is_left_as_it_was(tmp_path: Path) -> None:
    scheduler = Scheduler()
    capture(scheduler.call, scheduler, tmp_path, "t")
    assert scheduler.seen == [{"num_inference_steps", "sigmas"}, {"model_output", "timestep", "generator"}]
    assert not {"step", "set_timesteps"} & vars(scheduler).keys()


def test_a_step_that_a_knob_put_there_stays(tmp_path: Path) -> None:
    scheduler = Scheduler()
    own = scheduler.step
    scheduler.step = own  # type: ignore[method-assign]
    capture(scheduler.call, scheduler, tmp_path, "t")
    assert vars(scheduler)["step"] is own


@pytest.mark.parametrize("name", [b"\xde\xad", b"\xa0~\xc5\x1ap\x7f"])
def test_a_name_that_is_no_text_leaves_a_readable_trace(name: bytes, tmp_path: Path) -> None:
    """As of a function whose module was imported and done with while the profiler watched (seen in torch 2.13)."""

    class Profiler:
        def export_chrome_trace(self, path: str) -> None:
            Path(path).write_bytes(
                b'{"traceEvents": [\n{"ph": "X", "cat": "cpu_op", "name": "' + name + b'", "ts": 1}\n]}'
            )

    path = tmp_path / "trace.json"
    capturing._export_readable(Profiler(), path)  # type: ignore[arg-type]
    assert len(read.load(path).host) == 1


def test_a_name_that_breaks_the_json_is_exported_the_slow_way(tmp_path: Path) -> None:
    class Profiler:
        def export_chrome_trace(self, path: str, use_python_export: bool = False) -> None:
            name = "right" if use_python_export else 'wr"ng'
            Path(path).write_text(f'{{"traceEvents": [{{"ph": "X", "cat": "cpu_op", "name": "{name}", "ts": 1}}]}}')

    path = tmp_path / "trace.json"
    capturing._export_readable(Profiler(), path)  # type: ignore[arg-type]
    assert [event.name for event in read.load(path).host] == ["right"]


def test_a_good_trace_is_read_by_the_caller_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "load", lambda path: pytest.fail("read once more"))
    scheduler = Scheduler()
    assert capture(scheduler.call, scheduler, tmp_path, "t").is_file()


def test_tensors_get_their_own_methods_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def own(tensor: Any, *arguments: Any, **named: Any) -> Any:
        return torch._C.TensorBase.to(tensor, *arguments, **named)

    before = {name: vars(torch.Tensor).get(name) for name in sync_lines._COPIES}
    monkeypatch.setattr(torch.Tensor, "to", own)
    with sync_lines.annotate_waits():
        assert vars(torch.Tensor)["to"] is not own
        assert torch.ones(2).to(torch.int32).tolist() == [1, 1]
    assert {name: vars(torch.Tensor).get(name) for name in sync_lines._COPIES} == {**before, "to": own}


def test_what_is_compiled_meanwhile_has_no_annotations_in_it() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    with sync_lines.annotate_waits():
        traced = make_fx(lambda x: x.to(torch.float64) + 1, tracing_mode="fake")(torch.ones(2))
    assert [node.name for node in traced.graph.nodes if "record" in node.name] == []
    assert traced(torch.ones(2)).tolist() == [2, 2]


def test_a_start_that_fails_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.cuda import _gpu_trace

    def fails(callback: Any) -> None:
        raise RuntimeError("no room")

    registries = (_gpu_trace.DeviceSynchronizationCallbacks, _gpu_trace.StreamSynchronizationCallbacks)
    before = [list(registry.callback_list) for registry in registries]
    monkeypatch.setattr(_gpu_trace.EventSynchronizationCallbacks, "add_callback", fails)
    with pytest.raises(RuntimeError, match="no room"), sync_lines.annotate_waits():
        pass
    assert [registry.callback_list for registry in registries] == before
