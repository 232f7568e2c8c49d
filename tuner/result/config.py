"""Read and make the contents of best_config.json."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import msgspec

from tuner.errors import BadInput
from tuner.files import read_file
from tuner.knobs import KNOBS, baseline
from tuner.records.codec import Values, explain
from tuner.records.outcome import Outcome, Timing
from tuner.records.text import shown
from tuner.records.versions import OldFile, OtherVersion, decode_versioned
from tuner.result.consistency import config_contradiction, points_of
from tuner.result.records import FORMAT, BestConfig, MeasuredPoint, TrialCounts
from tuner.result.trials import point_of

REQUIRED = ("compile.scope", "precision.dtype", "steps", "batch")
"""Knobs that every version had."""

NO_RESULT = "name a best_config.json, which `tune run` writes into the folder of its study"

REMEDY = "take the file as `tune run` wrote it; `tune resume` of its study writes it anew"
"""What to do about a file that was damaged or edited."""

STALLED = "a stall of a second or more"

SCHEMA_FILE = Path(__file__).parent / "best_config.schema.json"


class _OtherConfig(OldFile, kw_only=True):
    """A best_config.json of a version whose fields have other names."""

    format: Annotated[str, msgspec.Meta(pattern=r"^diffusion-tuner/(?!2$)\d+$")]


class _Marked(msgspec.Struct):
    """What a best_config.json of any version has."""

    format: Annotated[str, msgspec.Meta(pattern=r"^diffusion-tuner/\d+$")]
    tuner_version: Any = None


def damaged(config: str | os.PathLike[str], reason: str) -> BadInput:
    """Make the error for a field of a best_config.json that is not as `tune run` writes it."""
    return BadInput(f"{config}: {reason}; {REMEDY}")


def read_best(path: Path) -> BestConfig:
    """Read a best_config.json as it is. Raises BadInput with the file and the field, also of a contradiction."""
    best = _read(path)
    _require_consistent(best, path)
    return best


def _read(path: Path) -> BestConfig:
    """Read a best_config.json, and say of another file what it should be."""
    try:
        data = read_file(path)
    except BadInput as error:
        raise BadInput(f"{error}; {_remedy(path)}") from None
    _require_mark(path, data)
    try:
        return decode_versioned(path, data, BestConfig, _OtherConfig)
    except OtherVersion:
        raise
    except BadInput as error:
        raise BadInput(f"{error}; {REMEDY}") from None


def _require_mark(path: Path, data: bytes) -> None:
    """Raise BadInput unless a file has the format of a result, which also another version may have written."""
    try:
        marked = msgspec.json.decode(data, type=_Marked)
    except RecursionError:
        raise BadInput(f"{path}: nested too deeply; {_remedy(path)}") from None
    except msgspec.ValidationError:
        raise BadInput(f"{path}: {_unmarked_reason(data)}it is no result of `tune run`; {NO_RESULT}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: {explain(error, data)}; {_remedy(path)}") from None
    if marked.format != FORMAT and marked.tuner_version == package_version():
        raise damaged(
            path, f"format: {shown(marked.format)}, although diffusion-tuner {package_version()} writes {FORMAT}"
        )


def _remedy(path: Path) -> str:
    """Return what to do about a file that cannot be read: one of the right name was damaged."""
    return REMEDY if path.name == "best_config.json" and path.is_file() else NO_RESULT


def _unmarked_reason(data: bytes) -> str:
    """Return what is wrong with the format of a file that has fields, or an empty text."""
    try:
        content = msgspec.json.decode(data)
    except RecursionError:
        return ""
    if not isinstance(content, dict):
        return ""
    return f"format: {shown(content['format'])}: " if "format" in content else "format is missing: "


def _require_consistent(best: BestConfig, config: str | os.PathLike[str]) -> None:
    reason = config_contradiction(best)
    if reason is not None:
        raise damaged(config, reason)


def read_config(
    config: str | os.PathLike[str], trial: int | None = None, *, may_contradict: bool = False
) -> BestConfig:
    """Read a best_config.json and check its chosen values against the catalogue of knobs.

    With `trial`, that point of the front, or the baseline, replaces the chosen one. Raises BadInput with the file and
    the field for anything that is not valid, and for figures that contradict one another unless they may.
    """
    return of_trial(_read(Path(config)), config, trial, may_contradict=may_contradict)


def of_trial(
    recorded: BestConfig, config: str | os.PathLike[str], trial: int | None, *, may_contradict: bool = False
) -> BestConfig:
    """Return what was read from a best_config.json with a trial's point as the chosen one; see `read_config`."""
    best = recorded
    if trial is not None:
        best = msgspec.structs.replace(best, chosen=point_of(best, trial, config))
    for field in ("values", "changed"):
        check_values(getattr(best.chosen, field), f"{config}: chosen.{field}", best.tuner_version)
    values = _complete(best, config)
    for name, value in best.chosen.changed.items():
        if values.get(name) != value:
            raise damaged(config, f"chosen.changed.{name}: {shown(value)} contradicts chosen.values")
    if best.chosen.batch != values["batch"]:
        raise damaged(config, f"chosen.batch: {best.chosen.batch} contradicts chosen.values")
    if not may_contradict:
        _require_consistent(recorded, config)
    return msgspec.structs.replace(best, chosen=msgspec.structs.replace(best.chosen, values=values))


