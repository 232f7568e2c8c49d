"""Executors in a Ray cluster of three nodes here: the contract, and a study that loses an actor and a node."""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import ray_nodes
from execution.test_executor import (  # noqa: F401  (the contract, over the fixture `make` below)
    DEVICES,
    WORKER,
    executor,
    test_a_busy_device_takes_no_second_job,
    test_a_cancelled_job_sends_nothing_more,
    test_a_device_is_busy_while_its_job_runs,
    test_a_device_takes_as_many_jobs_as_it_has_slots,
    test_a_failure_is_told_once_although_nobody_waits_for_the_end,
    test_a_job_can_be_cancelled_because_of_its_message,
    test_a_job_cancelled_because_of_anothers_message_sends_nothing_more,
    test_a_job_ends_with_exactly_one_end,
    test_jobs_on_several_devices_are_told_apart,
    test_nothing_is_lost_when_waiting_is_interrupted,
    test_waiting_for_nothing_returns_at_once,
)
from faults.harness import wait_until
from faults.sabotaged_tune import EMPTY_PANEL
from inline_study import SMALL, Told
from kinds import kind

from tuner import cli
from tuner.commands.machines import InCluster
from tuner.errors import BadInput, Unavailable
from tuner.execution import launch
from tuner.execution.executor import Ended, Executor
from tuner.execution.launch import FreshLauncher, Launcher, Place
from tuner.execution.local import LocalExecutor
from tuner.execution.ray import actor as actor_module
from tuner.execution.ray import cluster as ray_cluster
from tuner.execution.ray import executor as ray_executor
from tuner.execution.ray import shipping
from tuner.execution.ray.cluster import Cluster, Wanted, connect, difference, largest_family, site_of
from tuner.execution.ray.executor import RayExecutor
from tuner.execution.ray.session import Command, Session
from tuner.execution.ray.shipping import SCRATCH, Scratch, model_files, write_files
from tuner.files import StudyFolder
from tuner.hardware import environment, gpus
from tuner.records.codec import decode, encode, read
from tuner.records.machine import Environment
from tuner.records.model import Model
from tuner.records.outcome import Device, Limits, Outcome
from tuner.records.protocol import Job, StageStarted, WorkerFailed
from tuner.result.prices import Price
from tuner.search import baseline
from tuner.search.request import Request
from tuner.space import reader
from tuner.study import finalists
from tuner.study.loop import Study
from tuner.study.store import Store

SPACE = f"""{SMALL}
knobs:
  attention.backend: [native, _native_math]
  fuse_qkv: [false, true]
  precision.dtype: [float32, bfloat16]
  cache.kind: [none, first-block]
  cache.threshold: [0.05, 0.1]
"""


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    with ray_nodes.started(gpus=3) as found:
        yield found


@pytest.fixture(scope="module")
def cluster(nodes: Any) -> Cluster:
    return connect(nodes.address, Wanted("cpu"))


@pytest.fixture
def make(cluster: Cluster) -> Callable[..., Executor]:
    def make(folder: Path, slots: int = 1) -> Executor:
        (folder / ray_nodes.PROGRAM).write_text(WORKER)
        (folder / ray_nodes.UNSEEN).touch()
        sites = [replace(site, device=device) for site, device in zip(cluster.sites, DEVICES, strict=False)]
        return RayExecutor(cluster.ray, sites, StudyFolder(folder), [], slots)

    return make


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline, "MAX_BASELINES", 2)
    monkeypatch.setattr(ray_executor, "RETRY_S", 0.5)
    monkeypatch.setattr(finalists, "EXAMINER", (sys.executable, "-S", "-c", EMPTY_PANEL))


class Harm(Told):
    """A display that does something once so many trials are recorded."""

    def __init__(self, **harms: Callable[[], None]) -> None:
        super().__init__()
        self.harms = {int(count.removeprefix("at_")): harm for count, harm in harms.items()}

    def trial_ended(self, outcome: Outcome, remark: str) -> None:
        super().trial_ended(outcome, remark)
        self.harms.pop(len(self.outcomes), lambda: None)()


def request_for(folder: Path, here: Environment) -> Request:
    folder.with_suffix(".yaml").write_text(SPACE)
    return Request(
        model=Model(
            source=str(folder.parent / "model"), revision=None, pipeline_class="FluxPipeline", scorer="/scorer"
        ),
        environment=here,
        space=reader.load(folder.with_suffix(".yaml"), kind(), here, ()),
        price=Price(usd_per_hour=3.6, source="here"),
    )


