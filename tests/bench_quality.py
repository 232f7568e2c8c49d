"""Whether the panel's verdicts are right, on the demo pipeline, whose pixel oracle knows the truth.

    python tests/bench_quality.py [--prompts 256] [--device cuda] [--out FILE.jsonl]

Draws over 40 candidates in one process (step counts, quantization, caches, attention backends, and pipelines broken on
purpose), judges each as `tune run` would, and asks the oracle which images show their caption. Prints the rank
correlation of the axis with the oracle, whether each broken candidate is rejected, whether the baseline passes against
itself and against other kernels, how often the 95 % interval of a difference covers the value on all prompts, and how
long scoring takes.

`--part 1/3` draws every third candidate, so that three processes can share the work, and `--table FILE...` judges what
such runs wrote.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from resampling import coverage

from tuner.demo.captions import Caption, sample_pair
from tuner.demo.oracle import judge as oracle
from tuner.hardware import environment
from tuner.knobs import KNOBS, apply_knobs, baseline
from tuner.model import pipeline
from tuner.quality.guards import InvalidImage
from tuner.quality.images import Images
from tuner.quality.metrics import METRICS, MetricContext
from tuner.quality.panel import Judge
from tuner.records.codec import Values
from tuner.records.model import Workload
from tuner.records.protocol import Job, Point
from tuner.records.quality import Quality, Reference
from tuner.worker.scoring import Scoring

TOLERANCE = 1.0
"""Points of CLIP score, as in search_spaces/demo.yaml."""

STEPS = 28
SUBSETS = 5
PANEL_SIZE = 24
"""Prompts of the demo's own set, whose interval is checked."""

LARGER_PANEL = 64
HONEST = (0.92, 0.98)
"""How often an interval of 95 % should cover."""

MIN_MOVED = 0.05
"""Points of CLIP score, standard deviation of the differences: below it there is nothing for an interval to miss."""

MANY_CORES = 8
"""From which on the oracle has processes of its own."""


@dataclass
class Candidate:
    """`breaks` damages a loaded pipeline, `spoils` the workload or the images that are drawn."""

    name: str
    values: Values = field(default_factory=dict)
    steps: int = STEPS
    kind: str = "candidate"
    breaks: Callable[[Any], None] | None = None
    asks: Callable[[Workload], Workload] | None = None
    spoils: Callable[[Any], Any] | None = None


# ---- what breaks ----------------------------------------------------------------------------------------------------


def wrong_scale(factor: float) -> Callable[[Any], None]:
    def broken(pipe: Any) -> None:
        import torch

        with torch.no_grad():
            for name, module in pipe.transformer.named_modules():
                if isinstance(module, torch.nn.Linear) and "blocks" in name and "norm" not in name:
                    module.weight.mul_(factor)

    return broken


