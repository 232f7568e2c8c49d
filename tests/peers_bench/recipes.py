"""A peer's recipe in a process of its own, perhaps in an environment of its own: nothing of this package is imported.

It reads a job as JSON from its first argument and writes what it measured as JSON in its last line.
"""

from __future__ import annotations

import copy
import importlib
import json
import runpy
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

Job = Mapping[str, Any]
"""The peer's name, the pipeline's folder, the arguments of the call, the number of calls, the exported file, when the
parent started this process (`time.monotonic`, one clock for all processes of a machine), and where images go."""

MARK = "measured: "
SAMPLED_S = 0.05
"""How often the clock is read during the calls."""


def load(job: Job) -> Any:
    """Return the pipeline as diffusers loads it, on the GPU if there is one."""
    import torch
    from diffusers import DiffusionPipeline

    is_gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if is_gpu else torch.float32
    return DiffusionPipeline.from_pretrained(job["model"], torch_dtype=dtype).to("cuda" if is_gpu else "cpu")


def denoiser_of(pipe: Any) -> Any:
    return getattr(pipe, "transformer", None) or pipe.unet


def mode(name: str) -> str:
    """Return an autotuning mode of torch.compile on a GPU, and the default on a CPU."""
    import torch

    return name if torch.cuda.is_available() else "default"


# ---- recipes --------------------------------------------------------------------------------------------------------


def defaults(job: Job) -> Any:
    """Return diffusers' pipeline untouched."""
    return load(job)


def documented(job: Job) -> Any:
    """Follow diffusers' documentation (optimization/fp16): inductor's flags, fused projections, max-autotune."""
    import torch
    from torch._inductor import config

    pipe, denoiser = (loaded := load(job)), denoiser_of(loaded)
    config.conv_1x1_as_mm = True
    config.coordinate_descent_tuning = torch.cuda.is_available()
    config.epilogue_fusion = False
    config.coordinate_descent_check_all_directions = torch.cuda.is_available()
    denoiser.fuse_qkv_projections()
    pipe.vae.to(memory_format=torch.channels_last)
    if hasattr(pipe, "unet"):
        denoiser.to(memory_format=torch.channels_last)
    denoiser.compile(mode=mode("max-autotune"), fullgraph=True)
    pipe.vae.decode = torch.compile(pipe.vae.decode, mode=mode("max-autotune"), fullgraph=True)
    return pipe


def regional(job: Job) -> Any:
    """Follow diffusers' documentation of regional compilation: each repeated block compiled once."""
    pipe = load(job)
    denoiser_of(pipe).compile_repeated_blocks(fullgraph=True)
    return pipe


def torchao(job: Job) -> Any:
    """Follow diffusers-torchao's README: fused projections, fp8 per row (int8 on a CPU), max-autotune."""
    import torch
    from torchao import quantization as ao

    pipe, denoiser = (loaded := load(job)), denoiser_of(loaded)
    denoiser.fuse_qkv_projections()
    pipe.vae.to(memory_format=torch.channels_last)
    eight = (
        ao.Float8DynamicActivationFloat8WeightConfig(granularity=ao.PerRow())
        if torch.cuda.is_available()
        else ao.Int8WeightOnlyConfig()
    )
    blocks = tuple(name for name, _ in denoiser.named_children() if "blocks" in name)
    ao.quantize_(denoiser, eight, filter_fn=lambda module, name: type(module) is torch.nn.Linear
                 and name.startswith(blocks) and "norm" not in name)  # fmt: skip
    denoiser.compile(mode=mode("max-autotune-no-cudagraphs"), fullgraph=True)
    pipe.vae.decode = torch.compile(pipe.vae.decode, mode=mode("max-autotune-no-cudagraphs"), fullgraph=True)
    return pipe


def cache_dit(job: Job) -> Any:
    """Use cache-dit's own API: fp8 per row on a GPU, its compile settings, and its step mask if the job names one."""
    import torch

    cache: Any = importlib.import_module("cache_dit")
    pipe = load(job)
    if job["mask"]:
        steps = job["call"]["num_inference_steps"]
        mask = cache.steps_mask(total_steps=steps, mask_policy=job["mask"])
        cache.enable_cache(
            pipe,
            cache_config=cache.DBCacheConfig(
                Fn_compute_blocks=1, Bn_compute_blocks=0, num_inference_steps=steps, steps_computation_mask=mask
            ),
        )
    denoiser = denoiser_of(pipe)
    if torch.cuda.is_available():
        cache.quantize(denoiser, cache.QuantizeConfig(quant_type="float8_per_row"))
    cache.set_compile_configs()
    denoiser.compile_repeated_blocks()
    return pipe


def para_attention(job: Job) -> Any:
    """Follow ParaAttention's guide to the fastest FLUX: first-block cache and compile."""
    adapters: Any = importlib.import_module("para_attn.first_block_cache.diffusers_adapters")
    pipe = load(job)
    adapters.apply_cache_on_pipe(pipe, residual_diff_threshold=0.08)
    pipe.transformer.compile(mode=mode("max-autotune-no-cudagraphs"))
    return pipe


