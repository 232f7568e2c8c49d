"""Apply the settings of the command line, --set NAME=VALUE, to a space file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tuner.errors import BadInput, did_you_mean
from tuner.files import absent, kind_at
from tuner.knobs import KNOBS, aliases
from tuner.records.text import shown
from tuner.space import checks, yaml_file
from tuner.space.schema import SpaceFile, WorkloadFields
from tuner.space.space_file import merge, read_prompts

GROUPS = ("workload", "baseline", "quality", "gate")
OTHERWISE = "`tune knobs` lists the knobs, the fields begin with workload."
EXAMPLE = "steps=20 or workload.height=512"
PROMPT_FILE = "a .txt file with one prompt a line, or a .json file with prompts"
PROMPTS_EXAMPLE = "workload.prompts='[a red circle, a blue square]'"


def apply_settings(written: SpaceFile, settings: Sequence[str]) -> SpaceFile:
    """Merge each setting over the file. Raises BadInput with the setting that is not valid."""
    # Prompts bring their own seeds. The user's seeds override those in either order, so they are merged last.
    for setting in sorted(settings, key=lambda setting: setting.startswith("workload.seeds=")):
        written = merge(written, _parse(setting, written))
    return written


def check_written(settings: Sequence[str]) -> None:
    """Check that each setting has a name, and each name one value. Raises BadInput with the one that has not."""
    values: dict[str, str] = {}
    for setting in settings:
        name, equals, value = (part.strip() for part in setting.partition("="))
        if not (name and equals):
            example = f"KNOB=VALUE or workload.FIELD=VALUE, such as {EXAMPLE}"
            raise BadInput(f"--set {shown(setting)}: write it as {example}, in one word or in quotes")
        if values.setdefault(name, value) != value:
            given = " and ".join(f"--set {shown(f'{name}={each}')}" for each in (values[name], value))
            remedy = "give it once, with a list such as [20, 28] to search several values"
            raise BadInput(f"{given}: {name} is set twice: {remedy if name in KNOBS else 'give it once'}")


def origins(settings: Sequence[str]) -> dict[str, str]:
    """Map the name of each setting to how it was written, for error messages."""
    return {setting.partition("=")[0]: f"--set {shown(setting)}" for setting in settings}


def check_available(settings: Sequence[str], left_out: Mapping[str, str]) -> None:
    """Refuse settings that do not work here. Values of the file are only left out, with a note.

    Raises BadInput with the setting and the reason.
    """
    for setting in settings:
        knob = setting.partition("=")[0]
        for value, reason in left_out.items():
            if value.startswith(f"{knob}="):
                raise BadInput(f"--set {shown(setting)}: {value} is not available here: {reason}")


def _parse(text: str, written: SpaceFile) -> SpaceFile:
    """Parse one NAME=VALUE, of a knob or of a field of workload, baseline, quality or gate."""
    where = f"--set {shown(text)}"
    check_written([text])
    name, _, value_text = (part.strip() for part in text.partition("="))
    group, _, field = name.partition(".")
    if group not in GROUPS and name not in KNOBS:
        inner = name.partition(".")[2]
        inside = f"did you mean {inner}?" if inner in KNOBS else ""
        hint = inside or aliases.knob_hint(name, value_text) or did_you_mean(name, settable_names(), OTHERWISE)
        raise BadInput(f"{where}: {shown(name)}: unknown knob; {hint}")
    if group in GROUPS and not field:
        raise BadInput(f"{where}: name a field of {group}: {', '.join(_fields(group))}")
    value = yaml_file.load_value(value_text, where)
    if name == "workload.prompts" and isinstance(value, str):
        listed = read_prompts(find_prompts(value, where))
        return SpaceFile(workload=WorkloadFields(prompts=listed.prompts, seeds=listed.seeds))
    data = {group: _nested(field, value, getattr(written, group))} if group in GROUPS else {"knobs": {name: value}}
    return checks.check(yaml_file.convert(data, where), where)


def _nested(field: str, value: Any, written: Any) -> dict[str, Any]:
    """Return the data of one field, or of one entry of a field that is a dictionary: arguments.true_cfg_scale."""
    outer, dot, entry = field.partition(".")
    if not dot or isinstance(written, dict):
        return {field: value}
    known = getattr(written, outer, None)
    return {outer: {**(known if isinstance(known, dict) else {}), entry: value}}


def settable_names() -> list[str]:
    """Return the names that --set takes: of all knobs and of all fields."""
    return [*KNOBS, *(f"{group}.{field}" for group in GROUPS for field in _fields(group))]


def _fields(group: str) -> list[str]:
    if group == "baseline":
        return [name for name, knob in KNOBS.items() if knob.acts == "call"]
    return list(type(getattr(SpaceFile(), group)).__struct_fields__)


def find_prompts(name: str, where: str) -> Path:
    """Return the path of a prompt file of the command line. Raises BadInput if there is none."""
    file = Path(name.replace("\0", "?"))
    if os.path.isfile(file):  # noqa: PTH113  (Path.is_file raises when a name is too long)
        return file
    if kind_at(file) is not None:
        raise BadInput(f"{where}: {absent(file, 'file')}; give {PROMPT_FILE}")
    hint = did_you_mean(file.name, _prompt_files(file.parent), f"or write prompts as a list, {PROMPTS_EXAMPLE}")
    raise BadInput(f"{where}: no such file; give {PROMPT_FILE}; {hint}")


def _prompt_files(folder: Path) -> list[str]:
    try:
        return sorted(str(file.name) for file in folder.iterdir() if file.suffix in (".txt", ".json"))
    except OSError:
        return []
