"""Apply the settings of the command line, --set NAME=VALUE, to a space file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tuner.errors import BadInput
from tuner.space import checks, yaml_file
from tuner.space.candidates import format_value
from tuner.space.schema import SpaceFile, WorkloadFields
from tuner.space.space_file import merge, read_prompts

GROUPS = ("workload", "baseline", "quality", "gate")


def apply_settings(written: SpaceFile, settings: Sequence[str]) -> SpaceFile:
    """Merge each setting over the file. Raises BadInput with the setting that is not valid."""
    # Prompts bring their own seeds. The user's seeds override those in either order, so they are merged last.
    for setting in sorted(settings, key=lambda setting: setting.startswith("workload.seeds=")):
        written = merge(written, _parse(setting))
    return written


def origins(settings: Sequence[str]) -> dict[str, str]:
    """Map the name of each setting to how it was written, for error messages."""
    return {setting.partition("=")[0]: f"--set {format_value(setting)}" for setting in settings}


def check_available(settings: Sequence[str], left_out: Mapping[str, str]) -> None:
    """Refuse settings that do not work here. Values of the file are only left out, with a note.

    Raises BadInput with the setting and the reason.
    """
    for setting in settings:
        knob = setting.partition("=")[0]
        for value, reason in left_out.items():
            if value.startswith(f"{knob}="):
                raise BadInput(f"--set {format_value(setting)}: {value} is not available here: {reason}")


def _parse(text: str) -> SpaceFile:
    """Parse one NAME=VALUE, of a knob or of a field of workload, baseline, quality or gate."""
    where = f"--set {format_value(text)}"
    name, equals, written = text.partition("=")
    if not equals:
        raise BadInput(f"{where}: write it as KNOB=VALUE or workload.FIELD=VALUE")
    value = yaml_file.load_value(written, where)
    if name == "workload.prompts" and isinstance(value, str):
        listed = read_prompts(Path(value.replace("\0", "?")))
        return SpaceFile(workload=WorkloadFields(prompts=listed.prompts, seeds=listed.seeds))
    group, _, field = name.partition(".")
    data = {group: {field: value}} if group in GROUPS else {"knobs": {name: value}}
    return checks.check(yaml_file.convert(data, where), where)
