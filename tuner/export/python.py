"""A configuration as a plain Python file that needs neither this package nor its files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pprint import pformat
from typing import Any

from tuner.errors import BadInput
from tuner.export.base import Target, build_settings
from tuner.export.facts import comments, facts, setting
from tuner.export.loading import folder, imported_classes, loading
from tuner.export.source import Carried
from tuner.knobs import KNOBS, call_arguments
from tuner.knobs.code import Code
from tuner.model import pipeline
from tuner.model.diffusers_source import class_source
from tuner.result.records import BestConfig

NEEDS = ("torch", "diffusers", "transformers", "accelerate")
"""Distributions that every pipeline needs."""

FOR_VIDEOS = ("imageio", "imageio-ffmpeg")
"""Distributions that save videos."""

SAVE_IMAGES = """\
    for index, image in enumerate(output.images):
        image.save(f"{index}.png")
        print(f"saved {index}.png")"""
SAVE_VIDEOS = """\
    for index, frames in enumerate(output.frames):
        export_to_video(frames, f"{index}.mp4")
        print(f"saved {index}.mp4")"""


class Python(Target):
    """A plain Python file that needs only torch, diffusers and what the settings themselves need."""

    name = "python"

    def render(self, best: BestConfig) -> str:
        codes = codes_of(best)
        carried = Carried()
        carried.add(each for code in codes.values() for each in code.carried)
        parts = [
            "\n".join([*comments(facts(best)), "#", *comments([requirements(best, codes), *started_by(codes)])]),
            "\n".join(imports(best, codes, carried)),
            "\n".join(constants(best)),
            *([carried.text()] if carried.definitions else []),
            "\n".join(load_function(best, codes)),
            "\n".join(main(best)),
        ]
        return "\n\n".join(parts[:2]) + "\n\n" + "\n\n\n".join(parts[2:]) + "\n"


def codes_of(best: BestConfig) -> dict[str, Code]:
    """Return the code of each setting of the pipeline. Raises BadInput if one cannot be written in plain Python."""
    values = best.chosen.values
    codes = {name: KNOBS[name].code(values) for name in build_settings(best)}
    missing = [setting(name, values[name]) for name, code in codes.items() if code is None]
    if missing:
        raise BadInput(
            f"trial {best.chosen.trial}: {', '.join(missing)} cannot be written in plain Python; use tuner.load"
        )
    return {name: code for name, code in codes.items() if code is not None}


def requirements(best: BestConfig, codes: Mapping[str, Code]) -> str:
    """Return the command that installs what the file needs, in the versions of the measurements."""
    versions = {name: (version or "").partition("+")[0] for name, version in needed(best, codes).items()}
    return "Needs: pip install " + " ".join(
        f"{name}=={version}" if version else name for name, version in versions.items()
    )


def started_by(codes: Mapping[str, Code]) -> Iterator[str]:
    """Yield how the file has to be started, if not by python itself."""
    yield from (f"Start with: {code.launcher} FILE" for code in codes.values() if code.launcher)


def needed(best: BestConfig, codes: Mapping[str, Code]) -> dict[str, str | None]:
    """Return the distributions that the file needs, with the versions of the measurements where they are known."""
    of_settings = (name for code in codes.values() for name in code.needs)
    names = dict.fromkeys((*NEEDS, *of_settings, *(FOR_VIDEOS if makes_videos(best) else ())))
    return {name: best.environment.libraries.get(name) for name in names}


def imports(best: BestConfig, codes: Mapping[str, Code], carried: Carried) -> Iterator[str]:
    """Yield the import statements: of the standard library, then of others."""
    copies = ["import copy"] if has_lists(best) else []
    standard = dict.fromkeys((*copies, "import sys", *carried.imports))
    others = ["import torch", *(f"from diffusers import {name}" for name in imported_classes(best))]
    others += ["from diffusers.utils import export_to_video"] if makes_videos(best) else []
    yield "from __future__ import annotations\n"
    yield from sorted(standard, key=lambda line: (line.startswith("from "), line))
    yield ""
    yield from dict.fromkeys((*others, *(line for code in codes.values() for line in code.imports)))


def constants(best: BestConfig) -> Iterator[str]:
    """Yield what a user may want to change: the model, the device, and how to call the pipeline."""
    workload, batch = best.workload, best.chosen.batch
    prompts = [workload.prompts[index % len(workload.prompts)] for index in range(batch)]
    bundled = "  # comes with diffusion-tuner" if best.model.source == pipeline.DEMO else ""
    yield f"MODEL = {folder(best.model.source)!r}{bundled}"
    yield f"DEVICE = {best.environment.device!r}"
    yield f"BATCH = {batch!r}  # prompts in a call"
    if has_lists(best):
        yield "# Some pipelines rewrite lists in place: give each call copy.deepcopy(ARGUMENTS)."
    yield f"ARGUMENTS = {_formatted(arguments_of(best))}"
    yield f"PROMPTS = {_formatted(prompts)}"


def arguments_of(best: BestConfig) -> dict[str, Any]:
    """Return the arguments of a call, as tuner.load returns them."""
    return pipeline.call_arguments(best.workload, call_arguments(best.chosen.values), best.chosen.batch)


def has_lists(best: BestConfig) -> bool:
    """Return whether an argument of a call is a list, such as the negative prompts."""
    return any(isinstance(value, list) for value in arguments_of(best).values())


def load_function(best: BestConfig, codes: Mapping[str, Code]) -> Iterator[str]:
    """Yield the lines of the function that loads the pipeline and applies the settings."""
    yield "def load(model=MODEL, device=DEVICE):"
    yield '    """Load the pipeline and apply the settings. Call it with BATCH prompts: pipe(prompts, **ARGUMENTS)."""'
    yield from (f"    {line}" for code in codes.values() for line in code.before)
    yield from (f"    {line}" for line in loading(best))
    yield "    pipe.to(device)"
    yield "    pipe.set_progress_bar_config(disable=True)"
    for name, code in codes.items():
        if code.lines:
            yield ""
            yield from (f"    {line}" for line in comments([setting(name, best.chosen.values[name])]))
            yield from (f"    {line}" for line in code.lines)
    yield "    return pipe"


def makes_videos(best: BestConfig) -> bool:
    """Return whether the pipeline generates videos, by its source."""
    return "frames=video" in class_source("pipelines", best.model.pipeline_class)


def main(best: BestConfig) -> Iterator[str]:
    """Yield the lines that run when the file is called as a program, with prompts or without."""
    yield 'if __name__ == "__main__":'
    arguments = "copy.deepcopy(ARGUMENTS)" if has_lists(best) else "ARGUMENTS"
    yield f"    output = load()(sys.argv[1:] or PROMPTS, **{arguments})"
    yield SAVE_VIDEOS if makes_videos(best) else SAVE_IMAGES


def _formatted(data: object) -> str:
    return pformat(data, width=100, sort_dicts=False)