def pruna(job: Job) -> Any:
    """Use Pruna's API with torch_compile and fused projections."""
    library: Any = importlib.import_module("pruna")
    return library.smash(load(job), library.SmashConfig(["torch_compile", "qkv_diffusers"]))


def xdit(job: Job) -> Any:
    """Use xDiT's pipeline on one GPU with torch.compile."""
    library: Any = importlib.import_module("xfuser")
    engine, _ = library.xFuserArgs(model=job["model"], use_torch_compile=True).create_config()
    return library.xFuserFluxPipeline.from_pretrained(job["model"], engine_config=engine).to("cuda")


def aitune(job: Job) -> Any:
    """Use AITune's API: the denoiser is tuned over its default backends."""
    library: Any = importlib.import_module("aitune.torch")
    pipe = load(job)
    pipe.transformer = library.Module(pipe.transformer, "transformer")
    library.tune(pipe, [{"prompt": job["prompt"], **job["call"]}])
    return pipe


def ours(job: Job) -> Any:
    """Load the pipeline with the file that `tune export --to python` wrote. It is called as that file calls it."""
    exported = runpy.run_path(job["exported"])
    pipe = exported["load"]()
    pipe.own_call = exported["BATCH"], exported["ARGUMENTS"]
    return pipe


RECIPES: Mapping[str, Callable[[Job], Any]] = {
    each.__name__: each
    for each in (defaults, documented, regional, torchao, cache_dit, para_attention, pruna, xdit, aitune, ours)
}


# ---- measuring ------------------------------------------------------------------------------------------------------


class Gpu:
    """NVML's energy and clock of the first visible GPU; nothing where there is none."""

    def __init__(self) -> None:
        self.nvml: Any = None
        self.handle: Any = None
        try:
            import torch

            if torch.cuda.is_available():
                nvml: Any = importlib.import_module("pynvml")
                nvml.nvmlInit()
                self.handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
                self.nvml = nvml
        except Exception as error:
            print(f"no NVML: {error}", file=sys.stderr)

    def joules(self) -> float | None:
        return self.nvml and self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle) / 1e3

    @contextmanager
    def sampled(self) -> Iterator[list[float]]:
        """Collect the SM clock in MHz while the context lasts."""
        clocks: list[float] = []
        ended = threading.Event()

        def sample() -> None:
            while not ended.wait(SAMPLED_S):
                clocks.append(self.nvml.nvmlDeviceGetClockInfo(self.handle, self.nvml.NVML_CLOCK_SM))

        thread = threading.Thread(target=sample, daemon=True)
        if self.nvml is not None:
            thread.start()
        yield clocks
        ended.set()
        if self.nvml is not None:
            thread.join()


def finish() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure(job: Job) -> dict[str, Any]:
    """Build the peer, make its first call, warm up, and time its calls."""
    import numpy as np
    import torch

    pipe = RECIPES[job["recipe"]](job)
    pipe.set_progress_bar_config(disable=True)
    is_own = hasattr(pipe, "own_call")
    batch, arguments = pipe.own_call if is_own else (1, job["call"])
    gpu, drawn, seconds = Gpu(), [], []

    def call(seed: int) -> Any:
        prompts = [job["prompt"]] * batch if is_own else job["prompt"]
        generators = [torch.Generator().manual_seed(seed + place) for place in range(batch)]
        output = pipe(prompts, generator=generators if is_own else generators[0], **copy.deepcopy(arguments))
        finish()
        return (output.images if hasattr(output, "images") else output.frames)[0]

    call(0)
    first_image_s = time.monotonic() - job["started"]
    for _ in range(job["warm_ups"]):
        call(0)
    before = gpu.joules()
    with gpu.sampled() as clocks:
        for seed in range(job["calls"]):
            start = time.perf_counter()
            drawn.append(call(seed))
            seconds.append(time.perf_counter() - start)
    after = gpu.joules()
    joules = after - before if after is not None and before is not None else None
    np.save(job["images"], np.stack([np.asarray(image, "float32") for image in drawn]))
    return {
        "first_image_s": first_image_s, "seconds": seconds, "batch": batch,
        "joules": joules and joules / len(seconds) / batch, "power_w": joules and joules / sum(seconds),
        "clock_mhz": sorted(clocks)[len(clocks) // 2] if clocks else None, "versions": versions(job["packages"]),
    }  # fmt: skip


def versions(packages: list[str]) -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "diffusers", *packages)}


@contextmanager
def said_in_one_line() -> Iterator[None]:
    """End the process with the error in one line, as its parent shows it."""
    try:
        yield
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), "")
        sys.exit(f"{type(error).__name__}: {first[:200]}")


if __name__ == "__main__":
    with said_in_one_line():
        print(MARK + json.dumps(measure(json.loads(sys.argv[1]))))
