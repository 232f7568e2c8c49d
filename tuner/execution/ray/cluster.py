"""The devices of a Ray cluster: an actor for each, and those of one family, which a study can use together."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import socket
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any

import msgspec

from tuner.errors import BadInput, Unavailable
from tuner.execution import python
from tuner.execution.executor import Executor
from tuner.execution.ray.actor import DeviceActor, Found, Version, actor_class, own_version
from tuner.execution.ray.executor import START_S, RayExecutor, Site
from tuner.execution.ray.shipping import last_line
from tuner.files import StudyFolder
from tuner.hardware import environment
from tuner.hardware.gpus import Trouble
from tuner.records.codec import decode
from tuner.records.machine import Environment
from tuner.records.model import Model
from tuner.records.outcome import Device

ACTOR = DeviceActor
"""The class of the actors."""

MISSING = "ray is not installed here: pip install 'diffusion-tuner[ray]'"

QUIET = {"RAY_DEDUP_LOGS_SKIP_REGEX": "."}
"""The environment in which Ray prints nothing among the output of a study."""

CONNECT_S = 5.0
"""How long a cluster may take to accept a connection."""

Node = Mapping[str, Any]
"""What Ray says of a node."""

OF_THE_NODE = ("cpu_count", "driver", "platform")
"""The fields of an environment in which the nodes of a family may differ."""


@dataclass(frozen=True)
class Wanted:
    """What a study wants of a cluster.

    `family` is an environment, or a text in the names of devices; without it, that with most devices is used. So many
    GPUs, `devices`, compute an image together. `gpus` is how many are used, all of them if it is None.
    """

    kind: str = "auto"
    family: Environment | str | None = None
    devices: int = 1
    gpus: int | None = None


class Cluster:
    """The devices of a family in a Ray cluster, and why others are left out. The connection may be `ours`."""

    def __init__(self, ray: Any, sites: Sequence[Site], left_out: Sequence[str], *, ours: bool = False) -> None:
        self.ray = ray
        self.ours = ours
        self.sites = sites
        self.left_out = left_out

    @property
    def environment(self) -> Environment:
        """What the devices have in common. Fields of the node are left out, but for the smallest number of cores."""
        each = [site.found.environment for site in self.sites]
        cores = min(environment.cpu_count for environment in each)
        return msgspec.structs.replace(each[0], cpu_count=cores, driver=None, platform="")

    @property
    def devices(self) -> list[Device]:
        """The devices."""
        return [site.device for site in self.sites]

    @contextlib.contextmanager
    def opened(
        self, paths: StudyFolder, model: Model, metrics: Mapping[str, str], slots: int
    ) -> Iterator[tuple[Executor, Callable[[Device], Trouble | None]]]:
        """Yield an executor for a study, and what says what is wrong with a device."""
        named = (model.source, model.base, model.scorer, *metrics.values())
        models = [path for path in named if path is not None and Path(path).is_absolute() and Path(path).exists()]
        with RayExecutor(self.ray, self.sites, paths, models, slots) as executor:
            yield executor, executor.trouble_of

    def close(self) -> None:
        """End the actors, and the connection if it is ours."""
        for site in self.sites:
            self.ray.kill(site.actor)
        if self.ours:
            self.ray.shutdown()


def connect(address: str, wanted: Wanted) -> Cluster:
    """Start an actor for each device of the cluster at an address, and return those that are wanted.

    A connection that this process has is used. Raises Unavailable if there is none, or if devices are missing.
    """
    if importlib.util.find_spec("ray") is None:
        raise Unavailable(f"--ray {address}: {MISSING}")
    os.environ |= QUIET
    import ray

    ours = not ray.is_initialized()
    try:
        if ours:
            require_listener(address)
            with contextlib.chdir(Path(python.PACKAGE).parent):  # Ray lets actors import from the current folder first
                ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    except (OSError, RuntimeError, ValueError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise Unavailable(
            f"--ray {address}: no cluster answers: {reason}; start one with `ray start --head`, or give its HOST:PORT"
        ) from None
    sites, left_out = start_actors(ray, wanted)
    chosen, others = choose(sites, wanted)
    for site in sites:
        if site not in chosen:
            ray.kill(site.actor)
    found = Cluster(ray, ranked(chosen), [*left_out, *others], ours=ours)
    missing = why_too_few(found, wanted)
    if missing is not None:
        found.close()
        raise Unavailable(missing if wanted.gpus else f"--ray {address}: {missing}")
    return found


def why_too_few(found: Cluster, wanted: Wanted) -> str | None:
    """Return why the devices that were found are not what is wanted, or None if they are."""
    used = wanted.devices * len(found.sites)
    if wanted.gpus is not None and used + wanted.devices <= wanted.gpus:
        return f"--gpus {wanted.gpus}: {used} GPUs of one kind can be used: {reasons(found, 'the cluster has no more')}"
    return None if found.sites else f"no device can be used: {reasons(found, 'the cluster has none')}"


def reasons(found: Cluster, otherwise: str) -> str:
    """Return why devices are left out, in one line."""
    return "; ".join(found.left_out) or otherwise


def require_listener(address: str) -> None:
    """Raise OSError if nothing listens at an address HOST:PORT: Ray would go on trying."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()


