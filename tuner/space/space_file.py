"""Read a space file with its prompts and the file that it extends."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import TypeVar

import msgspec

from tuner.errors import BadInput, did_you_mean
from tuner.files import read_text, resolved
from tuner.records.codec import Record, decode
from tuner.records.text import shown
from tuner.space import checks, yaml_file
from tuner.space.explaining import explain
from tuner.space.schema import PromptFile, SpaceFile

S = TypeVar("S", bound=Record)

JSON_PROMPTS = '{"prompts": ["a cat", "a dog"], "seeds": [0, 1]}'
"""How a prompt file in JSON looks; seeds may be left out."""


def shipped_folder() -> Path:
    """Return the folder of the spaces that come with the package: in the wheel, or beside it in a checkout."""
    packaged = Path(str(resources.files("tuner"))) / "search_spaces"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[2] / "search_spaces"


def parse(path: Path) -> SpaceFile:
    """Read and check one file, without the one that it extends.

    Raises BadInput with the file and the field.
    """
    written = checks.check(yaml_file.load_file(path), str(path))
    checks.refuse_user_files(written, str(path))
    if isinstance(written.workload.prompts, str):
        written = _with_prompts(path, written, written.workload.prompts)
    if not written.extends and not (written.pipelines and written.knobs):
        missing = "knobs" if written.pipelines else "pipelines"
        raise BadInput(f"{path}: {missing}: nothing is listed, and the file extends no other")
    return written


def read_extended(path: Path, seen: tuple[Path, ...] = ()) -> SpaceFile:
    """Read a file merged over the one that it extends, and so on."""
    written = parse(path)
    if written.extends is None:
        return written
    parent = shipped_folder() / f"{written.extends}.yaml"
    is_file = os.path.isfile(parent)  # noqa: PTH113  (Path.is_file raises when a name is too long)
    if not is_file or not resolved(parent).is_relative_to(resolved(shipped_folder())):
        parent = _sibling(path, "extends", written.extends)
    if resolved(parent) in (resolved(path), *seen):
        raise BadInput(f"{path}: extends: {shown(written.extends)} extends this file in turn")
    return merge(read_extended(parent, (*seen, resolved(path))), written)


def merge(parent: SpaceFile, child: SpaceFile) -> SpaceFile:
    """Merge the child's fields over the parent's. A child's recipe replaces the parent's of the same name."""
    names = {recipe.name for recipe in child.recipes}
    return SpaceFile(
        pipelines=child.pipelines or parent.pipelines,
        workload=_merge_group(parent.workload, child.workload),
        quality=_merge_group(parent.quality, child.quality),
        gate=_merge_group(parent.gate, child.gate),
        baseline=parent.baseline | child.baseline,
        knobs=parent.knobs | child.knobs,
        recipes=tuple(recipe for recipe in parent.recipes if recipe.name not in names) + child.recipes,
    )


def read_prompts(file: Path) -> PromptFile:
    """Read a JSON file with prompts and perhaps seeds, or a text file with one prompt per line.

    Raises BadInput with the file, the field, and what a prompt file looks like.
    """
    if file.suffix not in (".txt", ".json"):
        raise BadInput(f"{file}: name it .txt, with one prompt a line, or .json: {JSON_PROMPTS}")
    text = read_text(file).removeprefix("\ufeff")
    if file.suffix == ".json":
        return _json_prompts(file, text)
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise BadInput(f"{file}: has no prompt; write one per line")
    return PromptFile(prompts=tuple(prompts))


def _json_prompts(file: Path, text: str) -> PromptFile:
    """Read an object with prompts, or a list of prompts."""
    content: object = decode(text, object, str(file))
    data = {"prompts": content} if isinstance(content, list) else content
    try:
        return msgspec.convert(data, PromptFile)
    except msgspec.ValidationError as error:
        raise BadInput(f"{file}: {explain(error, data, PromptFile)}; write it as {JSON_PROMPTS}") from None


def _merge_group(parent: S, child: S) -> S:
    """Merge one group of fields over another. New prompts do not keep the seeds of the old ones."""
    fields = {name: value for name, value in msgspec.structs.asdict(child).items() if value is not None}
    if "prompts" in fields:
        fields.setdefault("seeds", None)
    return msgspec.structs.replace(parent, **fields)


def _with_prompts(path: Path, written: SpaceFile, name: str) -> SpaceFile:
    """Replace the name of a prompt file by its prompts, and its seeds unless the space file has its own."""
    listed = read_prompts(_sibling(path, "workload.prompts", name))
    seeds = listed.seeds if written.workload.seeds is None else written.workload.seeds
    workload = msgspec.structs.replace(written.workload, prompts=listed.prompts, seeds=seeds)
    return msgspec.structs.replace(written, workload=workload)


def _sibling(path: Path, field: str, name: str) -> Path:
    """Find a file in the space file's own folder. A downloaded space must not read anything outside it."""
    from tuner.demo import PROMPTS_FILE

    if (field, name) == ("workload.prompts", "demo"):
        return PROMPTS_FILE
    parent = resolved(path).parent
    file = Path(os.path.realpath(parent / name.replace("\0", "?")))  # no path has a NUL
    if not file.is_relative_to(parent) or not os.path.isfile(file):  # noqa: PTH113
        raise BadInput(f"{path}: {field}: {shown(name)} is {_absence(field, name)}")
    return file


def _absence(field: str, name: str) -> str:
    """Return what the name of a file is not, and what to write instead."""
    if field != "extends":
        return "not a file in the folder of the space; name one there, or write a list such as [a cat, a dog]"
    shipped = [file.stem for file in sorted(shipped_folder().glob("*.yaml"))]
    hint = did_you_mean(name, shipped, f"the shipped spaces are {', '.join(shipped)}")
    return f"not a shipped space and not a file in the folder of the space; {hint}"
