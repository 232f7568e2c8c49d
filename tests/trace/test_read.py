"""Reading traces: whole ones fast, broken ones with one clear line."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tuner.errors import BadInput
from tuner.trace import read, sources
from tuner.trace.enclosing import EnclosingEvent


def test_plain_and_gzipped_read_alike(planted: Any, tmp_path: Path) -> None:
    planted.item(402, 60)
    zipped = read.load(planted.save(tmp_path))
    plain = read.load(planted.save(tmp_path, "plain.json"))
    assert zipped.host == plain.host
    assert [step.name for step in plain.steps] == ["denoise_step#2", "denoise_step#3", "denoise_step#4"]


def test_nesting_follows_thread_and_time(planted: Any, tmp_path: Path) -> None:
    planted.item(402, 60)
    trace = read.load(planted.save(tmp_path))
    sync = next(i for i, event in enumerate(trace.host) if event.name == "cudaStreamSynchronize")
    names = []
    while (sync := trace.parents[sync]) >= 0:
        names.append(trace.host[sync].name)
    assert names == ["aten::_local_scalar_dense", "aten::item", "denoise_step#2", "ProfilerStep#2"]


def test_another_thread_is_no_parent(planted: Any, tmp_path: Path) -> None:
    planted.host("aten::mm", 100, 50)
    planted.events[-1]["tid"] = 7
    trace = read.load(planted.save(tmp_path))
    index = next(i for i, event in enumerate(trace.host) if event.name == "aten::mm")
    assert trace.parents[index] == -1


def test_the_innermost_wanted_event_is_found_and_each_is_asked_for_once(planted: Any, tmp_path: Path) -> None:
    for depth in range(50):
        planted.host("aten::outer" if depth % 10 == 0 else "aten::inner", 100 + depth, 500 - 2 * depth)
    trace = read.load(planted.save(tmp_path))
    asked: list[int] = []

    def wanted(index: int) -> bool:
        asked.append(index)
        return trace.host[index].name == "aten::outer"

    around = EnclosingEvent(trace, wanted)
    found = {trace.host[index].ts: around(index) for index in range(len(trace.host))}
    assert trace.host[found[145]].ts == 140
    assert trace.host[found[140]].ts == 130
    assert found[100] == -1
    assert len(asked) == len(set(asked))


def test_a_hundred_thousand_events_are_quick(planted: Any, tmp_path: Path) -> None:
    for i in range(25_000):
        planted.kernel(100 + i * 0.1, 0.05)
    path = planted.save(tmp_path)
    start = time.perf_counter()
    trace = read.load(path)
    assert len(trace.host) + len(trace.device) == 75_006
    assert time.perf_counter() - start < 2  # some 0.3 s alone on one core


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "truncated"),
        (b"not json", "malformed"),
        (b'{"traceEvents": [{"ph": "X"', "truncated"),
        (b'{"traceEvents": 5}', "traceEvents"),
        (b'{"other": []}', "traceEvents"),
        (b'{"traceEvents": [{"ph": "X", "name": 5}]}', "name"),
        (b'{"traceEvents": [{"ph": "X", "ts": "soon"}]}', "ts"),
        (b'{"traceEvents": [{"ph": "X", "cat": "cpu_op", "name": "n", "ts": 5, "dur": -1}]}', "negative"),
        (b'{"traceEvents": [{"ph": "X", "args": {"bytes": -1}}]}', "bytes"),
        (b'{"traceEvents": [{"ph": "X", "args": {"bytes": 1' + b"0" * 400 + b"}}]}", "bytes"),
        (b'{"traceEvents": [{"ph": "X", "args": {"correlation": -5}}]}', "correlation"),
        (b'{"traceEvents": [{"ph": "X", "tid": 1' + b"0" * 40 + b"}]}", "tid"),
        (b'{"traceEvents": [{"ph": "X", "args": ' + b"[" * 5000 + b"]" * 5000 + b"}]}", "args"),
        (b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b', "traceEvents": []}', "recursion"),
        (b"\xff\xfe", "malformed"),
        (gzip.compress(json.dumps({"traceEvents": []}).encode(), mtime=0)[:-12], "end-of-stream"),
        (b"\x1f\x8b garbage", "garbage"),
    ],
)
def test_a_broken_file_is_one_clear_line(content: bytes, word: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.pt.trace.json"
    path.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        read.load(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert word == "garbage" or word in message.lower() or word in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No such file"):
        read.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("file", "user"),
    [
        ("/home/me/model.py", True),
        ("/usr/lib/python3.12/site-packages/diffusers/models/x.py", True),
        ("/home/me/torch/model.py", True),
        ("diffusers/models/x.py", True),
        ("/venv/lib/python3.12/site-packages/torch/nn/modules/module.py", False),
        ("torch/nn/modules/module.py", False),
        ("/usr/lib/python3.12/contextlib.py", False),
        ("/usr/lib/python3.12/logging/__init__.py", False),
        ("/usr/lib/python3/dist-packages/diffusers/models/x.py", True),
        ("/venv/lib/python3.12/site-packages/triton/runtime/jit.py", False),
        ("/tmp/torchinductor_me/ab/cab.py", False),
        ("/opt/pytorch/torch/nn/modules/module.py", False),
        ("/root/site/torch/_tensor.py", False),
        ("/root/site/triton/runtime/jit.py", False),
        ("/root/site/diffusers/models/attention.py", True),
        ("/home/me/torch/utils/samplers.py", True),
        ("<string>", False),
        ("contextlib.py", False),
        ("concurrent/futures/thread.py", False),
        ("profile.py", True),
    ],
)
def test_user_code(file: str, user: bool) -> None:
    assert sources.is_user_code(file) is user


@pytest.mark.parametrize(
    ("line", "beside"),
    [
        ("diffusers/models/autoencoders/autoencoder_kl.py:7", True),
        ("/home/me/diffusers/src/diffusers/models/autoencoders/vae.py:7", True),
        ("transformers/models/clip/modeling_clip.py:7", True),
        ("transformers/masking_utils.py:7", True),
        ("diffusers/models/transformers/transformer_flux.py:7", False),
        ("diffusers/models/unets/unet_2d_condition.py:7", False),
        ("diffusers/models/resnet.py:7", False),
        ("/home/me/transformers/mine.py:7", False),
        ("", False),
    ],
)
def test_what_runs_beside_the_denoiser(line: str, beside: bool) -> None:
    assert sources.is_outside_denoiser(line) is beside


def test_a_call_stack_is_read_in_one_pass() -> None:
    stack = "<built-in method item of Tensor>;torch/x.py(9): g;diffusers/m.py(40): forward;run.py(3): f;"
    assert sources.from_call_stack(stack) == "diffusers/m.py:40"
    start = time.perf_counter()
    assert sources.from_call_stack("a" * 100_000) == ""
    assert time.perf_counter() - start < 1


def test_a_line_of_a_package_needs_no_folder() -> None:
    for packages in ("/venv/lib/python3.12/site-packages", "/usr/lib/python3/dist-packages"):
        assert sources.line(f"{packages}/diffusers/m.py", 3) == "diffusers/m.py:3"
    for folder in ("/root/site", "/home/me/diffusers/src", "/work/diffusers"):
        assert sources.line(f"{folder}/diffusers/hooks/hooks.py", 91) == "diffusers/hooks/hooks.py:91"
    flux = "diffusers/models/transformers/transformer_flux.py"
    assert sources.line(f"/root/site/{flux}", 7) == f"{flux}:7"
    assert sources.line("/home/me/diffusers/mine.py", 7) == "/home/me/diffusers/mine.py:7"


def test_reading_and_judging_need_no_torch() -> None:
    modules = "read, gate, summary, findings, compile_log, sources, trim"
    code = f"import sys; from tuner.trace import {modules}; assert not {{'torch', 'tensorflow'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
