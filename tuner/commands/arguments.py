"""Argument types and options that several commands share."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What `ArgumentParser.add_subparsers` returns."""

MIN_USD, MAX_USD = 1e-6, 1e6
"""Costs computed from a price outside this range could be zero or infinite."""

MAX_PORT = 65535

NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
TIME = re.compile(
    rf"(?:{NUMBER}(?:d|days?))?(?:{NUMBER}(?:h|hr|hrs|hours?))?(?:{NUMBER}(?:m|mins?|minutes?))?"
    rf"(?:{NUMBER}(?:s|secs?|seconds?))?(?:{NUMBER}ms)?"
)
UNITS_S = (86400.0, 3600.0, 60.0, 1.0, 1e-3)
"""The units of TIME's groups: days, hours, minutes, seconds, milliseconds."""

STUDIES = Path("traces")
A_RESULT = "a best_config.json, or the folder or the name of a study"

DEVICES = {"auto": "auto", "cuda": "cuda", "cpu": "cpu", "gpu": "cuda", "nvidia": "cuda"}


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the model and its revision."""
    parser.add_argument(
        "model", nargs="?", default="demo",
        help="a pipeline folder, a Hugging Face hub id (owner/name) or its address, a .safetensors checkpoint, or "
        "demo, the bundled pipeline (default: demo)",
    )  # fmt: skip
    parser.add_argument(
        "--revision", metavar="COMMIT", help="branch, tag or commit of the hub id (default: its newest commit)"
    )
    parser.add_argument(
        "--variant", metavar="NAME", help="weights to load, such as fp16 (default: plain ones, or the only variant)"
    )
    parser.add_argument(
        "--base", metavar="MODEL",
        help="pipeline, a folder or a hub id, that a checkpoint file belongs to (default: its family's on the hub)",
    )  # fmt: skip


def add_space(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the search space, and what overrides it."""
    parser.add_argument(
        "--space", metavar="NAME|FILE",
        help="search space: the name of a shipped one or a YAML file (default: the one for the pipeline's class)",
    )  # fmt: skip
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="override the search space: fix a knob (compile.mode=default), or set the workload (workload.height=512, "
        "workload.negative_prompt=blurry, workload.arguments.true_cfg_scale=4) or the tolerated loss of quality "
        "(quality.tolerance=0.5); the untouched pipeline keeps its own steps unless baseline.steps=N sets them; "
        "repeatable",
    )  # fmt: skip


def add_study(parser: argparse.ArgumentParser) -> None:
    """Add a study that exists, and the folder of studies."""
    parser.add_argument(
        "study", nargs="?", metavar="STUDY", help="name or folder of a study (default: the newest study)"
    )
    add_studies(parser)


def add_result(parser: argparse.ArgumentParser) -> None:
    """Add a result that exists."""
    parser.add_argument("result", nargs="?", metavar="RESULT", help=f"{A_RESULT} (default: the newest study)")


def add_studies(parser: argparse.ArgumentParser) -> None:
    """Add the folder of studies."""
    parser.add_argument(
        "--out", type=folder, default=STUDIES, metavar="DIR", help="folder with the studies (default: traces)"
    )


def add_trial(parser: argparse.ArgumentParser) -> None:
    """Add --trial, a point of a result."""
    parser.add_argument(
        "--trial", type=trial_number, metavar="N", help="point of the front to take (default: the chosen one)"
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add --device."""
    parser.add_argument(
        "--device", type=device, default="auto", metavar="auto|cuda|cpu",
        help="device to run on; auto uses the NVIDIA GPU if there is one, else the CPU (default: auto)",
    )  # fmt: skip


def add_devices(parser: argparse.ArgumentParser) -> None:
    """Add --devices."""
    parser.add_argument(
        "--devices", type=positive, default=1, metavar="N",
        help="number of GPUs of one host that may compute one image together, each of which counts in its cost "
        "(default: 1)",
    )  # fmt: skip


def add_format(parser: argparse.ArgumentParser, formats: Iterable[str], default: str, of: str = "format") -> None:
    """Add --format, and --json, which is short for --format json and excludes it."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--format", type=format_name, choices=formats, default=default, help=f"{of} (default: {default})"
    )
    group.add_argument("--json", action="store_const", const="json", dest="format", help="short for --format json")


def add_gpus(parser: argparse.ArgumentParser, default: str = "all that are visible and idle") -> None:
    """Add --gpus."""
    parser.add_argument(
        "--gpus", type=gpus, metavar="all|N|LIST",
        help="GPUs to run trials on at the same time, one each: all, so many idle ones, or those with these indices, "
        f"such as 0,2; with --ray all or so many of the cluster's (default: {default})",
    )  # fmt: skip


