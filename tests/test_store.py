"""The study folder: files that are whole or not there, and an Optuna study that agrees with them after a crash."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import optuna
import pytest
from stored_trials import baseline, make_request, outcome

from tuner.errors import BadInput, StorageFull
from tuner.files import atomic_write, storage_errors
from tuner.records import database
from tuner.records.outcome import Failure
from tuner.search.request import Request
from tuner.study import trial_rows
from tuner.study.course import keep_strategy, strategy_of
from tuner.study.store import Store


@pytest.fixture(scope="session")
def request_(tmp_path_factory: pytest.TempPathFactory) -> Request:
    return make_request(tmp_path_factory.mktemp("space"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "study"


def states(store: Store) -> list[str]:
    return [trial.state.name for trial in store.study.trials]


# ---- files ----------------------------------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from tuner.files import atomic_write
size = 1 << 18
count = 0
while True:
    count += 1
    atomic_write(Path(sys.argv[1]), b"%d " % count + bytes([count % 256]) * size)
    print(count, flush=True)
"""


def test_a_killed_writer_leaves_the_old_content_or_the_new(tmp_path: Path) -> None:
    file = tmp_path / "outcome.json"
    chance = random.Random(0)
    for _ in range(30):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(file)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        acknowledged = [int(writer.stdout.readline()) for _ in range(chance.randint(1, 5))]
        time.sleep(chance.uniform(0.0, 0.01))
        writer.kill()
        assert writer.wait() == -signal.SIGKILL
        writer.stdout.close()
        count, _, filling = file.read_bytes().partition(b" ")
        assert int(count) >= acknowledged[-1]
        assert filling == bytes([int(count) % 256]) * (1 << 18)