@contextmanager
def study(
    cluster: Cluster, folder: Path, told: Told, *, trials: int, sees_folder: bool, stage_s: float = 0.02
) -> Iterator[Study]:
    write_files(folder.parent / "model", {"unet/weights": b"w" * (1 << 21)})
    request = request_for(folder, environment.detect("cpu"))
    with Store(folder, request) as store:
        (folder / ray_nodes.PROGRAM).write_text(ray_nodes.WORKER.replace("STAGE_S", str(stage_s)))
        if not sees_folder:
            (folder / ray_nodes.UNSEEN).touch()
        with cluster.opened(store.paths, request.model, {}, 2) as (executor, check):
            yield Study(store, Limits(budget_s=600.0, max_trials=trials), told, executor, check)


def outcomes(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.glob("*/*/outcome.json")}


@pytest.mark.parametrize("sees_folder", [True, False])
def test_a_study_has_all_files(cluster: Cluster, tmp_path: Path, sees_folder: bool) -> None:
    """Workers fail unless they find the model and the baseline's images: these are seen, or travel as theirs do."""
    folder = tmp_path / "study"
    with study(cluster, folder, Told(), trials=5, sees_folder=sees_folder) as found:
        found.run()
    trials = [read(file, Outcome) for file in outcomes(folder) if file.parent.parent.name == "trials"]
    assert [outcome.failure for outcome in trials] == [None] * 5
    for outcome in trials:
        trial = folder / "trials" / f"{outcome.number:04}"
        assert len(list((trial / "images").glob("*.png"))) == 2
        assert "was here" in (trial / "worker.log").read_text()
        job = (trial / "job.json").read_text()
        assert (str(folder) in job) == (sees_folder and outcome.number > 0), "the baseline's images"
        assert (str(tmp_path / "model") in job) == sees_folder
        assert str(trial) not in job, "a worker that is cut off must not write beside the one that follows it"
    assert not (folder / "ray_run").exists()


class UsedAgain(Exception):
    """A device is used again: the study may end."""


def test_a_node_that_does_not_answer_is_lost_and_comes_back(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_executor, "ANSWER_S", 5.0)
    monkeypatch.setattr(ray_executor, "SILENT_S", 1.0)
    site = cluster.sites[0]
    pid, folder = cluster.ray.get(site.actor.pid.remote()), tmp_path / "study"

    class Watch(Harm):
        def note(self, text: str) -> None:
            super().note(text)
            if text.startswith(f"{site.device.title} is taken out"):
                os.kill(pid, signal.SIGCONT)
            if text == f"{site.device.title} is used again":
                raise UsedAgain

    told = Watch(at_3=lambda: os.kill(pid, signal.SIGSTOP))
    try:
        with (
            pytest.raises(UsedAgain),
            study(cluster, folder, told, trials=1000, stage_s=0.3, sees_folder=False) as found,
        ):
            found.run()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert any("did not answer" in note for note in told.notes)
    assert {read(file, Outcome).failure for file in outcomes(folder)} == {None}


def test_a_device_whose_actor_takes_no_command_is_lost(executor: Executor, make_job: Callable[..., Job]) -> None:  # noqa: F811  (pytest's fixture)
    assert isinstance(executor, RayExecutor)
    device, ends_at = executor.free()[0], time.monotonic() + 30.0
    site = executor.sites[device]
    actor, fails = site.actor, SimpleNamespace(remote=lambda *_: site.actor.receive.remote("", None))
    site.actor = SimpleNamespace(post=fails, receive=actor.receive, trouble=actor.trouble, close=actor.close)
    executor.submit(make_job(), device)
    events = [type(event) for _, event in executor.wait(lambda: ends_at)]
    assert (events, time.monotonic() < ends_at) == ([WorkerFailed, Ended], True)


