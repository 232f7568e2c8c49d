"""Run what the catalogue refuses: does it fail, is it wrong, or does it work?

`python tests/bench_refusals.py --family flux --out DIR` lists each conflict and each unavailable value of the catalogue
for a pipeline on this machine with the source of the refusal, and runs each regardless, in a process of its own with a
time limit: on the family's tiny pipeline, or with `--size full` at its real size with random weights. The images of
two prompts are compared with those of the same image settings without the refused one; half of what the other prompt
changes is wrong. The table comes last, and in DIR as refusals-FAMILY.md with versions and date.

A package that is not installed and a GPU that is not there are facts and are not run, nor is code from the Hub.
"""

from __future__ import annotations

import argparse
import datetime
import multiprocessing
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pipelines

from tuner.hardware import environment
from tuner.knobs import KNOBS, NoEffect, apply_knobs, call_arguments
from tuner.knobs.attention import BACKENDS
from tuner.knobs.conditions import missing_package
from tuner.model import architecture
from tuner.records.codec import Value, Values
from tuner.records.machine import Environment
from tuner.records.model import Architecture
from tuner.records.text import format_value
from tuner.report.formatting import one_line

BACKGROUNDS: tuple[Values, ...] = (
    {}, {"compile.scope": "regional"}, {"compile.scope": "full"}, {"precision.dtype": "bfloat16"},
    {"precision.dtype": "bfloat16", "compile.scope": "regional"},
)  # fmt: skip
"""Settings beside which values are tried, the smallest first: many are only active beside them."""

FACTS = re.compile(
    r"is not installed|needs? a GPU|is too old|has no |takes no |only \w+Pipeline|never |pip uninstall|no remote code"
    r"|other accelerators|NVIDIA GPUs|this is a CPU|for a CPU|pipeline's own$|already does so|quantized itself"
    r"|it needs \d+ devices"
)
"""Matches reasons that a machine or a class states itself, and code from the Hub, which is never run."""

SOURCES: tuple[tuple[str, str], ...] = (
    ("pytorch#152887", "PyTorch's issue 152887"),
    ("replays of fp8 rows", "cache-dit's CUDA_GRAPH.md"),
    ("a cache decides at each step", "cache-dit's CUDA_GRAPH.md, flux-fast's README"),
    ("SageAttention's kernels", "SageAttention's README"),
    ("breaks the graph of the whole denoiser", "diffusers' issue 12074"),
    ("uncompiled, it scales", "diffusers-torchao's README: 8.6 s instead of 6.6 s on an H100"),
    ("longer supports", "its release notes"),
)
"""Words of a reason, and where it was read. All others are this project's own conclusion."""

WRONG = 0.05
"""A larger relative L2 difference of images is not rounding, nor is half of what another prompt changes."""
ROUNDING = 0.01
"""bfloat16 changes the tiny images of FLUX and SDXL by 0.007. A smaller difference tells nothing."""
PROMPTS = ("a red cat", "two green dogs run over a wide field at night, oil on canvas")


@dataclass(frozen=True)
class Case:
    """Settings that are refused, why, and the same without what is refused, if that draws the same image."""

    values: Values
    reason: str
    source: str
    reference: Values | None


@dataclass(frozen=True)
class Drawn:
    """The images of two prompts and of the first one again as one array, or what went wrong."""

    images: Any = None
    problem: str = ""


# ---- what is refused ------------------------------------------------------------------------------------------------


def cases(known: Architecture, here: Environment) -> list[Case]:
    """The unavailable values, then one pair of settings for each reason and pair of knobs that conflict."""
    return [*unavailable(known, here), *conflicts(known, here)]


def unavailable(known: Architecture, here: Environment) -> Iterator[Case]:
    for name, knob in KNOBS.items():
        for value in knob.choices:
            reason = knob.unavailable_reason(value, here, known)
            needed = next((each for each in BACKGROUNDS if candidate({**each, name: value}, here)), None)
            if reason and needed is not None and not FACTS.search(reason) and not lacks_package(name, value, here):
                yield case({**needed, name: value}, {name: value}, reason)