def drop_text(pipe: Any) -> None:
    import torch

    own = pipe.encode_prompt

    def encode(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
        pooled = own(*args, **kwargs)
        return tuple(torch.zeros_like(part) if index < 2 else part for index, part in enumerate(pooled))

    pipe.encode_prompt = encode


def skip_blocks(pipe: Any) -> None:
    for blocks in (pipe.transformer.transformer_blocks, pipe.transformer.single_transformer_blocks):
        for block in list(blocks)[1::2]:
            block.forward = lambda hidden_states=None, encoder_hidden_states=None, **_: (
                encoder_hidden_states, hidden_states,
            )  # fmt: skip


def wrong_vae_scale(pipe: Any) -> None:
    pipe.vae.register_to_config(scaling_factor=pipe.vae.config.scaling_factor * 2)


def swap_seeds(workload: Workload) -> Workload:
    return msgspec.structs.replace(workload, seeds=workload.seeds[1:] + workload.seeds[:1])


def swap_prompts(workload: Workload) -> Workload:
    return msgspec.structs.replace(workload, prompts=workload.prompts[1:] + workload.prompts[:1])


def one_seed_wrong_in_two(workload: Workload) -> Workload:
    seeds = [seed if index % 2 else seed + 10_000 for index, seed in enumerate(workload.seeds)]
    return msgspec.structs.replace(workload, seeds=tuple(seeds))


def cached_first(images: Any) -> Any:
    return np.repeat(images[:1], len(images), axis=0)


def cached_from_each_batch(images: Any) -> Any:
    return np.repeat(images[::4], 4, axis=0)[: len(images)]


def noise(images: Any) -> Any:
    return np.random.default_rng(0).random(images.shape, np.float32)


def saturated(images: Any) -> Any:
    return (images > 0.5).astype(np.float32)


def one_nan(images: Any) -> Any:
    spoilt = images.copy()
    spoilt[-1, 3, 3, 0] = np.nan
    return spoilt


BROKEN = (
    Candidate("weights scaled by 1.5", kind="broken", breaks=wrong_scale(1.5)),
    Candidate("weights scaled by 0.7", kind="broken", breaks=wrong_scale(0.7)),
    Candidate("text encoders dropped", kind="broken", breaks=drop_text),
    Candidate("half the blocks skipped", kind="broken", breaks=skip_blocks),
    Candidate("VAE scale doubled", kind="broken", breaks=wrong_vae_scale),
    Candidate("seeds swapped", kind="broken", asks=swap_seeds),
    Candidate("every other seed wrong", kind="broken", asks=one_seed_wrong_in_two),
    Candidate("prompts swapped", kind="broken", asks=swap_prompts),
    Candidate("first image cached", kind="broken", spoils=cached_first),
    Candidate("one image for four prompts", kind="broken", spoils=cached_from_each_batch),
    Candidate("noise", kind="broken", spoils=noise),
    Candidate("black", kind="broken", spoils=np.zeros_like),
    Candidate("saturated", kind="broken", spoils=saturated),
    Candidate("colours swapped", kind="broken", spoils=lambda images: images[..., ::-1]),
    Candidate("NaN in one image", kind="broken", spoils=one_nan),
)
STEP_COUNTS = (50, 40, 20, 14, 12, 10, 8, 7, 6, 5, 4, 3, 2, 1)
CACHES = (
    *(("first-block", "cache.threshold", value) for value in (0.05, 0.1, 0.2, 0.4, 0.6)),
    *(("teacache", "cache.threshold", value) for value in (0.1, 0.2, 0.4, 0.6)),
    *(("taylorseer", "cache.interval", value) for value in (2, 3, 5)),
    *(("pab", "cache.interval", value) for value in (2, 3, 5)),
)


def candidates() -> Iterator[Candidate]:
    """The harmless ones first, those that compile last: what they leave in the process cannot reach the others."""
    yield Candidate("itself", kind="harmless")
    for name in ("_native_math", "_native_efficient", "_native_flash", "_native_cudnn"):
        yield Candidate(f"attention {name}", {"attention.backend": name}, kind="harmless")
    yield from BROKEN
    yield from (Candidate(f"{steps} steps", steps=steps) for steps in STEP_COUNTS)
    for scheme in KNOBS["quantization.scheme"].choices[1:]:
        yield Candidate(f"{scheme}", {"quantization.scheme": scheme})
    for steps in (8, 4):
        yield Candidate(f"int8-dynamic, {steps} steps", {"quantization.scheme": "int8-dynamic"}, steps)
    for dtype in ("bfloat16", "float16"):
        yield Candidate(dtype, {"precision.dtype": dtype})
    for kind, parameter, value in CACHES:
        yield Candidate(f"{kind} {value}", {"cache.kind": kind, parameter: value})
    yield Candidate("first-block 0.2, 10 steps", {"cache.kind": "first-block", "cache.threshold": 0.2}, 10)
    yield Candidate("fused projections", {"fuse_qkv": True}, kind="harmless")
    yield Candidate("compiled", {"compile.scope": "regional"}, kind="harmless")


# ---- drawing and judging --------------------------------------------------------------------------------------------


class Bench:
    """The demo on one device, with its baseline drawn."""

    def __init__(self, device: str, prompts: int, batch: int, folder: Path) -> None:
        self.here = environment.detect(device)
        self.model, self.kind = pipeline.resolve("demo", None, None)
        rng = np.random.default_rng(20_261_121)
        captions = [sample_pair(rng, unseen=index % 2 == 0)[1] for index in range(prompts)]
        self.captions: list[Caption] = captions
        self.workload = Workload(
            prompts=tuple(caption.text() for caption in captions), seeds=tuple(range(prompts)),
            height=64, width=64, max_sequence_length=32,
        )  # fmt: skip
        self.batch, self.folder = batch, folder
        self.untouched = baseline(self.here)
        self.reference: Reference | None = None
        self.drawn: Any = None
        many = (os.cpu_count() or 1) >= MANY_CORES
        self.pool = ProcessPoolExecutor(8, mp_context=get_context("spawn")) if many else None
        self.context = MetricContext(self.here.device, pipeline.scorer_source(self.model), {})

    def refusal(self, candidate: Candidate) -> str | None:
        """Why a candidate cannot be had here. That it would be slow uncompiled does not matter to its images."""
        reasons = (
            KNOBS[name].unavailable_reason(value, self.here, self.kind) for name, value in candidate.values.items()
        )
        return next(filter(None, reasons), None)

    def values(self, candidate: Candidate) -> Values:
        values: Values = {}
        for name, knob in KNOBS.items():
            if knob.is_active(values):
                values[name] = candidate.values.get(name, self.untouched.get(name, knob.choices[0]))
        return values | {"steps": candidate.steps, "batch": self.batch}

    def scoring(self, candidate: Candidate) -> tuple[Scoring, Point]:
        """A pipeline with the candidate's knobs and faults, and what scores it."""
        values = self.values(candidate)
        build = {name: value for name, value in values.items() if KNOBS[name].acts == "build"}
        pipe = pipeline.load(self.model, self.here, values["precision.dtype"])
        apply_knobs(pipe, build, self.here)
        if candidate.breaks:
            candidate.breaks(pipe)
        point = Point(index=0, folder=str(self.folder / candidate.name), steps=candidate.steps, batch=self.batch)
        job = Job(
            model=self.model, environment=self.here, workload=self.workload, build=build, points=(point,),
            allowance_s=1.0, reference=self.reference,
        )  # fmt: skip
        asked = candidate.asks(self.workload) if candidate.asks else self.workload

        def draw(of: Point, first: int, end: int) -> Any:
            if candidate.spoils and self.drawn is not None:
                return candidate.spoils(self.drawn[first:end])
            return Scoring.generate_some(scoring, of, range(first, end), workload=asked)

        scoring = Scoring(pipe, job, draw, lambda: None, call_s=0.5)
        return scoring, point

    def right(self, images: Any) -> list[bool]:
        """Which images show their caption, as the oracle reads them."""
        pixels = (np.clip(np.nan_to_num(images), 0, 1) * 255).round().astype(np.uint8)
        if self.pool is None:
            verdicts = list(map(oracle, pixels, self.captions))
        else:
            verdicts = list(self.pool.map(oracle, pixels, self.captions, chunksize=16))
        return [bool(right) for right, _ in verdicts]

    def axis(self, images: Any) -> list[float]:
        """The scores of images, whatever the guards say of them."""
        stills = Images.from_pipeline(np.nan_to_num(images), self.workload.prompts)
        return list(METRICS["clip_score"].scores(stills, stills, self.context))

    def row(self, candidate: Candidate) -> dict[str, Any]:
        """Draw and judge one candidate."""
        started = time.perf_counter()
        scoring, point = self.scoring(candidate)
        parts: list[Any] = []
        own = scoring.draw

        def kept(of: Point, first: int, end: int) -> Any:
            part = own(of, first, end)
            parts.append(part)
            return part

        scoring.draw = kept
        rejected, quality = None, None
        try:
            quality = scoring.score(point)
        except InvalidImage as invalid:
            rejected = f"invalid image: {invalid}"
        drawn = np.concatenate(parts)
        if self.reference is None:
            self.reference, self.drawn = scoring.reference, drawn
        scores = self.axis(drawn) if quality is None else list(quality.scores)
        if quality is not None and quality.difference.low < -TOLERANCE:
            rejected = f"worse: {shown(quality)}"
        error = quality.denoiser_error if quality else None
        noise = quality.noise if quality else None
        right = self.right(drawn)
        return {
            "device": self.here.device_name, "name": candidate.name, "kind": candidate.kind, "steps": candidate.steps,
            "oracle": sum(right) / len(right), "right": right,
            "clip_score": sum(scores) / len(scores), "scores": scores,
            "rejected": rejected, "difference": shown(quality) if quality else None,
            "parts": self.passes(drawn, self.drawn) if candidate.kind == "harmless" else [],
            "flags": list(quality.flags) if quality else [], "noise_floor": noise.max_difference if noise else None,
            "scoring_64_images_s": scoring_seconds(self, drawn) if candidate.kind == "baseline" else None,
            "denoiser_error": error.mean if error else None, "seconds": time.perf_counter() - started,
        }  # fmt: skip

    def passes(self, images: Any, baseline: Any) -> list[str | None]:
        """Verdicts on disjoint parts of harmless images, each judged as a study of its own: None passes."""
        size = len(images) // SUBSETS
        verdicts = []
        for index in range(SUBSETS):
            part = slice(index * size, (index + 1) * size)
            workload = msgspec.structs.replace(
                self.workload, prompts=self.workload.prompts[part], seeds=self.workload.seeds[part]
            )
            judge = Judge("clip_score", self.context, workload)
            with tempfile.TemporaryDirectory() as scratch:
                own = judge.judge(baseline[part], None, Path(scratch) / "baseline")
                known = Reference(images=str(Path(scratch) / "baseline"), scores=own.scores)
                try:
                    quality = judge.judge(images[part], known, Path(scratch) / "own")
                except InvalidImage as invalid:
                    verdicts.append(str(invalid))
                    continue
            verdicts.append(None if quality.difference.low >= -TOLERANCE else shown(quality))
        return verdicts


def shown(quality: Quality) -> str:
    difference = quality.difference
    return f"{difference.value:+.2f} [{difference.low:+.2f}, {difference.high:+.2f}]"


# ---- what comes of it -----------------------------------------------------------------------------------------------


def reliability(rows: list[dict[str, Any]], of: str) -> float:
    """The rank correlation that figures of one half of the prompts have with the oracle's of the other, on average: of
    the oracle's own ("right") it bounds what any axis can reach with so few."""
    from scipy.stats import spearmanr

    ours, truth = (np.array([row[name] for row in rows], np.float64) for name in (of, "right"))
    rng, half = np.random.default_rng(0), ours.shape[1] // 2
    found = []
    for _ in range(50):
        order = rng.permutation(ours.shape[1])
        found.append(spearmanr(ours[:, order[:half]].mean(1), truth[:, order[half:]].mean(1)).statistic)
    return float(np.mean(found))


def scoring_seconds(bench: Bench, images: Any) -> float:
    """Seconds to score 64 images, the scorer loaded."""
    repeated = np.resize(images, (64, *images.shape[1:]))
    stills = Images.from_pipeline(repeated, [bench.workload.prompts[i % len(bench.captions)] for i in range(64)])
    started = time.perf_counter()
    METRICS["clip_score"].scores(stills, stills, bench.context)
    return time.perf_counter() - started


def clip_l_images_per_s(device: str) -> float:
    """How fast a full-size CLIP-L (ViT-L/14, random weights) embeds images of 512 pixels, through the same code."""
    from tiny import write_clip

    from tuner.quality.clip import Clip

    with tempfile.TemporaryDirectory() as folder:
        write_clip(Path(folder), hidden=(768, 1024), layers=(12, 24), heads=(12, 16), image_size=224, patch_size=14)
        clip = Clip(folder, device)
        stills = np.random.default_rng(0).random((128, 512, 512, 3), np.float32)
        clip.embed_images(Images(stills[:8], [""] * 8))
        started = time.perf_counter()
        clip.embed_images(Images(stills, [""] * len(stills)))
        return len(stills) / (time.perf_counter() - started)


def main(arguments: list[str]) -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    options.add_argument("--prompts", type=int, help="default: 256 on a GPU, 40 on a CPU")
    options.add_argument(
        "--only", default="", help="candidates with one of these words, comma-separated, in their name"
    )
    options.add_argument("--part", default="1/1", metavar="I/N", help="only every Nth of them, from the Ith on")
    options.add_argument("--clip-l", action="store_true", help="also time a CLIP-L of random weights")
    options.add_argument("--out", type=Path, help="a file that takes a line a candidate")
    options.add_argument("--table", nargs="+", type=Path, help="only judge what earlier runs wrote")
    given = options.parse_args(arguments)
    if given.table:
        lines = (line for file in given.table for line in file.read_text().splitlines())
        conclude(list({row["name"]: row for row in map(json.loads, lines)}.values()))
        return 0
    on_gpu = environment.detect(given.device).device == "cuda"
    prompts = given.prompts or (256 if on_gpu else 40)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(given.device, prompts, min(prompts, 128 if on_gpu else 40), Path(folder))
        conclude(list(rows_of(bench, chosen(given.only, given.part), given.out)))
        if given.clip_l:
            speed = clip_l_images_per_s(bench.here.device)
            print(f"CLIP-L of random weights: {speed:.1f} images/s of 512 pixels")
    return 0


def chosen(only: str, part: str) -> list[Candidate]:
    """The candidates that were asked for."""
    words = [word for word in only.split(",") if word] or [""]
    index, count = map(int, part.split("/"))
    if not 1 <= index <= count:
        raise SystemExit(f"--part {part}: there is no such part")
    return [one for one in candidates() if any(word in one.name for word in words)][index - 1 :: count]


def rows_of(bench: Bench, asked: list[Candidate], out: Path | None) -> Iterator[dict[str, Any]]:
    """The rows of the baseline and of all that can be had here, each printed and kept as soon as it is known."""
    if out:
        out.unlink(missing_ok=True)
    yield recorded(bench.row(Candidate("baseline", kind="baseline")), out)
    for candidate in asked:
        reason = bench.refusal(candidate)
        try:
            if not reason:
                yield recorded(bench.row(candidate), out)
        except Exception as error:  # one that fails here is no verdict on the others
            reason = f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[0]}"
        if reason:
            print(f"{'-':>10} {candidate.name}: not here: {reason[:120]}", flush=True)


