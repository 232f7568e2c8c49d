"""The parent's half: jobs that run on the devices of a Ray cluster."""

from __future__ import annotations

import secrets
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tuner.errors import BadInput
from tuner.execution.executor import Ended, Executor, Handle, StoodStill
from tuner.execution.ray.actor import Found, Opened, Restarted, Setup
from tuner.execution.ray.session import Event
from tuner.execution.ray.shipping import files_below, last_line, model_files, with_paths, write_files
from tuner.files import StudyFolder
from tuner.hardware.gpus import Trouble
from tuner.records.codec import decode, encode, fingerprint
from tuner.records.outcome import Device, Failure
from tuner.records.protocol import Job, Message, WorkerFailed, decode_message

NONCE = "ray_run"
"""The file in a study's folder with the name of this run: a node that finds it sees the same folder."""

POLL_S = 1.0
"""Ctrl-C is noticed, and an end that moves is looked at, after so many seconds at most."""

START_S = 60.0
"""How long actors may take to begin to take jobs."""

ANSWER_S = 10.0
"""A node that does not answer for so many seconds counts as lost."""

SILENT_S = 60.0
"""A node that runs jobs and reported nothing for so many seconds is asked whether it is there."""

RETRY_S = 2.0
"""Whether Ray has started a lost actor again is looked at after so many seconds."""

SEND_S = 1800.0
"""How long models may take to be sent to all nodes."""

CLOSE_S = 20.0
"""How long actors may take to kill what runs."""


@dataclass
class Site:
    """A device of the cluster, and the actor that runs its jobs.

    `rank` is its place among the devices of its node, and `near` has the cores next to each of these. `lost` says why
    it cannot be used, if it cannot.
    """

    actor: Any
    node: str
    device: Device
    found: Found
    rank: int = 0
    near: tuple[frozenset[int], ...] = (frozenset(),)
    session: str = ""
    posted: int = 0
    holder: str | None = None
    sees_folder: bool = False
    lost: str = ""
    is_reported: bool = False
    """Whether the study was told that it is lost."""
    is_broken: bool = False
    """Whether its actor lives, but failed: then it is not used again in this run."""
    last_seen_at: float = 0.0
    """When it last answered."""
    opening: Any = None
    """Ray's promise that the actor takes jobs again."""


@dataclass
class Packed:
    """Files that were given to Ray, by their paths, in the state that `version` names."""

    version: str
    files: dict[str, Any]