def add_ray(parser: argparse.ArgumentParser) -> None:
    """Add --ray."""
    parser.add_argument(
        "--ray", metavar="auto|ADDRESS",
        help="run trials on the GPUs of a Ray cluster, of one without GPUs on a CPU of each node; auto: the cluster "
        "that this node belongs to (default: this host alone)",
    )  # fmt: skip


def add_family(parser: argparse.ArgumentParser) -> None:
    """Add --family."""
    parser.add_argument(
        "--family", metavar="TEXT",
        help="with --ray: the devices whose name has TEXT in it, such as L40S (default: the family with most devices)",
    )  # fmt: skip


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def format_name(text: str) -> str:
    """Parse the name of a format; Markdown has two."""
    return "md" if text == "markdown" else text


def device(text: str) -> str:
    """Parse a device."""
    if text.lower() in DEVICES:
        return DEVICES[text.lower()]
    hint = "; CUDA_VISIBLE_DEVICES=N selects one of several GPUs" if text.lower().startswith("cuda") else ""
    raise argparse.ArgumentTypeError(f"{text!r} is not a device: use auto, cuda or cpu{hint}")


def gpus(text: str) -> str:
    """Parse a choice of GPUs: all, a number of them, or a list of indices; that of one index ends with a comma."""
    if re.fullmatch(r"all|0*[1-9]\d{0,3}|\d{1,4}(,\d{1,4})+|\d{1,4},", text, re.ASCII):
        return text
    hint = "; 0, is the first one alone" if text == "0" else ""
    raise argparse.ArgumentTypeError(f"{text!r} is no choice of GPUs: use all, a number, or indices such as 0,2{hint}")


def seconds(text: str) -> float:
    """Parse a time such as 300ms, 90s, 20m or 1h30m. A number without a unit could mean seconds or minutes."""
    words = re.sub(r"\s", "", text.lower())
    if re.fullmatch(NUMBER, words) and 0 < float(words) < math.inf:
        raise argparse.ArgumentTypeError(f"{words} has no unit: write {words}s or {words}m")
    match = TIME.fullmatch(words)
    groups = match.groups("0") if match else ()
    total_s = sum(float(number) * unit for number, unit in zip(groups, UNITS_S, strict=False))
    if not 0 < total_s < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time above 0 like 300ms, 90s, 20m or 1h30m")
    return total_s


def milliseconds(text: str) -> float:
    """Parse a number of milliseconds."""
    if not re.fullmatch(r"\d+(\.\d+)?", text) or not float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of milliseconds like 0.5")
    return float(text)


def positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def trial_number(text: str) -> int:
    """Parse the number of a trial, from 0 on."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of a trial: use a whole number from 0 on")
    return int(text)


def port(text: str) -> int:
    """Parse a TCP port."""
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= MAX_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: use a whole number from 1 to {MAX_PORT}")
    return int(text)


def folder(text: str) -> Path:
    """Parse the path of a folder, which may be one that does not exist yet."""
    if not text or os.path.isfile(text):  # noqa: PTH113  (any string, of any length)
        raise argparse.ArgumentTypeError(f"{text!r} is not a folder: name one, which may be new")
    return Path(text)


def price(text: str) -> float:
    """Parse a price in US dollars."""
    if not re.fullmatch(r"\d+(\.\d+)?", text) or not MIN_USD <= float(text) <= MAX_USD:
        raise argparse.ArgumentTypeError(f"{text!r} is not a price in US dollars like 2.49")
    return float(text)


TRACKERS = ("mlflow", "wandb")
"""The names in `tuner.tracking.trackers`."""


def add_log(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add --log, where else the trials are logged."""
    parser.add_argument(
        "--log", action="append", default=[], choices=TRACKERS, metavar="NAME",
        help=f"log each trial as a run of an experiment tracker, too: {' or '.join(TRACKERS)}, which is configured as "
        "always, such as by MLFLOW_TRACKING_URI or WANDB_MODE; repeatable",
    )  # fmt: skip


STRATEGIES = ("agent", "tpe", "nsga2", "random")
"""The names in `tuner.search.strategies`, which is not imported for --help."""


def add_strategy(group: argparse._ArgumentGroup) -> None:
    """Add --strategy, what proposes candidates."""
    group.add_argument(
        "--strategy", choices=STRATEGIES, metavar="NAME",
        help=f"what proposes candidates: {', '.join(STRATEGIES)} (default: agent; of a "
        "study that was begun, its own)",
    )  # fmt: skip