def recorded(row: dict[str, Any], out: Path | None) -> dict[str, Any]:
    """The row, printed, and kept in a file if one was asked for."""
    print_row(row)
    if out:
        with out.open("a") as file:
            file.write(json.dumps(row) + "\n")
    return row


def print_row(row: dict[str, Any]) -> None:
    error = f"{row['denoiser_error']:.4f}" if row["denoiser_error"] is not None else "-"
    said = row["rejected"] or row["difference"] or ""
    print(
        f"{row['kind']:>10} {row['name']:30} oracle {row['oracle']:6.1%}  CLIP {row['clip_score']:6.2f}  "
        f"denoiser {error:>7}  {'REJECTED ' if row['rejected'] else ''}{said} {'; '.join(row['flags'])}",
        flush=True,
    )


def conclude(rows: list[dict[str, Any]]) -> None:
    """The figures that the panel is held to."""
    from scipy.stats import spearmanr

    base = next(row for row in rows if row["kind"] == "baseline")
    broken = [row for row in rows if row["kind"] == "broken"]
    missed = [row["name"] for row in broken if not row["rejected"]]
    correlation = float(spearmanr([r["oracle"] for r in rows], [r["clip_score"] for r in rows]).statistic)
    kinds = Counter(row["kind"] for row in rows)
    count = len(base["right"])
    print(f"\n{len(rows)} pipelines on {base['device']}, {count} prompts: {dict(kinds)}")
    print(f"rank correlation of CLIP score with the oracle: {correlation:.3f}")
    by_half = f"CLIP score {reliability(rows, 'scores'):.3f}, the oracle itself {reliability(rows, 'right'):.3f}"
    print(f"half of the prompts against the oracle on the other half: {by_half}")
    print(f"broken candidates rejected: {len(broken) - len(missed)} of {len(broken)} {missed or ''}")
    verdicts = [verdict for row in rows for verdict in row["parts"]]
    failed = {row["name"]: list(filter(None, row["parts"])) for row in rows if any(row["parts"])}
    print(f"harmless variations that pass: {sum(v is None for v in verdicts)} of {len(verdicts)} {failed or ''}")
    print(f"noise floor of the CLIP score: {base['noise_floor']}")
    for size in (PANEL_SIZE, LARGER_PANEL):
        if size < count:
            print_coverage(rows, base, size)
    print(f"scoring 64 images: {base['scoring_64_images_s']:.2f} s")


def print_coverage(rows: list[dict[str, Any]], base: dict[str, Any], size: int) -> None:
    """How often the interval from so many prompts covers the difference on all, candidate by candidate."""
    candidates = {row["name"]: row["scores"] for row in rows if row["kind"] == "candidate"}
    moved = {name: of for name, of in candidates.items() if np.std(np.subtract(of, base["scores"])) > MIN_MOVED}
    if not moved:
        return
    found = {name: coverage(scores, base["scores"], size) for name, scores in moved.items()}
    honest = sum(HONEST[0] <= share <= HONEST[1] for share in found.values())
    print(
        f"the 95 % interval from {size} prompts covers the difference on all in {np.mean(list(found.values())):.3f} of "
        f"the samples, of {honest} of {len(found)} candidates in {HONEST[0]:.0%} to {HONEST[1]:.0%}:"
    )
    print("    " + ", ".join(f"{name} {share:.3f}" for name, share in sorted(found.items(), key=lambda pair: pair[1])))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
