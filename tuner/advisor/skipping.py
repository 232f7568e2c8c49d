"""Effects of what computes less: fewer steps, caches between steps, less guidance, fewer tokens, larger batches."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from tuner.advisor.call import (
    ATTENTION,
    CONVOLUTIONS,
    COPIES,
    ELEMENTWISE,
    HOST,
    IDLE,
    PRODUCTS,
    REST,
    STEP_PARTS,
    TEXT,
    VAE,
    Change,
)
from tuner.advisor.effects import Effect, EffectOf, Facts, change, fixed, nothing, of_each, percent
from tuner.advisor.products import JOINT, to_peak
from tuner.records.codec import Value

WHOLE_STEP = (*STEP_PARTS, HOST)

SKIPPED_COST = 0.03
"""What a skipped step takes of a computed one (cache-dit on FLUX.1-dev, H200)."""

FIRST_BLOCK = ((0.05, 0.15), (0.08, 0.36), (0.12, 0.45), (0.2, 0.58), (0.4, 0.72))
TEACACHE = ((0.08, 0.05), (0.2, 0.26), (0.25, 0.33), (0.4, 0.44), (0.6, 0.52), (0.8, 0.58))
DBCACHE = ((0.05, 0.2), (0.08, 0.32), (0.12, 0.42), (0.2, 0.52), (0.4, 0.62))
BY_THRESHOLD = {"first-block": FIRST_BLOCK, "teacache": TEACACHE, "dbcache": DBCACHE}
"""The share of the steps that a cache skips by its threshold, as its authors publish it for FLUX.1-dev."""

PUBLISHED_STEPS = 28
"""The steps of those figures. With fewer, neighbouring steps differ more in proportion, and a threshold skips what a
smaller one would. On the trained demo a first-block cache of 0.12 skips 46, 21, 0 and 0 % of 28, 14, 7 and 4 steps."""

MAG_SKIPPED = 0.54
"""The share of its steps that the published magnitudes of FLUX.1-dev skip, with at most 3 in a row."""

SPREAD = (0.2, 0.25)
"""What may be skipped more and less than published: it depends on the model and the prompts."""

FULL_STEPS = 3
"""Steps that TaylorSeer computes before it extrapolates."""

UNIPC_S = 4e-3
"""Seconds that UniPC's many small operations add to a step on the GPU (FLUX.1-dev and SDXL, H200)."""

OUTER_LAYERS = 0.35
"""What a step takes of a whole one in which DeepCache skips a UNet's inner layers."""


def step_change(factor: float, low: float, high: float, least: float) -> tuple[Change, ...]:
    """Change all parts of the steps alike."""
    return tuple(change(part, factor, low, high, least) for part in WHOLE_STEP)


def steps(value: Value, facts: Facts) -> Effect:
    """Return the effect of fewer steps, which take a proportional part of the steps' time."""
    factor = int(value) / int(facts.without["steps"])
    changes = (
        *step_change(factor, factor * 0.985, factor * 1.02, factor * 0.97),
        change(REST, 1.0, factor, 1.0, factor),
    )
    return Effect(f"{value} of {facts.without['steps']} steps", changes)


def batch(value: Value, facts: Facts) -> Effect:
    """Return the effect of a batch, which shares launches and gaps and fills the device better."""
    share = int(facts.without["batch"]) / int(value)
    peak = to_peak(facts, 1.0, 0.9, 1.03)
    half_way = max(peak.least, 0.5 + peak.least / 2 if peak.least < 0.9 else 1.0)
    changes = (
        change(PRODUCTS, half_way, peak.least, 1.04, peak.least), change(HOST, share, share, share * 1.3, share),
        change(IDLE, (1 + share) / 2, share, 1.0, share), change(ELEMENTWISE, 1.0, 0.85, 1.06, 0.6),
        change(ATTENTION, 0.98, 0.85, 1.03, 0.6), change(CONVOLUTIONS, 0.87, 0.75, 1.0, 0.5),
        change(REST, share, share, 1.0, share), change(TEXT, 0.6, share, 1.0, share), change(VAE, 1.0, 0.95, 1.1, 0.8),
    )  # fmt: skip
    return Effect(f"{value} images share launches and gaps, and fill the device better", changes)


