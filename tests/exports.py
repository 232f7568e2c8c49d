"""A best_config.json that chooses given values, for the tests of what is exported."""

from __future__ import annotations

import ast
import builtins
import hashlib
from pathlib import Path
from typing import Any

import msgspec
from drawing import kind
from test_export import CPU, example, outcome

from tuner.knobs import KNOBS
from tuner.records.codec import Value, Values, encode_pretty
from tuner.records.model import Model
from tuner.result.config import measured_point
from tuner.result.records import BestConfig


def candidate(different: Values) -> Values:
    """The active knobs' values: the given ones, else the baseline's."""
    values: Values = {}
    for name, knob in KNOBS.items():
        if knob.is_active(values):
            values[name] = {"steps": 4, **different}.get(name, knob.baseline(CPU))
    return values


def choosing(different: Values, **fields: Any) -> BestConfig:
    """A result that chooses these values for the tiny pipeline."""
    best, values = example(), candidate(different)
    changed = {name: value for name, value in values.items() if value != candidate({}).get(name)}
    chosen = measured_point(outcome(5, values, 0.5 * int(values["batch"])), changed, True)
    cost = chosen.cost_usd_per_1000_images * chosen.devices
    chosen = msgspec.structs.replace(chosen, cost_usd_per_1000_images=cost)
    here = msgspec.structs.replace(best.environment, devices=chosen.devices)
    return msgspec.structs.replace(
        best, **{"environment": here, "chosen": chosen, "front": (chosen, best.baseline), **fields}
    )


def written(folder: Path, best: BestConfig) -> Path:
    """The file that holds a result."""
    file = folder / f"best-{len(list(folder.iterdir()))}.json"
    file.write_bytes(encode_pretty(best))
    return file


BESIDE: dict[str, Values] = {
    "compile": {"compile.scope": "full"}, "inductor": {"compile.scope": "full", "compile.mode": "max-autotune"},
    "graphs.scheduler_step": {"compile.scope": "full"}, "cache.threshold": {"cache.kind": "dbcache"},
    "cache.interval": {"cache.kind": "pab"}, "cache.max_skip_steps": {"cache.kind": "mag"},
    "inductor.coordinate_descent_check_all_directions": {
        "compile.scope": "regional", "inductor.coordinate_descent_tuning": True
    },
    "inductor.conv_1x1_as_mm": {"compile.vae": True}, "attention.flash_impl": {"attention.backend": "_native_flash"},
    "lora.scale": {"lora.file": "/weights/lora.safetensors"}, "parallel.degree": {"parallel.kind": "ulysses"},
}  # fmt: skip
"""What a knob needs to be active."""

OWN_FILES: dict[str, tuple[Value, ...]] = {
    "quantization.gguf_file": ("/weights/model.gguf",), "vae.tiny": ("/weights/taesd", "madebyollin/taef1@main"),
    "lora.file": ("/weights/lora", "a/b/c.safetensors@v1"),
}  # fmt: skip


def beside(name: str, value: Value) -> Values:
    return {**BESIDE.get(name.partition(".")[0], {}), **BESIDE.get(name, {}), name: value}


def undefined(text: str) -> set[str]:
    """The names that a file reads, annotations included, and nothing in it binds."""
    nodes = list(ast.walk(ast.parse(text)))
    names = [node for node in nodes if isinstance(node, ast.Name)]
    bound = {node.id for node in names if not isinstance(node.ctx, ast.Load)} | {"__name__"}
    bound |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    bound |= {str(node.name) for node in nodes if isinstance(node, ast.ExceptHandler)}
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    return {node.id for node in names if not hasattr(builtins, node.id)} - bound


def drawn(tuned: Any, prompts: list[str]) -> str:
    import numpy as np
    import torch

    generators = [torch.Generator().manual_seed(seed) for seed in range(tuned.call.batch)]
    images = tuned.pipe(prompts, generator=generators, output_type="np", **tuned.call.arguments).images
    return hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest()


def of_tiny(folder: Path, different: Values) -> Any:
    name, workload = kind(folder).pipeline_class, example().workload
    if name != "FluxPipeline":
        workload = msgspec.structs.replace(workload, max_sequence_length=None, negative_prompt="grey")
    model = Model(source=str(folder), revision=None, pipeline_class=name, scorer="demo")
    return choosing(different, model=model, workload=workload)