def lacks_package(name: str, value: Value, here: Environment) -> bool:
    """Say whether a value is refused for another reason, but could not run either."""
    package = BACKENDS[str(value)].package if name == "attention.backend" else None
    return package is not None and missing_package(here, *package) is not None


def conflicts(known: Architecture, here: Environment) -> Iterator[Case]:
    seen: set[object] = set()
    usable = [(name, value) for name, knob in KNOBS.items() for value in knob.choices
              if value != knob.baseline(here) and not knob.unavailable_reason(value, here, known)]  # fmt: skip
    for background in BACKGROUNDS:
        alone = {each: reasons({**background, each[0]: each[1]}, known, here) for each in usable}
        groups = [((each,), found) for each, found in alone.items()]
        groups += [
            ((other, one), reasons({**background, **dict([one, other])}, known, here) - alone[one] - alone[other])
            for one, other in combinations(alone, 2)
            if one[0] != other[0]
        ]
        for refused, found in groups:
            values = {**background, **dict(reversed(refused))}
            for reason in sorted(found):
                keys = {(reason, *(name for name, _ in refused)), (reason, frozenset(values.items()))}
                if not keys & seen:
                    yield case(values, dict(refused), reason)
                seen |= keys


def case(values: Values, refused: Values, reason: str) -> Case:
    """The reference is without the first of the refused settings that does not change the image."""
    harmless = [name for name, value in refused.items() if not KNOBS[name].changes_image(value)]
    kept = {name: value for name, value in values.items() if name != next(iter(harmless), None)}
    source = next((where for words, where in SOURCES if words in reason), "this project")
    return Case(values, one_line(reason), source, kept if harmless else None)


def candidate(different: Values, here: Environment) -> Values:
    """All active values of a candidate; nothing if one of the different ones is not active."""
    values: Values = {}
    for name, knob in KNOBS.items():
        if knob.is_active(values):
            values[name] = different.get(name, knob.baseline(here))
    return values if different.keys() <= values.keys() else {}


def reasons(different: Values, known: Architecture, here: Environment) -> frozenset[str]:
    values = candidate(different, here)
    return frozenset(filter(None, (KNOBS[name].conflict_reason(values, known) for name in different if values)))


# ---- in a process of its own ----------------------------------------------------------------------------------------


def draw(family: str, size: pipelines.Size, here: Environment, different: Values, answer: Connection) -> None:
    """Build the pipeline with these settings and send what two prompts draw, the first of them again at the end."""
    try:
        answer.send(drawn(family, size, here, different))
    except NoEffect as error:
        answer.send(Drawn(problem=f"changes nothing: {one_line(str(error))}"))
    except BaseException as error:
        first = next(iter(str(error).strip().splitlines()), "")
        answer.send(Drawn(problem=f"fails: {type(error).__name__}: {first[:150]}"))


def drawn(family: str, size: pipelines.Size, here: Environment, different: Values) -> Drawn:
    import numpy as np
    import torch

    values = candidate(different, here) | {"steps": 4}
    pipe = pipelines.build(family, size).to(here.device, getattr(torch, str(values["precision.dtype"])))
    pipe.set_progress_bar_config(disable=True)
    apply_knobs(pipe, values, here)
    side = {"height": 32, "width": 32} if size == "tiny" else {}
    given: dict[str, Any] = {**side, **(pipelines.CALL.get(family, {}) if size == "tiny" else {}), "output_type": "np"}
    given |= call_arguments(values)
    images = []
    for prompt in (*PROMPTS, PROMPTS[0]):
        output = pipe([prompt] * int(values["batch"]), generator=torch.Generator().manual_seed(0), **given)
        images.append(np.asarray(output.images if hasattr(output, "images") else output.frames, "float32"))
    return Drawn(np.stack(images))


def difference(one: Any, other: Any) -> float:
    """The relative L2 difference of two arrays, or infinity."""
    import numpy as np

    if one.shape != other.shape or not np.isfinite(one).all():
        return float("inf")
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