def cache_kind(value: Value, facts: Facts) -> Effect:
    """Return the effect of a cache, which skips steps or parts of them."""
    name = str(value)
    if name in ("pab", "faster"):
        products, elementwise = (0.85, 1.15) if name == "pab" else (0.8, 1.1)
        changes = (
            change(ATTENTION, 0.6, 0.4, 1.1, 0.3), change(PRODUCTS, products, 0.65, 1.05, 0.5),
            change(ELEMENTWISE, elementwise, 0.8, 1.6, 0.5), change(HOST, 1.0, 0.7, 1.6, 0.5),
        )  # fmt: skip
        return Effect("attention is reused in some steps, at the price of copies", changes)
    skipped, low, high, most = _skipped(name, facts)
    factors = (1 - share * (1 - SKIPPED_COST) for share in (skipped, high, low, most))
    text = f"about {percent(skipped)} of the steps' work is skipped, as published, {percent(most)} at most"
    return Effect(text, step_change(*factors))


def _skipped(name: str, facts: Facts) -> tuple[float, float, float, float]:
    """Return the share of the steps' work that a cache skips, its interval, and the most that it can skip."""
    count = int(facts.values["steps"])
    if name in BY_THRESHOLD:
        share = skipped_by_threshold(name, float(facts.values["cache.threshold"]), count)
        most = 1 - 1 / count
    elif name == "mag":
        in_a_row = int(facts.values["cache.max_skip_steps"])
        share, most = min(MAG_SKIPPED, in_a_row / (in_a_row + 1)), in_a_row / (in_a_row + 1)
    else:
        interval = int(facts.values["cache.interval"])
        computed = (
            len(taylorseer_steps(count, interval)) / count if name == "taylorseer" else -(-count // interval) / count
        )
        cost = 1 - OUTER_LAYERS if name == "deepcache" else 1.0
        share = (1 - computed) * cost
        most = (1 - 1 / interval) * (0.85 if name == "deepcache" else 1.0)
        return share, max(0.0, share - 0.08), min(most, share + 0.06), most
    share = min(share, most)
    return share, max(0.0, share - SPREAD[1]), min(most, share + SPREAD[0]), most


def skipped_by_threshold(kind: str, threshold: float, steps: int) -> float:
    """Return the share of so many steps that a cache skips by its threshold."""
    return interpolated(BY_THRESHOLD[kind], threshold * steps / PUBLISHED_STEPS)


def fewer_steps(kind: str, threshold: float, steps: int, untouched: int) -> float:
    """Return how many times as long a step takes beside a cache as with the untouched step count: less is skipped."""
    now, before = (
        1 - skipped_by_threshold(kind, threshold, count) * (1 - SKIPPED_COST) for count in (steps, untouched)
    )
    return now / before


def taylorseer_steps(count: int, interval: int) -> list[int]:
    """Return the steps that diffusers' TaylorSeer computes, as its hook counts them."""
    return [step for step in range(count) if step < FULL_STEPS or (step - FULL_STEPS - 1) % interval == 0]


def interpolated(points: tuple[tuple[float, float], ...], at: float) -> float:
    """Interpolate between points of a curve, which is flat beyond its ends."""
    if at <= points[0][0]:
        return points[0][1] * max(at, 0.0) / points[0][0]
    for (x, y), (next_x, next_y) in pairwise(points):
        if at <= next_x:
            return y + (next_y - y) * (at - x) / (next_x - x)
    return points[-1][1]


def cache_parameter(value: Value, facts: Facts) -> Effect:
    """Return the effect of another threshold or interval of a cache, against the one without it."""
    name = str(facts.values.get("cache.kind", "none"))
    if name in ("none", "pab", "faster"):
        return Effect("of this cache it was not measured", step_change(1.0, 0.7, 1.3, 0.3))
    before = _skipped(name, _with(facts, facts.without))
    after = _skipped(name, facts)
    kept = 1 - before[0] * (1 - SKIPPED_COST)
    factors = ((1 - share * (1 - SKIPPED_COST)) / kept for share in (after[0], after[2], after[1], after[3]))
    instead = f"{percent(after[0])} of the steps' work instead of {percent(before[0])}"
    return Effect(f"it skips about {instead}, {percent(after[3])} at most", step_change(*factors))


def _with(facts: Facts, values: Mapping[str, Value]) -> Facts:
    return Facts(
        facts.call, facts.roofline, facts.environment, facts.architecture, facts.workload, dict(values), facts.without
    )


def guidance(value: Value, facts: Facts) -> Effect:
    """Return the effect of steps without guidance, which run the denoiser once instead of twice."""
    share = float(value)
    factor = (1 + share) / 2
    return Effect(
        f"guidance, half of a step's work, is off after {percent(share)}",
        step_change(factor, factor * 0.93, 1.0, factor * 0.9),
    )


def scheduler(value: Value, facts: Facts) -> Effect:
    """Return the effect of a solver: Heun's run the denoiser twice a step, others take as long."""
    if "Heun" in str(value):
        return Effect("it runs the denoiser twice a step", step_change(1.96, 1.85, 2.05, 1.8), "other images")
    added_s = UNIPC_S * int(facts.without["steps"]) * facts.call.host_slowness if "UniPC" in str(value) else 0.0
    rest = of_each(lambda scale: 1 + scale * added_s / max(facts.call.parts[REST], 1e-9), (1.0, 0.3, 2.0))
    changes = (change(IDLE, 1.0, 0.8, 1.4, 0.3), change(REST, rest[0], min(0.8, rest[1]), rest[2] + 0.5, 0.6))
    return Effect("a step's arithmetic is tiny beside the denoiser's", changes, "as good images in fewer steps")


def sequence_length(value: Value, facts: Facts) -> Effect:
    """Return the effect of fewer text tokens: less work where text and image are denoised together."""
    own = facts.workload.max_sequence_length or facts.architecture.arguments.get("max_sequence_length")
    image = image_tokens(facts)
    if not isinstance(own, int) or image is None:
        return Effect("the workload's own length or size is not known", step_change(1.0, 0.85, 1.1, 0.5))
    text = int(str(value)) / own
    encoders = change(TEXT, (1 + text) / 2, min(1.0, text), max(1.0, text), min(1.0, text))
    if not facts.architecture.pipeline_class.startswith(JOINT):
        attention = change(ATTENTION, (1 + text) / 2, min(text, 1.0), max(text, 1.0), min(text, 1.0))
        return Effect("text tokens are keys and values of attention only", (attention, encoders))
    tokens = (image + int(str(value))) / (image + own)
    each = (tokens, tokens * 0.985, max(1.0, tokens), min(1.0, tokens) * 0.96)
    changes = (
        *(change(part, *each) for part in (PRODUCTS, ELEMENTWISE, COPIES)),
        change(ATTENTION, tokens**2, tokens**2 * 0.97, max(1.0, tokens**2), min(1.0, tokens**2) * 0.95), encoders,
    )  # fmt: skip
    return Effect(f"{image + int(str(value)):,.0f} instead of {image + own:,.0f} tokens are denoised", changes)


def image_tokens(facts: Facts) -> float | None:
    """Return the tokens of one image or video: one for 16 times 16 pixels, and for 4 frames after the first."""
    height, width, frames = facts.workload.height, facts.workload.width, facts.workload.num_frames
    if height is None or width is None:
        return None
    return height * width / 256 * (1 if frames is None else (frames - 1) // 4 + 1)


SKIPPING: dict[str, EffectOf] = {
    "steps": steps,
    "batch": batch,
    "cache.kind": cache_kind,
    "cache.threshold": cache_parameter,
    "cache.interval": cache_parameter,
    "cache.max_skip_steps": cache_parameter,
    "guidance.stop": guidance,
    "guidance.truncation": guidance,
    "scheduler.kind": scheduler,
    "scheduler.begin_index": fixed({
        True: Effect(
            "a look-up on the GPU is saved in each step",
            (change(IDLE, 0.9, 0.3, 1.05, 0.0), change(HOST, 0.99, 0.9, 1.02, 0.9)),
        ),
    }),
    "text.sequence_length": sequence_length,
    "lora.file": nothing("a fused LoRA changes weights, not the work of a step", "as good images in fewer steps"),
    "lora.scale": nothing("it changes the size of weights' changes, not the work of a step", "better images"),
    "parallel.kind": nothing("devices that share the work take less time and cost no less", "a shorter latency"),
    "parallel.degree": nothing("devices that share the work take less time and cost no less", "a shorter latency"),
    "vae.tiny": lambda value, facts: Effect(
        "a tiny VAE has about a fortieth of the parameters", (change(VAE, 0.1, 0.02, 0.35, least=0.01),)
    ),
    "vae.channels_last": fixed({
        True: Effect(
            "uncompiled it took 1.5 times as long on an H200, compiled it may be faster",
            (change(VAE, 1.5, 0.9, 1.6, least=0.5),),
        ),
    }),
    "vae.tiling": fixed({True: Effect("tiles overlap", (change(VAE, 1.02, 1.0, 1.5, least=1.0),), "less memory")}),
    "vae.slicing": fixed({
        True: Effect("images are decoded one by one", (change(VAE, 0.99, 0.94, 1.2, 0.9),), "less memory"),
    }),
}  # fmt: skip
"""The effects of the knobs that compute less, and of the VAE's."""