class RayExecutor(Executor):
    """Runs jobs on the devices of a Ray cluster. What workers write comes into the study's folder before its message.

    An actor that dies takes its jobs with it: they fail, and `trouble_of` says why. Ray starts it again where it can.
    `models` are paths that workers read, which are sent to nodes without them.
    """

    def __init__(self, ray: Any, sites: Sequence[Site], paths: StudyFolder, models: Sequence[str], slots: int) -> None:
        self.ray = ray
        self.sites = {site.device: site for site in sites}
        self.paths = paths
        self.models = tuple(models)
        self.slots = slots
        self.nonce = paths.root / NONCE
        self.run = secrets.token_hex(16)
        self.running: dict[str, Handle] = {}
        self.awaited: dict[Any, Site] = {}
        """Ray's promises of events, and of commands that arrived."""
        self.events: deque[Event] = deque()
        self.packed: dict[Path, Packed] = {}

    # ---- jobs ------------------------------------------------------------------------------------------------------

    def free(self) -> Sequence[Device]:
        busy = [handle.device for handle in self.running.values()]
        return [
            device for device, site in self.sites.items()
            if busy.count(device) < self.slots and site.holder not in self.running
        ]  # fmt: skip

    def submit(self, job: Job, device: Device) -> Handle:
        if device not in self.free():
            raise ValueError(f"{device.title}: this device is not free")
        handle = Handle(job, device)
        self.running[handle.id] = handle
        if self.sites[device].lost:
            self._fail(handle, self.sites[device].lost)
        else:
            self._send("submit", handle, job)
        return handle

    def provide(self, handle: Handle, job: Job) -> None:
        if not self.sites[handle.device].lost:
            self._send("provide", handle, job)

    def cancel(self, handle: Handle) -> None:
        if self.running.pop(handle.id, None) is not None and not self.sites[handle.device].lost:
            self._post(self.sites[handle.device], "cancel", handle.id)

    def _send(self, kind: str, handle: Handle, job: Job) -> None:
        """Send a job with the files that it reads, in paths relative to the study."""
        site, inputs = self.sites[handle.device], {}

        def read(path: str) -> str:
            packed = self._pack(Path(path))
            inputs[packed.version] = packed.files
            return f"{packed.version}/{self._relative(path)}"

        sent = with_paths(job, self._relative, self._relative if site.sees_folder else read)
        self._post(site, kind, handle.id, encode(sent), inputs)

    def _relative(self, path: str) -> str:
        return str(Path(path).relative_to(self.paths.root))

    def _post(self, site: Site, *command: Any) -> None:
        self.awaited[site.actor.post.remote(site.session, site.posted, *command)] = site
        site.posted += 1

    def _pack(self, path: Path) -> Packed:
        """Return Ray's references to files of the study by their paths: to those of before unless they changed."""
        found = dict(files_below(path))
        version = fingerprint({str(file): [state.st_size, state.st_mtime_ns] for file, state in found.items()})
        packed = self.packed.get(path)
        if packed is None or packed.version != version:
            packed = self.packed[path] = Packed(version, self._put(found, self.paths.root))
        return packed

    def _put(self, files: Iterable[Path], root: Path) -> dict[str, Any]:
        """Give files to Ray, and return its references by their paths below `root`."""
        return {str(file.relative_to(root)): self.ray.put(_contents(file)) for file in files}

    # ---- events ----------------------------------------------------------------------------------------------------

    def wait(self, until: Callable[[], float]) -> Iterator[tuple[Handle, Message | StoodStill | Ended]]:
        while self.running:
            returns_at = until()
            if not self.events and not self._collect(returns_at) and time.monotonic() >= returns_at:
                return
            self._ask_silent()
            while self.events:
                name, data, files = self.events.popleft()
                handle = self.running.get(name)
                if handle is None:  # it was cancelled
                    continue
                write_files(self.paths.root, files, self._relative(handle.job.points[0].folder))
                event = _decoded(data)
                if isinstance(event, Ended):
                    del self.running[name]
                yield handle, event

    def _collect(self, returns_at: float) -> bool:
        """Wait for events until then, but not for long. Returns whether any came."""
        wait_s = max(0.0, min(POLL_S, returns_at - time.monotonic()))
        if not self.awaited:
            time.sleep(wait_s)
            return False
        refs = list(self.awaited)
        ready, _ = self.ray.wait(refs, timeout=wait_s, fetch_local=False)
        if ready:
            ready, _ = self.ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)
        for ref in ready:
            if ref in self.awaited:  # its site was not lost because of another one
                self._take(ref, self.awaited.pop(ref))
        return bool(ready)

    def _take(self, ref: Any, site: Site) -> None:
        try:
            found = self.ray.get(ref, timeout=ANSWER_S)
        except self.ray.exceptions.RayError as error:
            self._mark_lost(site, error)
            return
        site.last_seen_at = time.monotonic()
        if found is None:  # a command arrived
            return
        events, site.holder = found
        self.events.extend(events)
        self._await_events(site)

    def _await_events(self, site: Site) -> None:
        self.awaited[site.actor.collect.remote(site.session)] = site

    def _fail(self, handle: Handle, reason: str) -> None:
        failure = Failure(kind="crash", stage="start", message=reason)
        self.events.append((handle.id, encode(WorkerFailed(failure=failure)), {}))
        self.events.append((handle.id, None, {}))

    # ---- lost devices ----------------------------------------------------------------------------------------------

    def _mark_lost(self, site: Site, error: Exception) -> None:
        """Take note that an actor is gone, with its jobs."""
        site.lost, site.is_reported, site.holder, site.opening = self._reason(error), False, None, None
        site.is_broken = isinstance(error, self.ray.exceptions.RayTaskError) and not isinstance(error, Restarted)
        self.awaited = {ref: other for ref, other in self.awaited.items() if other is not site}
        for handle in self.running.values():
            if handle.device == site.device:
                self._fail(handle, site.lost)

    def _reason(self, error: Exception) -> str:
        """Return in one line why a device was lost."""
        known = (
            ((self.ray.exceptions.ActorDiedError, Restarted), "its actor died, or its node did"),
            (self.ray.exceptions.ActorUnavailableError, "its actor died, or its node does not answer"),
            (self.ray.exceptions.ActorUnschedulableError, "its node left the cluster"),
            (self.ray.exceptions.GetTimeoutError, "its node did not answer in time"),
        )
        return next(
            (text for kinds, text in known if isinstance(error, kinds)), f"its actor failed: {last_line(error)}"
        )

    def trouble_of(self, device: Device) -> Trouble | None:
        """Return what is wrong with a device. One that was lost is told as lost once before it may be used again."""
        site = self.sites[device]
        trouble = None if site.lost else self._ask(site)
        return self._trouble_of_lost(site) if site.lost else trouble

    def _ask(self, site: Site) -> Trouble | None:
        """Ask an actor what is wrong with its device. One that does not answer is lost."""
        try:
            trouble = self.ray.get(site.actor.trouble.remote(), timeout=ANSWER_S)
        except self.ray.exceptions.RayError as error:
            self._mark_lost(site, error)
            return None
        site.last_seen_at = time.monotonic()
        return None if trouble is None else Trouble(*trouble)

    def _ask_silent(self) -> None:
        """Take note of nodes that do not answer although they run jobs."""
        for site in {handle.device: self.sites[handle.device] for handle in self.running.values()}.values():
            if not site.lost and time.monotonic() - site.last_seen_at > SILENT_S:
                self._ask(site)

    def _trouble_of_lost(self, site: Site) -> Trouble | None:
        trouble = Trouble(site.lost, is_lost=True, again_s=RETRY_S)
        if not site.is_reported:
            site.is_reported = True
            return trouble
        if site.is_broken:
            return trouble._replace(again_s=None)
        site.opening = site.opening or self._open(site)
        if not self.ray.wait([site.opening], timeout=0)[0]:
            return trouble
        try:
            self._finish_opening(site, {}, time.monotonic() + SEND_S)
        except (self.ray.exceptions.ActorDiedError, self.ray.exceptions.ActorUnschedulableError):
            return trouble._replace(again_s=None)
        except self.ray.exceptions.RayError:
            site.opening = None
            return trouble
        return None

    # ---- the study -------------------------------------------------------------------------------------------------

    def _open(self, site: Site) -> Any:
        """Let an actor begin to take jobs."""
        site.session, site.posted, site.holder = uuid.uuid4().hex, 0, None
        setup = Setup(
            session=site.session, run=self.run, study=str(self.paths.root), nonce=str(self.nonce),
            device=site.device, gpus=site.found.gpus, near=site.near, rank=site.rank, slots=self.slots,
            models=self.models,
        )  # fmt: skip
        return site.actor.open.remote(encode(setup), site.node)

    def _finish_opening(self, site: Site, models: dict[str, dict[str, Any]], ends_at: float) -> None:
        """Send an actor the models that it lacks, and let it tell events. Raises RayError if it is gone.

        `models` takes what was given to Ray, for other actors.
        """
        opened = decode(self.ray.get(site.opening, timeout=0), Opened, site.device.title)
        site.opening, site.sees_folder = None, opened.sees_folder
        for path in opened.missing:
            if path not in models:
                models[path] = self._put((file for file, _ in model_files(Path(path))), Path(path).parent)
            received = site.actor.receive.remote(path, models[path])
            self.ray.get(received, timeout=max(0.0, ends_at - time.monotonic()))
        site.lost, site.last_seen_at = "", time.monotonic()
        self._await_events(site)

    def __enter__(self) -> Self:
        self.nonce.write_text(self.run, encoding="ascii")
        for site in self.sites.values():
            site.opening = self._open(site)
        opening = [site.opening for site in self.sites.values()]
        self.ray.wait(opening, num_returns=len(opening), timeout=START_S)
        models: dict[str, dict[str, Any]] = {}
        ends_at = time.monotonic() + SEND_S
        for site in self.sites.values():
            try:
                self._finish_opening(site, models, ends_at)
            except self.ray.exceptions.RayError as error:
                self._mark_lost(site, error)
        return self

    def __exit__(self, *error: Any) -> None:
        self.running.clear()
        closing = [site.actor.close.remote() for site in self.sites.values()]
        self.ray.wait(closing, num_returns=len(closing), timeout=CLOSE_S)
        self.nonce.unlink(missing_ok=True)


def _contents(file: Path) -> Any:
    """Return a file's contents: large ones are mapped, so that they go to Ray's store without a copy."""
    import numpy as np

    try:
        return np.asarray(np.memmap(file, mode="r")) if file.stat().st_size > 1 << 20 else file.read_bytes()
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror}") from None


def _decoded(data: bytes | float | None) -> Message | StoodStill | Ended:
    if data is None:
        return Ended()
    return StoodStill(data) if isinstance(data, float) else decode_message(data)