def run(work: Callable[..., None], arguments: tuple[Any, ...], limit_s: float) -> Drawn:
    """Do the work in a process of its own; say so if it is ended or ends itself without an answer."""
    context = multiprocessing.get_context("forkserver")
    hear, tell = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(*arguments, tell))
    process.start()
    tell.close()
    try:
        answer: Drawn = hear.recv() if hear.poll(limit_s) else Drawn(problem=f"fails: no end within {limit_s:.0f} s")
    except EOFError:
        process.join()
        answer = Drawn(problem=f"fails: the process ended with {process.exitcode}")
    finally:
        process.kill()
        process.join()
    return answer


# ---- what comes of it -----------------------------------------------------------------------------------------------


def verdict(found: Drawn, reference: Drawn | None) -> str:
    """Say what came of a refused setting beside its reference."""
    import numpy as np

    if found.problem:
        return found.problem
    if reference is None or reference.problem:
        is_image = np.isfinite(found.images).all() and found.images.std() > 0.01
        return "draws: there is nothing to compare with" if is_image else "wrong: no image"
    control = difference(reference.images[1], reference.images[0])
    limit = min(WRONG, control / 2)
    off = max(map(difference, found.images, reference.images))
    if off > WRONG:
        return f"wrong: its images differ by {off:.0%}"
    if limit < ROUNDING:
        return f"no verdict: another prompt changes the image by only {control:.1%}"
    if off > limit:
        return f"wrong: its images differ by {off:.1%}, and those of two prompts by {control:.1%}"
    return f"works: its images differ by {off:.1%}, and those of two prompts by {control:.1%}"


def markdown(rows: Sequence[tuple[Case, str]], given: argparse.Namespace, here: Environment) -> str:
    versions = ", ".join(f"{name} {here.libraries[name]}" for name in ("torch", "diffusers", "torchao")
                         if here.libraries.get(name))  # fmt: skip
    what = "its tiny pipeline" if given.size == "tiny" else "real size, random weights"
    head = f"{given.family}, {what}, {here.device_name}, {versions}, {datetime.date.today():%Y-%m-%d}"
    lines = [head, "", "| settings | refused because | source | what happens |", "| --- | --- | --- | --- |"]
    for each, result in rows:
        settings = " ".join(f"`{name}={format_value(value)}`" for name, value in each.values.items())
        cells = (settings, each.reason, each.source, result)
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def arguments_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="flux", choices=tuple(pipelines.BUILDERS))
    parser.add_argument("--size", default="tiny", choices=("tiny", "full"))
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu"))
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for each process (300)")
    parser.add_argument("--only", default="", metavar="WORDS", help="only refusals whose reason or settings have them")
    parser.add_argument("--list", action="store_true", help="only say what would run")
    parser.add_argument("--out", type=Path, default=Path("refusals"))
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    given = arguments_of(arguments)
    here = environment.detect(given.device)
    multiprocessing.get_context("forkserver").set_forkserver_preload(["torch", "diffusers", "tuner.knobs", "pipelines"])
    known = architecture.from_pipeline(pipelines.build(given.family, "tiny"))
    chosen: list[Case] = [each for each in cases(known, here) if given.only in f"{each.reason} {each.values}"]
    if given.list:
        print(markdown([(each, "") for each in chosen], given, here))
        return 0
    given.out.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[Case, str]] = []
    references: dict[str, Drawn] = {}
    for each in chosen:
        about = (given.family, given.size, here)
        key = str(each.reference)
        if each.reference is not None and key not in references:
            references[key] = run(draw, (*about, each.reference), given.limit)
        found = run(draw, (*about, each.values), given.limit)
        rows.append((each, verdict(found, references.get(key))))
        print(f"{len(rows)}/{len(chosen)} {each.values}: {rows[-1][1]}", flush=True)
        (given.out / f"refusals-{given.family}.md").write_text(markdown(rows, given, here), encoding="utf-8")
    print(markdown(rows, given, here))
    return 0


if __name__ == "__main__":
    sys.exit(main())
