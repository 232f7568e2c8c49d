"""A configuration as a command of SGLang Diffusion, which runs the pipeline of diffusers."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from tuner.export.cache_dit import cache
from tuner.export.facts import comments
from tuner.export.loading import folder
from tuner.export.wording import Said, Wording, WordingTarget, Words, attention_backend, by_value
from tuner.knobs import call_arguments
from tuner.model import pipeline
from tuner.records.codec import Values
from tuner.result.records import BestConfig

CACHE_FILE = "cache-dit.yaml"
PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def flag(name: str, key: str) -> Wording:
    """Return the wording of a switch, which SGLang takes with a value."""
    return lambda values: Words({key: str(bool(values[name])).lower()})


def cache_file(values: Values) -> Words | None:
    """Write a cache that cache-dit has: `tune export --to cache-dit` writes the file."""
    words = cache(values)
    made = f"write {CACHE_FILE} with `tune export FILE --to cache-dit`"
    return words and Words({"--cache-dit-config": CACHE_FILE}, f"{made}; {words.note}")


def compiled(values: Values) -> Words | None:
    """Write a regional compile: SGLang compiles the repeated blocks, with torch's own defaults."""
    scope = values["compile.scope"]
    note = "it is torch.compile with its defaults, which compile again for any size if sizes change"
    return Words({"--enable-torch-compile": "true"}, note) if scope == "regional" else None


class SGLang(WordingTarget):
    """The flags of `sglang serve` with its diffusers backend."""

    name = "sglang"
    title = "SGLang Diffusion"
    version = "0.5.23"
    unchanged = ("precision.dtype", "vae.tiling")
    words = {  # noqa: RUF012
        "compile.scope": compiled,
        "attention.backend": attention_backend(lambda name: Words({"--attention-backend": name})),
        "precision.dtype": by_value("precision.dtype", "--dit-precision", PRECISIONS),
        "cache.kind": cache_file,
        "vae.tiling": flag("vae.tiling", "--vae-tiling"),
        "vae.slicing": flag("vae.slicing", "--vae-slicing"),
        "steps": lambda _: Words(note="each request gives it, see below"),
    }

    def body(self, best: BestConfig, said: Said) -> Iterator[str]:
        model = {"--model-path": folder(best.model.source), "--backend": "diffusers"}
        revision = {"--revision": best.model.revision} if best.model.revision else {}
        yield command(["sglang", "serve"], {**model, **revision, **said.data})
        arguments = pipeline.call_arguments(best.workload, call_arguments(best.chosen.values), 1)
        yield ""
        yield from comments(["In each request:", *(f"  {name}: {value}" for name, value in arguments.items())])


def command(words: list[str], flags: dict[str, object]) -> str:
    """Write a shell command with a line for each flag. A flag whose value is True stands alone."""
    lines = [shlex.join([name] if value is True else [name, str(value)]) for name, value in flags.items()]
    return " \\\n  ".join([shlex.join(words), *lines])
