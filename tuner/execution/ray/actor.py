"""What runs beside a device of a Ray cluster: the executor of this machine, for a parent elsewhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil
from filelock import FileLock

from tuner.errors import Unavailable
from tuner.execution.launch import Launcher, Place
from tuner.execution.local import LocalExecutor
from tuner.execution.ray.session import Command, Event, Session
from tuner.execution.ray.shipping import Scratch, last_line, with_paths, write_files
from tuner.execution.template import make_launcher
from tuner.hardware import environment, gpus, telemetry
from tuner.records.codec import Record, decode, encode, fingerprint
from tuner.records.machine import Environment
from tuner.records.outcome import Device
from tuner.records.protocol import Job

LOG = Path("/dev/stderr")
"""What a template reports stands in Ray's log of the actor."""

GROUPS = {"events": 1, "checks": 1}
"""Calls that wait beside the others, one thread each."""

Files = Mapping[str, Any]
"""Ray's references to the contents of files, by their paths."""


def own_version() -> str:
    """Return the version of this package here."""
    return environment.installed_version("diffusion-tuner") or "not installed"


class Version(msgspec.Struct):
    """The version of this package on a node, whatever else another one says."""

    version: str


class Found(Record):
    """What an actor found: its environment, the UUIDs of its GPUs, the first one's index on the node, and the cores
    next to them. `warning` says who else uses them, if somebody does."""

    version: str
    environment: Environment
    gpus: tuple[str, ...] = ()
    index: int | None = None
    near: frozenset[int] = frozenset()
    warning: str | None = None


class Setup(Record):
    """What an actor needs to know of a study.

    `run` names this run of the study, and the file `nonce` in its folder holds that. `gpus` are those that compute an
    image together. `near` has the cores next to each device of the node, of which this one is number `rank`. `models`
    are paths that workers read.
    """

    session: str
    run: str
    study: str
    nonce: str
    device: Device
    gpus: tuple[str, ...]
    near: tuple[frozenset[int], ...]
    rank: int
    slots: int
    models: tuple[str, ...]


class Opened(Record):
    """Whether a node sees the study's folder, and the paths of models that it lacks."""

    sees_folder: bool
    missing: tuple[str, ...]


class Restarted(Exception):
    """The actor died, and was started again: it knows nothing of the study."""