def test_a_job_of_a_lost_device_is_provided_with_nothing(executor: Executor, make_job: Callable[..., Job]) -> None:  # noqa: F811  (pytest's fixture)
    """What the lost actor would answer must not take out the device once it is used again."""
    assert isinstance(executor, RayExecutor)
    device = executor.free()[0]
    site = executor.sites[device]
    actor, told = site.actor, []
    handle = executor.submit(make_job("sleeps"), device)
    executor.ray.get(actor.close.remote())
    for _, event in executor.wait(lambda: math.inf):
        told.append(type(event))
        if isinstance(event, WorkerFailed):
            assert site.lost
            fails = SimpleNamespace(remote=lambda *_: actor.trouble.remote())  # as whatever a lost actor is asked
            site.actor = SimpleNamespace(post=fails)
            executor.provide(handle, handle.job)
            site.actor = actor
    wait_until(lambda: executor.trouble_of(device) is None, 30.0)
    executor.submit(make_job("another"), device)
    told += [type(event) for _, event in executor.wait(lambda: math.inf)]
    assert [kind for kind in told if kind != StageStarted] == [WorkerFailed, Ended, WorkerFailed, Ended]
    assert not site.lost


def test_a_model_that_was_sent_to_a_node_is_not_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(actor_module, "forget_threads", lambda: None)
    actor = actor_module.DeviceActor()
    actor.scratch = Scratch("run", "node")
    assert actor.is_missing("/models/flux")
    actor.sent("/models/flux").mkdir(parents=True)
    assert not actor.is_missing("/models/flux")
    assert actor.moved == {"/models/flux": str(actor.sent("/models/flux") / "flux")}
    actor.close()


def test_a_gpu_with_a_fault_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor_module, "forget_threads", lambda: None)
    here = environment.detect("cpu")
    monkeypatch.setattr(environment, "detect", lambda kind, devices: here)
    visible = [gpus.Gpu(0, "", "", 0), gpus.Gpu(1, "", "", 0, fault="fell off the bus")]
    monkeypatch.setattr(gpus, "visible_gpus", lambda: visible)
    monkeypatch.setattr(gpus, "index_of", lambda uuid: 0)
    assert actor_module.DeviceActor().describe("cuda", 1)
    with pytest.raises(Unavailable, match="fell off the bus"):
        actor_module.DeviceActor().describe("cuda", 2)
    visible[1] = gpus.Gpu(1, "", "another", 0)
    with pytest.raises(Unavailable, match="different kinds"):
        actor_module.DeviceActor().describe("cuda", 2)


def test_workers_of_an_actor_see_the_gpus_that_compute_an_image_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Actor(actor_module.DeviceActor):
        def launcher(self, place: Place) -> Launcher:
            places.append(place)
            return FreshLauncher(tmp_path / "cache", place)

    places: list[Place] = []
    here = environment.detect("cpu", devices=2)
    near = frozenset({0}), frozenset({1})
    visible = [gpus.Gpu(index, f"GPU-{index}", "", 0, near[index]) for index in range(2)]
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(actor_module, "forget_threads", lambda: None)
    monkeypatch.setattr(environment, "detect", lambda kind, devices: here)
    monkeypatch.setattr(gpus, "visible_gpus", lambda: visible)
    monkeypatch.setattr(gpus, "index_of", lambda uuid: 4)
    asked = []
    monkeypatch.setattr(gpus, "trouble_of", lambda device, group: asked.append((device.uuid, group)))
    actor = Actor()
    found = decode(actor.describe("cuda", 2), actor_module.Found, "found")
    assert (found.gpus, found.index, found.near) == (("GPU-0", "GPU-1"), 4, frozenset({0, 1}))
    setup = actor_module.Setup(
        session="1", run="run", study=str(tmp_path), nonce=str(tmp_path / "nonce"),
        device=Device(name="cuda", index=4, uuid="GPU-0"), gpus=found.gpus, near=(found.near,), rank=0, slots=1,
        models=(),
    )  # fmt: skip
    actor.open(encode(setup), "node")
    assert places == [Place("GPU-0,GPU-1")]
    assert actor.trouble() is None and asked == [("GPU-0", ("GPU-0", "GPU-1"))]
    actor.close()


def test_a_broken_node_is_lost_for_good_and_no_trial_has_failed(
    executor: Executor,  # noqa: F811  (pytest's fixture)
    make_job: Callable[..., Job],
    tmp_path: Path,
) -> None:
    (tmp_path / ray_nodes.BROKEN).touch()
    device = executor.free()[0]
    executor.submit(make_job(), device)
    events = [event for _, event in executor.wait(lambda: math.inf)]
    assert [type(event) for event in events] == [WorkerFailed, Ended]
    told, later = executor.trouble_of(device), executor.trouble_of(device)
    assert told.is_lost and later.is_lost and (told.again_s, later.again_s) == (ray_executor.RETRY_S, None)
    assert "No space left on device" in told.reason


