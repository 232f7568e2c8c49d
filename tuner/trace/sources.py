"""Source lines: picks the frame of a stack that a user can change, and formats it."""

from __future__ import annotations

import re
from collections.abc import Iterable

_TORCH = (
    r"torch/(?:_[a-z]\w*|nn/(?:modules|functional|attention|parallel)|autograd|cuda|amp|fx|functional|overrides|profiler"
    r"|compiler|library|utils/(?:_|checkpoint))|triton/(?:runtime|compiler|backends|language)"
)
_LIBRARIES = (
    r"diffusers/(?:hooks|models|schedulers|pipelines|modular_pipelines|loaders|guiders|quantizers|utils|image_processor"
    r"|configuration_utils)|transformers/(?:models|generation|integrations|utils|modeling_\w+|masking_utils|activations)"
)
"""Folders inside packages. They identify a package in a checkout or wherever it is installed."""

_FOLDER = re.compile(rf"^.*/(?:(?:site|dist)-packages/|(?=(?:{_TORCH}|{_LIBRARIES})\b))")
_STANDARD_LIBRARY = (
    r"(?:contextlib|threading|functools|runpy|queue|weakref|abc|copy|inspect|typing|dataclasses)\.py$"
    r"|(?:asyncio|concurrent|importlib|multiprocessing|logging)/"
)
"""Python's own modules where the profiler cuts folders of sys.path off. Others have names that users take as well."""

_MACHINERY = re.compile(
    r"(^|/(site|dist)-packages/)(torch|triton)/|torchinductor_|^<|(^|/)tuner/trace/"
    rf"|^(?:{_STANDARD_LIBRARY})|/lib/python\d[.\d]*/(?!(site|dist)-packages/)|/(?:{_TORCH})\b"
)
_BESIDE_DENOISER = re.compile(r"(^|/)(diffusers/models/autoencoders|transformers/models)/|^transformers/")
_CALL_STACK_ENTRY = re.compile(r"(?P<file>[^;]+?)\((?P<line>\d+)\): ")


def is_user_code(file: str) -> bool:
    """Return whether a file is the user's or a model library's, not torch's, Python's, generated or the tracer's."""
    return _MACHINERY.search(file) is None


def is_outside_denoiser(line: str) -> bool:
    """Return whether a source line is of an autoencoder or a text encoder, which run once per image."""
    return _BESIDE_DENOISER.search(line) is not None


def line(file: str, number: int | None) -> str:
    """Format a line as `file.py:12`. The path of a file in a package begins at the package."""
    short = _FOLDER.sub("", file)
    return f"{short}:{number}" if number else short


def innermost(frames: Iterable[tuple[str, int | None]]) -> str:
    """Return the first user line of frames, innermost first, or an empty string."""
    return next((line(file, number) for file, number in frames if is_user_code(file)), "")


def from_call_stack(stack: str) -> str:
    """Return the innermost user line of the `Call stack` that the profiler records for an operator.

    The call stack has only the first line of each function, so prefer annotations.
    """
    matches = filter(None, map(_CALL_STACK_ENTRY.match, stack.split(";")))
    return innermost((match["file"], int(match["line"])) for match in matches)


def first_line(text: str, limit: int = 200) -> str:
    """Return the first line of a message with spaces collapsed, cut to `limit` characters."""
    first = " ".join(text.strip().partition("\n")[0].split())
    return first if len(first) <= limit else first[: limit - 1] + "…"