def check_values(values: Values, where: str, writer: str) -> None:
    """Raise BadInput unless the catalogue has every knob and its value. `writer` is the version that wrote the file."""
    for name, value in values.items():
        if name not in KNOBS:
            other = " ".join(writer[:40].split())
            remedy = f"{other} wrote the file; use that version, or tune again with `tune run`"
            remedy = f"the file was edited since; {REMEDY}" if other == package_version() else remedy
            here = f"diffusion-tuner {package_version()} has no such knob"
            raise BadInput(f"{where}.{shown(name)}: {here}, and {remedy}")
        invalid_reason = KNOBS[name].invalid_reason(value)
        if invalid_reason:
            written = f'"{shown(value)}"' if isinstance(value, str) else shown(value)
            raise BadInput(f"{where}.{name}: {written} {invalid_reason}; {REMEDY}")


def check_points(best: BestConfig, config: str | os.PathLike[str]) -> None:
    """Check the values of every point, as far as what shows or measures them needs. Raises BadInput with the field."""
    for name, point in points_of(best):
        check_values(point.values, f"{config}: {name}.values", best.tuner_version)
        check_values(point.changed, f"{config}: {name}.changed", best.tuner_version)
        if "steps" not in point.values:
            raise damaged(config, f"{name}.values: steps is missing")


def _complete(best: BestConfig, config: str | os.PathLike[str]) -> Values:
    """Return the chosen values. A knob that an older version did not have gets the untouched pipeline's value."""
    chosen, untouched, values = best.chosen.values, baseline(best.environment), Values()
    for name, knob in KNOBS.items():
        if not knob.is_active(values):
            if name in chosen:
                raise damaged(config, f"chosen.values.{name}: has no effect with the other values")
            continue
        if name not in chosen and (name in REQUIRED or name not in untouched):
            raise damaged(config, f"chosen.values: {name} is missing")
        values[name] = chosen.get(name, untouched.get(name, False))
    return values


def measured_point(outcome: Outcome, changed: Values, confirmed: bool) -> MeasuredPoint:
    """Make the point of an outcome that was measured and scored.

    It is `confirmed` if it was also measured again, in turns with the baseline.
    """
    assert outcome.timing and outcome.memory and outcome.quality and outcome.cost_usd_per_1000_images is not None
    batch = outcome.values["batch"]
    assert isinstance(batch, int)
    timing, gpu = outcome.timing, outcome.timing.gpu
    energy_j = gpu.energy_j if gpu else None
    return MeasuredPoint(
        trial=outcome.number,
        values=outcome.values,
        changed=changed,
        batch=batch,
        latency_s=outcome.timing.latency_s,
        latency_samples=outcome.timing.samples,
        images_per_s=outcome.timing.images_per_s,
        cost_usd_per_1000_images=outcome.cost_usd_per_1000_images,
        peak_memory_bytes=outcome.memory.peak_bytes,
        first_call_s=outcome.build.first_call_s if outcome.build else None,
        quality=outcome.quality.mean,
        quality_difference=outcome.quality.difference,
        quality_flags=outcome.quality.flags,
        psnr_db=outcome.quality.psnr_db,
        ssim=outcome.quality.ssim,
        confirmed=confirmed,
        compile_s=outcome.build.compile_s if outcome.build else None,
        latency_p95_s=outcome.timing.latency_p95_s,
        peak_reserved_bytes=outcome.memory.reserved_bytes,
        joules_per_image=energy_j.value / batch if energy_j else None,
        within_latency_target=timing.within_target,
        predicted_from=timing.predicted_from,
        components=timing.components,
        discarded_samples=_discarded(timing),
        other_processes=gpu.other_processes if gpu else None,
        other_memory_bytes=gpu.other_memory_bytes if gpu else None,
        unavailable_reasons=gpu.unavailable_reasons if gpu else (),
    )


def _discarded(timing: Timing) -> dict[str, int] | None:
    """Return the counts of the calls that do not count, by reason; None where nothing could tell."""
    throttled = timing.gpu.discarded if timing.gpu else None
    return {**(throttled or {}), STALLED: timing.stalled_calls} if timing.stalled_calls else throttled


def count_trials(outcomes: Sequence[Outcome], refused: int) -> TrialCounts:
    """Count the trials by how they ended."""
    by_status = {status: sum(o.status == status for o in outcomes) for status in ("measured", "rejected", "failed")}
    return TrialCounts(**by_status, refused=refused)


def utc_now() -> str:
    """Return the time in UTC as ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def package_version() -> str:
    """Return the version of the installed package."""
    try:
        return metadata.version("diffusion-tuner")
    except metadata.PackageNotFoundError:  # it runs from a folder of its source code
        return "not installed"


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of best_config.json. The copy in the package is for readers without Python."""
    plain = msgspec.json.decode(msgspec.json.encode(msgspec.json.schema(BestConfig)))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_with_clean_descriptions(plain)}


def _with_clean_descriptions(schema: Any) -> Any:
    """Return a schema whose docstrings have no indentation: msgspec before 0.23 keeps that of the source."""
    if isinstance(schema, list):
        return [_with_clean_descriptions(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: inspect.cleandoc(value)
        if key == "description" and isinstance(value, str)
        else _with_clean_descriptions(value)
        for key, value in schema.items()
    }