def test_a_full_disk_of_a_node_is_its_trouble_and_not_the_studys(
    tmp_path: Path, make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        launch, "WORKER", (sys.executable, "-c", WORKER.replace('"kind":"error"', '"kind":"disk full"'))
    )
    session = Session(LocalExecutor(DEVICES[:1], FreshLauncher(tmp_path / "cache")), tmp_path)
    session.post(0, Command("submit", "0", make_job()))
    try:
        with pytest.raises(RuntimeError, match="planted"):
            while True:
                assert not any(isinstance(data, bytes) and b"disk full" in data for _, data, _ in session.collect()[0])
    finally:
        session.close()


def test_what_a_node_sends_stays_in_its_jobs_folder(tmp_path: Path) -> None:
    write_files(tmp_path, {"trials/0001/images/0000.png": b"image"}, "trials/0001")
    (tmp_path / "trials" / "0001" / "up").symlink_to(tmp_path)
    (tmp_path / "trials" / "0001" / "file").symlink_to(tmp_path / "study.json")
    elsewhere = ("trials/0002/a.json", "trials/0001/../0002/a.json", str(tmp_path / "study.json"), "trials/0001/up/a")
    for name in elsewhere:
        with pytest.raises(BadInput, match="belongs elsewhere"):
            write_files(tmp_path, {name: b"{}"}, "trials/0001")
    with pytest.raises(OSError, match="symbolic links"):
        write_files(tmp_path, {"trials/0001/file": b"{}"}, "trials/0001")
    with pytest.raises(BadInput, match="only the parent writes"):
        write_files(tmp_path, {"trials/0001/outcome.json": b"{}"}, "trials/0001")
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["0000.png"]


def test_a_scratch_folder_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "mine").mkdir(mode=0o700)
    (tmp_path / "mine" / "lock").touch()
    (tmp_path / f"{SCRATCH}linked-node").symlink_to(tmp_path / "mine")
    (tmp_path / f"{SCRATCH}open-node").mkdir(mode=0o755)
    (tmp_path / f"{SCRATCH}left-node").mkdir(mode=0o700)
    (tmp_path / f"{SCRATCH}left-node" / "lock").touch()
    for run in ("linked", "open"):
        with pytest.raises(BadInput, match="only this user can enter"):
            Scratch(run, "node")
    first, second = Scratch("run", "node"), Scratch("run", "node")
    first.close()
    assert first.folder.exists()
    second.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "mine",
        f"{SCRATCH}linked-node",
        f"{SCRATCH}open-node",
    ]
    assert (tmp_path / "mine" / "lock").exists()


def test_a_scratch_folder_that_is_removed_before_it_is_held_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    removals, flock = [1], shipping.fcntl.flock

    def remove_first(lock: int, how: int) -> None:
        if removals:
            removals.pop()
            shutil.rmtree(tmp_path / f"{SCRATCH}run-node")
        flock(lock, how)

    monkeypatch.setattr(shipping.fcntl, "flock", remove_first)
    scratch = Scratch("run", "node")
    assert os.path.samestat(os.fstat(scratch.lock), (scratch.folder / "lock").stat())
    scratch.close()
    assert not scratch.folder.exists()


def test_a_model_is_sent_with_its_linked_folders(tmp_path: Path) -> None:
    write_files(tmp_path, {"shared/weights": b"w", "model/model_index.json": b"{}"})
    for name in ("unet", "vae"):
        (tmp_path / "model" / name).symlink_to(tmp_path / "shared")
    (tmp_path / "shared" / "loop").symlink_to(tmp_path / "model")
    found = sorted(str(file.relative_to(tmp_path / "model")) for file, _ in model_files(tmp_path / "model"))
    assert found == ["model_index.json", "unet/weights", "vae/weights"]


def test_a_family_differs_in_nothing_that_a_comparison_depends_on(cluster: Cluster) -> None:
    site = cluster.sites[0]
    here = site.found.environment
    other = msgspec.structs.replace(here, libraries={**here.libraries, "torch": "2.99"})
    alike = msgspec.structs.replace(here, cpu_count=64, driver="999", platform="another kernel")
    assert difference(here, alike) is None
    assert (
        difference(here, other)
        == f"libraries.torch is 2.99 there, and {here.libraries['torch']} on the devices that are used"
    )
    found = [
        replace(site, found=msgspec.structs.replace(site.found, environment=each)) for each in (other, here, alike)
    ]
    assert largest_family(found) == here


