"""Render a diagnosis for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from tuner.commands.doctor.abilities import join_values
from tuner.commands.doctor.diagnosis import format_gib
from tuner.commands.doctor.records import Ability, Addition, Diagnosis, Machine, Package
from tuner.report.console import BASELINE, QUIET
from tuner.report.formatting import one_line, pluralize, section, wrap_text

MISSING = "not installed"


@dataclass(frozen=True)
class DiagnosisTable:
    """A diagnosis as text: the verdict, then one section per question."""

    diagnosis: Diagnosis

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, diagnosis = options.max_width, self.diagnosis
        yield from _verdict(diagnosis, width)
        yield from section("This machine", _machine_rows(diagnosis.machine), width, _is_missing)
        yield from section("Packages", _package_rows(diagnosis.packages), width, _is_missing)
        yield from section("What works here", list(map(_ability_row, diagnosis.abilities)), width, _is_missing)
        yield from _additions(diagnosis.additions, width)
        yield from wrap_text("", "Run `tune knobs MODEL` to see every setting for a pipeline.", width)


def _verdict(diagnosis: Diagnosis, width: int) -> Iterator[Text]:
    if not diagnosis.problems:
        yield Text("Ready: this machine has everything that `tune run` needs.", style="bold green")
    else:
        yield Text(f"{pluralize(len(diagnosis.problems), 'problem')} to fix:", style="bold yellow")
        for problem in diagnosis.problems:
            yield from wrap_text("- ", problem, width, indent=2)
    yield Text("")


def _is_missing(name: str, text: str) -> bool:
    return name == MISSING or text.startswith("no: ")


def _machine_rows(machine: Machine) -> list[tuple[str, str]]:
    env = machine.environment
    torch = env.libraries.get("torch")
    build = f"built for CUDA {machine.torch_cuda}" if machine.torch_cuda else "built without CUDA, runs on the CPU only"
    return [
        ("GPU", _gpu_text(machine)),
        (
            "CPU",
            f"{machine.cpu_name}, {pluralize(env.cpu_count, 'core')}, {format_gib(machine.memory_bytes)} of memory",
        ),
        ("torch", f"{torch}, {build}" if torch else MISSING),
        ("C++ compiler", env.cpp_compiler or "none found: torch.compile on the CPU needs g++ or clang++"),
        ("Python", f"{env.python} on {env.platform}"),
        ("disk", f"{format_gib(machine.free_disk_bytes)} free for studies in {machine.studies}"),
    ]


def _gpu_text(machine: Machine) -> str:
    if machine.no_gpu is not None:
        return machine.no_gpu
    env = machine.environment
    text = f"{env.device_name}, {format_gib(env.device_memory_bytes or 0)} of memory"
    return f"{text}, compute capability {env.compute_capability}, driver {env.driver}{_gpu_use_text(machine)}"


def _gpu_use_text(machine: Machine) -> str:
    if machine.gpu_processes is None:
        return ""
    count = pluralize(machine.gpu_processes, "process", "processes") if machine.gpu_processes else "no process"
    return f"; {count} on it now, {format_gib(machine.gpu_memory_used_bytes or 0)} in use"


def _package_rows(packages: Sequence[Package]) -> list[tuple[str, str]]:
    """List needed and installed packages one per row, then the names of the others in one row."""
    shown = [p for p in packages if (p.purpose and (p.needed or p.version)) or not p.supported]
    name_width = max((len(p.name) for p in shown), default=0) + 2
    version_width = max((len(p.version or MISSING) for p in shown), default=0)
    rows = [
        (
            f"{p.name:<{name_width}}{p.version or MISSING:<{version_width}}",
            p.purpose if p.supported else f"tune needs {p.supported_versions}",
        )
        for p in shown
    ]
    missing = ", ".join(p.name for p in packages if not p.needed and p.version is None)
    return [*rows, (MISSING, f"{missing} (all optional)")] if missing else rows


def _ability_row(ability: Ability) -> tuple[str, str]:
    return ability.name, f"{ability.works}: {one_line(ability.why)}"


def _additions(additions: Sequence[Addition], width: int) -> Iterator[Text]:
    yield Text("What one more package would enable", style=BASELINE)
    for addition in additions:
        is_pip = addition.install.startswith("pip install")
        yield from wrap_text("" if is_pip else f"{addition.package}: ", addition.install, width, "cyan", 2)
        yield from wrap_text("", addition.purpose, width, QUIET, 6)
        for knob, values in addition.adds.items():
            yield from wrap_text(f"{knob}=", join_values(values), width, "green", 6)
        if addition.pipelines:
            yield from wrap_text("for ", ", ".join(addition.pipelines), width, indent=6)
    if not additions:
        yield Text("  nothing: no missing package would enable another setting here", style=QUIET)
    yield Text("")