class DeviceActor:
    """Runs the jobs of one device. Records come and go as JSON, files as Ray's objects."""

    def __init__(self) -> None:
        forget_threads()
        self.scratch: Scratch | None = None
        self.session: Session | None = None
        self.setup: Setup
        self.moved: dict[str, str] = {}
        """Where models that were sent lie, by their paths on the parent's node."""

    def describe(self, kind: str, devices: int) -> bytes:
        """Return what there is, if an image may use so many devices. Raises Unavailable if a GPU cannot be used."""
        found = Found(version=own_version(), environment=environment.detect(kind, devices=devices))
        if kind == "cuda":
            group = gpus.visible_gpus()[:devices]
            for fault in (gpu.fault for gpu in group if gpu.fault is not None):
                raise Unavailable(fault)
            if len({gpu.kind for gpu in group}) > 1:
                raise Unavailable("its GPUs, which would compute an image together, are of different kinds")
            warnings = (telemetry.other_users_warning((gpu.processes, gpu.used_bytes)) for gpu in group)
            found = msgspec.structs.replace(
                found, gpus=tuple(gpu.uuid for gpu in group), index=gpus.index_of(group[0].uuid),
                near=frozenset[int]().union(*(gpu.near for gpu in group)), warning=next(filter(None, warnings), None),
            )  # fmt: skip
        return encode(found)

    def open(self, data: bytes, node: str) -> bytes:
        """Begin to take jobs of a study. What an earlier session runs is killed."""
        self.close()
        self.moved.clear()
        self.setup = setup = decode(data, Setup, "setup")
        self.scratch = Scratch(setup.run, node)
        sees_folder = self.sees(Path(setup.nonce), setup.run)
        self.root = self.scratch.folder / f"actor-{os.getpid()}"
        self.inputs = Path(setup.study) if sees_folder else self.scratch.folder / "inputs"
        part = gpus.share_cores(setup.near, frozenset(os.sched_getaffinity(0)))[setup.rank]
        place = Place(",".join(setup.gpus) or None, part if len(setup.near) > 1 else frozenset())
        executor = LocalExecutor([setup.device], self.launcher(place), slots=setup.slots)
        self.session = Session(executor, self.root)
        return encode(Opened(sees_folder=sees_folder, missing=tuple(filter(self.is_missing, setup.models))))

    def sees(self, nonce: Path, run: str) -> bool:
        """Return whether the study's folder is here as well: the same, and no copy."""
        try:
            return nonce.read_text(encoding="ascii") == run
        except (OSError, ValueError):
            return False

    def has(self, path: str) -> bool:
        """Return whether a model is here."""
        return Path(path).exists()

    def is_missing(self, path: str) -> bool:
        """Return whether a model is neither here nor was sent to this node in this run."""
        if self.has(path):
            return False
        folder = self.sent(path)
        if folder.exists():
            self.moved[path] = str(folder / Path(path).name)
        return path not in self.moved

    def sent(self, path: str) -> Path:
        """Return the folder for a model that is sent."""
        assert self.scratch is not None
        return self.scratch.folder / "models" / fingerprint({"path": path})

    def launcher(self, place: Place) -> Launcher:
        """Return what starts workers. Compiled code stays on the node."""
        assert self.scratch is not None
        return make_launcher(self.scratch.folder / "cache", LOG, place)

    def receive(self, path: str, files: Files) -> None:
        """Take a model that this node lacks, unless another actor of the node has it."""
        self.fetch(self.sent(path), files)
        self.moved[path] = str(self.sent(path) / Path(path).name)

    def fetch(self, folder: Path, files: Files) -> None:
        """Make a folder of files, once on a node."""
        import ray

        folder.parent.mkdir(exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                partial = folder.with_suffix(".partial")
                partial.mkdir(exist_ok=True)
                for name, contents in files.items():
                    write_files(partial, {name: ray.get(contents)})
                partial.rename(folder)

    def post(
        self, session: str, number: int, kind: str, name: str, job: bytes | None = None,
        inputs: Mapping[str, Files] | None = None,
    ) -> None:  # fmt: skip
        """Take a command of a session, and first the files that its job reads."""
        if self.session is None or self.setup.session != session:
            return
        try:
            for key, files in (inputs or {}).items():
                self.fetch(self.inputs / key, files)
            found = None if job is None else self.local(decode(job, Job, "job"))
            self.session.post(number, Command(kind, name, found))
        except Exception as error:  # of the disk, of Ray, or of what another version sent
            self.session.fail(f"a job did not reach its node: {last_line(error)}")

    def local(self, job: Job) -> Job:
        """Return a job with this node's paths."""
        job = with_paths(job, lambda path: str(self.root / path), lambda path: str(self.inputs / path))
        names = ("source", "base", "scorer")
        model = {name: self.moved.get(getattr(job.model, name), getattr(job.model, name)) for name in names}
        paths = {name: self.moved.get(path, path) for name, path in job.quality.metric_paths.items()}
        return msgspec.structs.replace(
            job, model=msgspec.structs.replace(job.model, **model), study_pid=os.getpid(),
            quality=msgspec.structs.replace(job.quality, metric_paths=paths),
        )  # fmt: skip

    def collect(self, session: str) -> tuple[list[Event], str | None]:
        """Wait for events of a session. Raises Restarted if it is over."""
        if self.session is None or self.setup.session != session:
            raise Restarted
        return self.session.collect()

    def trouble(self) -> tuple[str, bool] | None:
        """Return what is wrong with the device, and whether it is lost. Raises Restarted without a session."""
        if self.session is None:
            raise Restarted
        found = gpus.trouble_of(self.setup.device, self.setup.gpus)
        return found and (found.reason, found.is_lost)

    def close(self) -> None:
        """Kill what runs, and leave nothing behind."""
        if self.session is not None:
            self.session.close()
            self.session = None
        if self.scratch is not None:
            self.scratch.close()
            self.scratch = None


def forget_threads() -> None:
    """Let workers use the cores that they have, as on one host.

    Ray sets OMP_NUM_THREADS to the CPUs that an actor asked for, unless the raylet, whose child it is, has it set.
    """
    with suppress(psutil.Error):
        if "OMP_NUM_THREADS" not in psutil.Process(os.getppid()).environ():
            os.environ.pop("OMP_NUM_THREADS", None)


def actor_class(ray: Any, kind: type[DeviceActor]) -> Any:
    """Return the class of actors of this kind. Waiting for events must not keep other calls waiting."""
    for name, group in (("collect", "events"), ("trouble", "checks")):
        setattr(kind, name, ray.method(concurrency_group=group)(getattr(kind, name)))
    return ray.remote(concurrency_groups=GROUPS, max_restarts=-1)(kind)