def test_a_family_is_chosen_by_the_name_of_its_devices(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("NVIDIA H200", "NVIDIA L40S", "NVIDIA H200")
    found = [
        replace(site, found=msgspec.structs.replace(site.found, environment=here))
        for site, name in zip(cluster.sites, names, strict=True)
        for here in [msgspec.structs.replace(site.found.environment, device_name=name)]
    ]
    monkeypatch.setattr(ray_cluster, "start_actors", lambda *_: (list(found), []))
    monkeypatch.setattr(cluster.ray, "kill", lambda _: None)
    for family, used in ((None, ["NVIDIA H200"] * 2), ("l40", ["NVIDIA L40S"]), ("h200", ["NVIDIA H200"] * 2)):
        chosen = connect("auto", Wanted("cpu", family))
        assert [site.found.environment.device_name for site in chosen.sites] == used
        assert len(chosen.left_out) == 3 - len(used)
    site = cluster.sites[0]
    names = ("A100-SXM4-80GB", "A10", "L40S", "L4", "GH200 480GB", "H200")
    sites = [
        replace(site, found=msgspec.structs.replace(site.found, environment=here))
        for name in names
        for here in [msgspec.structs.replace(site.found.environment, device_name=f"NVIDIA {name}")]
    ]
    for text, index in (("A10", 1), ("a100", 0), ("L4", 3), ("L40", 2), ("H200", 5), ("nvidia gh200", 4)):
        assert ray_cluster.named(sites, text) == [sites[index]]
    with pytest.raises(Unavailable, match="NVIDIA L40S has no 'A100' in its name"):
        connect("auto", Wanted("cpu", "A100"))
    with pytest.raises(Unavailable, match=r"--gpus 3: 2 GPUs of one kind can be used: .* left out: .*L40S"):
        connect("auto", Wanted("cpu", gpus=3))
    assert len(connect("auto", Wanted("cpu", gpus=1)).sites) == 1
    together = connect("auto", Wanted("cpu", devices=2, gpus=3))
    assert len(together.sites) == 1
    assert together.left_out[-1] == "left out: 1 of --gpus 3: --devices 2 needs 2 for an image"


def test_idle_gpus_are_taken_before_those_that_others_use(cluster: Cluster) -> None:
    busy, idle = (
        replace(site, found=msgspec.structs.replace(site.found, warning=warning))
        for site, warning in zip(cluster.sites, ("another process uses this GPU", None), strict=False)
    )
    assert ray_cluster.choose([busy, idle], Wanted("cpu", gpus=1)) == ([idle], [])
    machines = InCluster(Cluster(cluster.ray, [busy, idle], []), "2")
    assert list(machines.notes(idle.found.environment)) == [f"another process uses {busy.device.title}"]
    assert machines.asked == "2"


def test_the_order_of_nodes_makes_no_other_study(cluster: Cluster, tmp_path: Path) -> None:
    first, second = cluster.sites[0], cluster.sites[1]
    there = msgspec.structs.replace(second.found.environment, cpu_count=64, driver="999", platform="another kernel")
    second = replace(second, found=msgspec.structs.replace(second.found, environment=there))
    one, other = (Cluster(cluster.ray, sites, []).environment for sites in ([first, second], [second, first]))
    assert one == other and one.cpu_count == first.found.environment.cpu_count
    alone = Cluster(cluster.ray, [second], []).environment  # as the first one left
    assert request_for(tmp_path, one).fingerprint() == request_for(tmp_path, alone).fingerprint()
    assert request_for(tmp_path, there).fingerprint() != request_for(tmp_path, alone).fingerprint()


def test_a_node_with_another_version_is_left_out() -> None:
    for data in (b'{"version":"0.0.1","other":1}', b"{}", b"\xff"):
        with pytest.raises(BadInput, match=r"its diffusion-tuner is (0\.0\.1|unknown), here it is"):
            site_of(data, None, {"NodeID": "1", "NodeName": "there"}, 0)


def test_workers_of_an_actor_have_the_threads_that_the_user_gave_them(cluster: Cluster) -> None:
    found = cluster.ray.get(cluster.sites[0].actor.threads.remote())
    assert found == os.environ.get("OMP_NUM_THREADS"), "and not the number of the actor's CPUs, as Ray sets it"


def test_without_ray_or_a_cluster_one_line_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # as in a process of its own
    assert cli.main(["run", "demo", "--device", "cpu", "--ray", "127.0.0.1:1"]) == 2
    assert capsys.readouterr().err.startswith("tune: --ray 127.0.0.1:1: no cluster answers: [Errno 111]")
    assert cli.main(["run", "demo", "--device", "cpu", "--ray", "127.0.0.1:1", "--warm-start", "nowhere"]) == 2
    assert "--warm-start" in capsys.readouterr().err, "found before there is a connection"
    for asked, reason in (
        ("0,1", "0,1: indices are those of one host"),
        ("1", "it needs 2 GPUs; chosen with --gpus: 1"),
    ):
        assert cli.main(["run", "demo", "--ray", "auto", "--gpus", asked, "--devices", "2"]) == 2
        assert reason in capsys.readouterr().err
    assert cli.main(["run", "demo", "--device", "cpu", "--ray", "auto", "--gpus", "all"]) == 2
    assert capsys.readouterr().err.startswith("tune: --gpus all: a study on the CPU uses no GPUs")
    assert cli.main(["run", "demo", "--family", "L40S"]) == 2
    assert "--family L40S: it chooses among the devices of a cluster: give --ray" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    assert cli.main(["run", "demo", "--device", "cpu", "--ray", "auto"]) == 2
    assert (
        capsys.readouterr().err == "tune: --ray auto: ray is not installed here: pip install 'diffusion-tuner[ray]'\n"
    )


def test_a_study_survives_an_actor_and_a_node(nodes: Any, cluster: Cluster, tmp_path: Path) -> None:
    victims = {site.node: site for site in cluster.sites}
    lost, *_, restarted = [node for node in nodes.list_all_nodes() if not node.head]
    raylet = lost.all_processes["raylet"][0].process.pid
    actor = cluster.ray.get(victims[restarted.node_id].actor.pid.remote())
    kept: list[dict[Path, bytes]] = []

    def harm(pid: int) -> None:
        kept.append(outcomes(folder))
        os.kill(pid, signal.SIGKILL)

    def lose_node() -> None:
        """Go on when the cluster knows of it: before, the rest of the study could be over."""
        harm(raylet)
        wait_until(lambda: not {node["NodeID"]: node["Alive"] for node in cluster.ray.nodes()}[lost.node_id])

    told = Harm(at_3=lambda: harm(actor), at_8=lose_node)
    folder = tmp_path / "study"
    with study(cluster, folder, told, trials=14, stage_s=0.1, sees_folder=False) as found:
        found.run()
    after = outcomes(folder)
    assert len(kept) == 2 and all(before.items() <= after.items() for before in kept)
    assert {read(file, Outcome).failure for file in after} == {None}, "what was lost is no failure of a trial"
    assert sum(file.parent.parent.name == "trials" for file in after) == 14
    taken_out = [note for note in told.notes if re.search("is taken out: its (actor died|node left the cluster)", note)]
    assert len(taken_out) == 2, told.notes
    back = [note for note in told.notes if "is used again" in note]
    assert back == [f"{victims[restarted.node_id].device.title} is used again"]


def test_a_process_can_connect_again(nodes: Any, cluster: Cluster) -> None:
    """The last one here: it ends the connection of the others."""
    ray = cluster.ray
    cluster.close()
    assert cluster.ours and not ray.is_initialized()
    ray.init(address=nodes.address, logging_level="ERROR", log_to_driver=False)
    again = connect(nodes.address, Wanted("cpu"))
    assert again.devices, again.left_out
    again.close()
    assert ray.is_initialized(), "it was not ours to end"
    together = connect(nodes.address, Wanted("cuda", devices=2))
    nodes_with_three = {site.node for site in together.sites}
    assert len(together.sites) == len(nodes_with_three) == len(together.left_out)
    assert {len(site.found.gpus) for site in together.sites} == {2}
    assert {site.found.environment.devices for site in together.sites} == {2}
    assert re.fullmatch(r"left out: 1 of 3 GPUs of .*: --devices 2 needs 2 for an image", together.left_out[0])
    together.close()