def start_actors(ray: Any, wanted: Wanted) -> tuple[list[Site], list[str]]:
    """Start an actor for each device. Return those that can be used, and why others cannot."""
    sites: list[Site] = []
    nodes = [node for node in ray.nodes() if node["Alive"]]
    kind = wanted.kind
    if kind == "auto":
        kind = "cuda" if any(node["Resources"].get("GPU", 0) >= 1 for node in nodes) else "cpu"
    left_out = [] if kind == "cpu" else list(left_over(nodes, wanted.devices))
    for answer, (actor, node) in ask_actors(ray, nodes, kind, wanted.devices).items():
        try:
            others = sum(site.device.node == node["NodeName"] for site in sites)
            sites.append(site_of(ray.get(answer, timeout=0), actor, node, others))
        except (ray.exceptions.RayError, BadInput) as error:
            left_out.append(f"a device of {node['NodeName']} is left out: {why_not(ray, error)}")
            ray.kill(actor)
    return sites, left_out


def ask_actors(ray: Any, nodes: Sequence[Node], kind: str, devices: int) -> dict[Any, tuple[Any, Node]]:
    """Start an actor for so many GPUs each or, on CPUs, for each node. Wait for what they found.

    Returns each with its node, by Ray's promise of that.
    """
    each, asked = actor_class(ray, ACTOR), {}
    for node in nodes:
        gpus, cpus = (int(node["Resources"].get(name, 0)) for name in ("GPU", "CPU"))
        count = min(1, cpus) if kind == "cpu" else gpus // devices
        for _ in range(count):
            pinned = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            actor = each.options(
                num_gpus=devices if kind == "cuda" else 0, num_cpus=cpus // count, scheduling_strategy=pinned
            ).remote()  # fmt: skip
            asked[actor.describe.remote(kind, devices)] = (actor, node)
    if asked:
        ray.wait(list(asked), num_returns=len(asked), timeout=START_S)
    return asked


def left_over(nodes: Sequence[Node], devices: int) -> Iterator[str]:
    """Yield which GPUs of a node are too few for another image."""
    for node in nodes:
        gpus = int(node["Resources"].get("GPU", 0))
        if gpus % devices:
            yield too_few(f"{gpus % devices} of {gpus} GPUs of {node['NodeName']}", devices)


def too_few(gpus: str, devices: int) -> str:
    """Say that some GPUs are left out, since more are needed for an image."""
    return f"left out: {gpus}: --devices {devices} needs {devices} for an image"


def site_of(data: bytes, actor: Any, node: Node, others: int) -> Site:
    """Return the device of an actor on a node with so many others, which number those without an index.

    Raises BadInput if its node has another version of this package.
    """
    try:
        version = msgspec.json.decode(data, type=Version).version
    except msgspec.DecodeError:
        version = "unknown"
    if version != own_version():
        raise BadInput(f"its diffusion-tuner is {version}, here it is {own_version()}: install the same version")
    found = decode(data, Found, "what an actor found")
    index = others if found.index is None else found.index
    at = Device(name=found.environment.device, index=index, uuid=next(iter(found.gpus), None), node=node["NodeName"])
    return Site(actor, node["NodeID"], at, found)


def why_not(ray: Any, error: Exception) -> str:
    """Return in one line why a device cannot be used."""
    if isinstance(error, BadInput):
        return str(error)
    if isinstance(error, ray.exceptions.GetTimeoutError):
        return f"it had no free resources for {START_S:.0f} s (`ray status` says who has them)"
    return f"its actor failed: {last_line(error)}"


# ---- families -------------------------------------------------------------------------------------------------------


def choose(sites: Sequence[Site], wanted: Wanted) -> tuple[list[Site], list[str]]:
    """Return the devices that are wanted, and why others are left out."""
    family = wanted.family
    used = family if isinstance(family, Environment) else largest_family(named(sites, family or ""))
    chosen, left_out = [], []
    for site in sites:
        here = site.found.environment
        other = difference(used, here) if used else f"{here.device_name} has no {family!r} in its name"
        if other is None:
            chosen.append(site)
        else:
            left_out.append(f"{site.device.title} is left out: {other}")
    if wanted.gpus is None:
        return chosen, left_out
    if wanted.gpus % wanted.devices:
        left_out.append(too_few(f"{wanted.gpus % wanted.devices} of --gpus {wanted.gpus}", wanted.devices))
    return sorted(chosen, key=lambda site: bool(site.found.warning))[: wanted.gpus // wanted.devices], left_out


def named(sites: Sequence[Site], text: str) -> list[Site]:
    """Return the devices whose name has a text in it, in whatever case; if there are such, as words of their own."""
    names = [site.found.environment.device_name for site in sites]
    as_words = re.compile(rf"(?<!\w){re.escape(text)}(?!\w)", re.IGNORECASE)
    has_text = [as_words.search(name) is not None for name in names]
    if not any(has_text):
        has_text = [text.casefold() in name.casefold() for name in names]
    return list(compress(sites, has_text))


def largest_family(sites: Sequence[Site]) -> Environment | None:
    """Return the environment of a device of the family that has most."""
    environments = [site.found.environment for site in sites]
    alike = [sum(difference(each, other) is None for other in environments) for each in environments]
    return environments[alike.index(max(alike))] if environments else None


def difference(family: Environment, other: Environment) -> str | None:
    """Return in which field a device is of another family, with both values, or None if it is of this one."""
    then, now = (environment.flat(each) for each in (family, other))
    for name in then | now:
        if name not in OF_THE_NODE and then.get(name) != now.get(name):
            return f"{name} is {now.get(name)} there, and {then.get(name)} on the devices that are used"
    return None


def ranked(sites: Sequence[Site]) -> list[Site]:
    """Tell each device its place among those of its node, whose cores they share."""
    of_node: defaultdict[str, list[Site]] = defaultdict(list)
    for site in sites:
        of_node[site.node].append(site)
    near = {node: tuple(site.found.near for site in its) for node, its in of_node.items()}
    return [replace(site, rank=of_node[site.node].index(site), near=near[site.node]) for site in sites]