def test_a_failed_write_leaves_the_old_content_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "outcome.json"
    atomic_write(file, b"old")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(StorageFull, match="disk is full"), storage_errors(tmp_path):
        atomic_write(file, b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["outcome.json"]
    assert file.read_bytes() == b"old"


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_the_umask_decides_who_may_read_a_file(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        atomic_write(tmp_path / "new.json", b"new")
        atomic_write(tmp_path / "new.json", b"newer")
    finally:
        os.umask(before)
    assert (tmp_path / "new.json").stat().st_mode & 0o777 == 0o666 & ~umask


def test_other_errors_of_the_file_system_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nowhere"), storage_errors(tmp_path):
        (tmp_path / "nowhere").read_bytes()


# ---- trials ---------------------------------------------------------------------------------------------------------


def test_an_acknowledged_outcome_is_read_back_and_told(folder: Path, request_: Request) -> None:
    with Store(folder, request_) as store:
        number = store.enter(baseline(store))
        kept = outcome(number, baseline(store))
        store.acknowledge(kept)
    with Store(folder, request_) as store:
        assert store.outcomes() == {kept.number: kept}
        trial = store.study.trials[0]
        assert trial.values == [1.0, 21.0]
        assert trial.constraints == {"measured": 0.0}
        assert trial.user_attrs.items() >= {"status": "measured", "purpose": "baseline"}.items()
        assert trial.params == {name: baseline(store)[name] for name in request_.space.knobs}


@pytest.mark.parametrize("status", ["failed", "rejected"])
def test_a_trial_without_a_result_is_a_violated_constraint(folder: Path, request_: Request, status: str) -> None:
    failure = Failure(kind="timeout", stage="load", message="late") if status == "failed" else None
    with Store(folder, request_) as store:
        store.acknowledge(outcome(store.enter(baseline(store)), baseline(store)))
        number, values = store.ask()
        store.acknowledge(
            outcome(number, values, status=status, failure=failure, quality=None, cost_usd_per_1000_images=None)
        )
        assert states(store) == ["COMPLETE", "PRUNED"]
        assert store.study.trials[1].constraints == {status: 1.0}
        assert [trial.number for trial in store.study.best_trials] == [0]


def test_refused_and_abandoned_trials(folder: Path, request_: Request) -> None:
    with Store(folder, request_) as store:
        store.acknowledge(outcome(store.enter(baseline(store)), baseline(store)))
        refused, values = store.ask()
        store.refuse(refused, values, "no such luck")
        abandoned, _ = store.ask()
        store.abandon(abandoned)
        assert states(store) == ["COMPLETE", "PRUNED", "FAIL"]
    with Store(folder, request_) as store:
        assert [(refusal.values, refusal.reason) for refusal in store.refusals()] == [(values, "no such luck")]
        assert store.study.trials[refused].constraints == {"refused": 1.0}
        assert list(store.outcomes()) == [0]
        assert states(store) == ["COMPLETE", "PRUNED", "FAIL"]


def test_a_candidate_that_is_entered_is_the_one_that_is_tried(folder: Path, request_: Request) -> None:
    values = request_.space.candidate({"precision.dtype": "bfloat16", "steps": 4})
    with Store(folder, request_) as store:
        number = store.enter(values)
        params = store.study.trials[number].params
        assert params["precision.dtype"] == "bfloat16" and params["steps"] == 4
        assert params.items() <= values.items()


# ---- after a crash --------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", ["write", "set_constraint", "tell"])
def test_an_outcome_that_optuna_missed_is_told(
    folder: Path, request_: Request, monkeypatch: pytest.MonkeyPatch, call: str, done: bool
) -> None:
    owner: Any = {"write": trial_rows, "set_constraint": optuna.trial.Trial, "tell": optuna.Study}[call]
    method = getattr(owner, call)

    def crashes(*given: Any, **named: Any) -> None:
        if done:
            method(*given, **named)
        raise StorageFull

    with Store(folder, request_) as store:
        store.acknowledge(outcome(store.enter(baseline(store)), baseline(store)))
        number, values = store.ask()
        monkeypatch.setattr(owner, call, crashes)
        with pytest.raises(StorageFull):
            store.acknowledge(outcome(number, values))
        monkeypatch.undo()
    with Store(folder, request_) as store:
        assert states(store) == ["COMPLETE", "COMPLETE"]
        assert store.study.trials[number].values == [2.0, 20.0]
        assert store.study.trials[number].constraints == {"measured": 0.0}
        assert store.study.trials[number].user_attrs["status"] == "measured"


def test_what_has_no_outcome_is_abandoned_and_cleared_away(folder: Path, request_: Request) -> None:
    with Store(folder, request_) as store:
        store.acknowledge(outcome(store.enter(baseline(store)), baseline(store)))
        running, _ = store.ask()
        store.study.enqueue_trial({"steps": 4})  # a crash between this and asking for it
        for left in (
            store.paths.trial(running) / "images",
            store.paths.repetition(0),
            store.paths.trial(0) / "sweep" / "1",
        ):
            left.mkdir(parents=True)
            (left / "left").touch()
        (store.paths.trial(0) / ".outcome.json.x7f_a").touch()
        (folder / ".best_config.json.x7f_b").touch()
    with Store(folder, request_) as store:
        assert states(store) == ["COMPLETE", "FAIL", "FAIL"]
        assert [path.name for path in (folder / "trials").iterdir()] == ["0000"]
        assert [path.name for path in store.paths.trial(0).iterdir()] == ["outcome.json"]
        assert not store.paths.repetition(0).exists()
        assert not list(folder.glob(".*"))


def test_a_study_whose_baseline_was_interrupted_begins_with_the_baseline(folder: Path, request_: Request) -> None:
    for _ in range(3):
        with Store(folder, request_) as store:
            assert store.enter(baseline(store)) == 0


def test_a_study_that_is_killed_before_its_first_outcome_keeps_its_strategy(folder: Path, request_: Request) -> None:
    for asked in ("random", None):
        with Store(folder, request_) as store:
            keep_strategy(store, asked, "agent")
            assert strategy_of(store) == "random"


def test_a_baseline_that_failed_is_tried_again_as_trial_0(folder: Path, request_: Request) -> None:
    failure = Failure(kind="out of memory", stage="load", message="CUDA out of memory")
    with Store(folder, request_) as store:
        failed = outcome(
            store.enter(baseline(store)), baseline(store), status="failed", failure=failure, quality=None,
            cost_usd_per_1000_images=None,
        )  # fmt: skip
        store.acknowledge(failed)
        store.acknowledge(outcome(store.enter(candidate := store.request.space.candidate({"steps": 4})), candidate))
    for _ in range(2):
        with Store(folder, request_) as store:
            assert store.outcomes() == {} and store.study.trials == []
            assert list((folder / "trials").iterdir()) == []
            assert store.enter(baseline(store)) == 0


def test_a_folder_of_another_request_is_refused(folder: Path, request_: Request) -> None:
    with Store(folder, request_):
        pass
    other = msgspec.structs.replace(request_, model=msgspec.structs.replace(request_.model, source="/other"))
    with pytest.raises(BadInput, match=r"study\.json.*--study"), Store(folder, other):
        pass
    with Store(folder, request_):
        pass


def test_a_study_of_version_0_1_is_refused_with_what_to_do(tmp_path: Path, request_: Request) -> None:
    folder = tmp_path / "study"
    shutil.copytree(Path(__file__).parent / "data" / "version-0.1.0" / "study", folder)
    before = {file: file.read_bytes() for file in folder.rglob("*.json")}
    with pytest.raises(BadInput) as refusal, Store(folder, request_):
        pass
    assert str(refusal.value) == (
        f"{folder / 'study.json'} was written by diffusion-tuner 0.1.0, whose fields have other names; "
        "run the study again with this version, or load it with that one"
    )
    assert {file: file.read_bytes() for file in folder.rglob("*.json")} == before


def test_the_fingerprint_does_not_depend_on_the_format(request_: Request) -> None:
    other = msgspec.structs.replace(request_, format="diffusion-tuner-study/9")
    assert other.fingerprint() == request_.fingerprint()


def test_a_study_has_one_writer(folder: Path, request_: Request) -> None:
    with Store(folder, request_), pytest.raises(BadInput, match="another process"), Store(folder, request_):
        pass
    with Store(folder, request_):
        pass


def test_compiled_code_is_the_owners_alone(folder: Path, request_: Request) -> None:
    with Store(folder, request_) as store:
        assert store.paths.cache.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("inside", ["trials/0001", "trials/notes", "repetitions"])
def test_a_folder_with_trials_that_is_no_study_is_left_alone(tmp_path: Path, request_: Request, inside: str) -> None:
    file = tmp_path / "mine" / inside / "thesis.txt"
    file.parent.mkdir(parents=True)
    file.write_text("all of it")
    with pytest.raises(BadInput, match="no study"), Store(tmp_path / "mine", request_):
        pass
    assert file.read_text() == "all of it"


@pytest.mark.parametrize("other_price", [True, False])
def test_a_journal_that_names_another_file_is_refused_before_the_database_is_opened(
    tmp_path: Path, request_: Request, other_price: bool
) -> None:
    folder = tmp_path / "study"
    with Store(folder, request_):
        pass
    journal = folder / "study.db-journal"
    journal.write_bytes(b"\0" * 512 + database.SUPER_JOURNAL)
    if other_price:
        price = msgspec.structs.replace(request_.price, usd_per_hour=7.0)
        request_ = msgspec.structs.replace(request_, price=price)
    else:
        (folder / "repricing").write_bytes(b"")
    before = (folder / "study.json").read_bytes()
    with pytest.raises(BadInput, match="names another file"), Store(folder, request_):
        pass
    assert journal.exists()
    assert (folder / "study.json").read_bytes() == before


@pytest.mark.parametrize("suffix", database.COMPANIONS)
def test_what_lies_beside_the_database_has_a_limit(tmp_path: Path, request_: Request, suffix: str) -> None:
    folder = tmp_path / "study"
    with Store(folder, request_):
        pass
    file = folder / f"study.db{suffix}"
    with file.open("wb") as sparse:
        sparse.truncate(200 << 30)
    started = time.monotonic()
    with pytest.raises(BadInput, match=file.name), Store(folder, request_):
        pass
    assert time.monotonic() - started < 2
