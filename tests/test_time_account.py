"""Where the time of a study went: from the log of stages to the account, also of workers that overlap."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest
from kinds import kind

from tuner.errors import BadInput
from tuner.execution.executor import Handle, StoodStill
from tuner.execution.inline import InlineExecutor
from tuner.execution.process import DEADLINES_S
from tuner.hardware import environment
from tuner.records.codec import encode
from tuner.records.outcome import Device, Limits
from tuner.records.protocol import StageStarted
from tuner.records.stages import END, StageEntry, read_stages
from tuner.report.console import make_console
from tuner.report.time_account import ACTIVITIES, OF_STAGE, Spent, TimeAccount, activity_of, make_account
from tuner.report.time_table import TimeTable, figures
from tuner.result.prices import Price
from tuner.search.budget import Budget
from tuner.search.history import History
from tuner.space import reader
from tuner.study.stage_log import LoggingExecutor, StageLog

RUN = (0, "study", 0, "run")


def entries(*rows: tuple[float, str, int, str]) -> list[StageEntry]:
    """Entries from a time, who, a number and a stage. The parent uses a hundredth of the time."""
    return [StageEntry(at_s=at, cpu_s=at / 100, who=who, number=n, stage=stage) for at, who, n, stage in rows]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    file = tmp_path_factory.mktemp("space") / "space.yaml"
    workload = "workload: {prompts: [a], height: 32, width: 32}\nquality: {tolerance: 1}\n"
    file.write_text(f"pipelines: [any]\n{workload}knobs: {{steps: [4, 2]}}\n")
    space = reader.load(file, kind(), environment.detect("cpu"))
    return History(space, Price(usd_per_hour=1.0, source="here"))


def account(history: History, *rows: tuple[float, str, int, str]) -> TimeAccount:
    found = make_account(entries(*rows), history)
    assert found is not None
    assert sum(spent.seconds for spent in found.activities.values()) == pytest.approx(found.wall_s)
    assert sum(spent.share for spent in found.activities.values()) == pytest.approx(1.0)
    return found


def seconds(found: TimeAccount) -> dict[str, float]:
    return {name: spent.seconds for name, spent in found.activities.items() if spent.seconds}


def test_every_stage_of_a_worker_has_its_activity() -> None:
    assert DEADLINES_S.keys() <= OF_STAGE.keys()
    assert set(OF_STAGE.values()) <= set(ACTIVITIES)


def test_one_worker_after_the_other(history: History) -> None:
    found = account(
        history, RUN, (1, "build", 0, "start"), (4, "build", 0, "load"), (5, "build", 0, "first call"),
        (6, "build", 0, "time"), (10, "build", 0, "score"), (30, "build", 0, "done"), (31, "build", 0, END),
        (31, "repetition", 0, "start"), (33, "repetition", 0, "first call"), (34, "repetition", 0, "time"),
        (40, "repetition", 0, "done"), (40, "repetition", 0, END),
        (40, "build", 7, "start"), (42, "build", 7, "compile"), (72, "build", 7, "score"), (80, "build", 7, END),
        (90, "finalists", 0, "judge"), (98, "finalists", 0, END), (100, "study", 0, END),
    )  # fmt: skip
    assert seconds(found) == {
        "load and build": 8, "warm-up": 1, "timing": 4, "reference images": 20, "waiting": 14, "repetitions": 7,
        "compile": 30, "candidates' images": 8, "judging finalists": 8,
    }  # fmt: skip
    assert found.useful_share == pytest.approx(0.4)
    assert (found.parent_cpu_s, found.parent_cpu_share) == (1.0, pytest.approx(0.01))
    assert (found.start_s, found.repetition_s) == (2, 9)
    assert found.first_gain_s is None


def test_where_workers_overlap_the_most_useful_counts(history: History) -> None:
    found = account(
        history, RUN, (0, "build", 1, "compile"), (0, "build", 2, "time"), (10, "build", 2, "score"),
        (30, "build", 2, END), (40, "build", 1, "trace"), (45, "build", 3, "compile"), (50, "build", 1, END),
        (60, "build", 3, END),
    )  # fmt: skip
    assert seconds(found) == {"timing": 10, "candidates' images": 20, "compile": 20, "trace and gate": 10}


def test_what_waits_to_be_judged_draws_nothing(history: History) -> None:
    found = account(
        history, RUN, (0, "build", 1, "time"), (10, "build", 1, "await"), (50, "build", 1, "score"),
        (60, "build", 1, END),
    )  # fmt: skip
    assert seconds(found) == {"timing": 10, "waiting": 40, "candidates' images": 10}


def test_waiting_for_a_turn_is_neither_a_start_nor_part_of_a_repetition(history: History) -> None:
    found = account(
        history, RUN, (0, "repetition", 1, "load"), (3, "repetition", 1, "a stage of a later version"),
        (60, "repetition", 1, "first call"), (61, "repetition", 1, "time"), (70, "repetition", 1, "done"),
        (95, "repetition", 1, END),
    )  # fmt: skip
    assert (found.start_s, found.repetition_s) == (3, 13)
    assert seconds(found) == {"load and build": 3, "repetitions": 10, "waiting": 82}


def test_a_worker_that_stands_still_does_nothing(history: History) -> None:
    """Build 1 is stopped while it generates images, and later waits for its turn; build 2 has the device meanwhile."""
    rows = entries(
        RUN, (0, "build", 1, "score"), (0, "build", 2, "compile"), (10, "build", 2, "time"), (18, "build", 2, END),
        (18, "build", 1, "still"), (20, "build", 1, "time"), (26, "build", 1, "still"), (30, "build", 1, END),
    )  # fmt: skip
    stills = iter((8.0, 5.0))
    rows = [msgspec.structs.replace(row, still_s=next(stills)) if row.stage == "still" else row for row in rows]
    found = make_account(rows, history)
    assert found is not None
    assert seconds(found) == {"candidates' images": 12, "timing": 13, "waiting": 5}


def test_images_of_the_untouched_build_with_other_steps_are_a_candidate_s(history: History, tmp_path: Path) -> None:
    log = StageLog(tmp_path / "stages.jsonl", Budget(Limits(budget_s=60, max_trials=None)))
    executor = LoggingExecutor(InlineExecutor(lambda _: ()), log)
    executor.running["a"] = ("build", 0)
    with log.run():
        for stage, index in (("score", 0), ("score", 1), ("vary", None)):
            message = StageStarted(stage=stage, index=index)
            executor._follow(Handle(job=None, device=Device(name="cpu"), id="a"), message)  # type: ignore[arg-type]
    kinds = ["reference images", "candidates' images", "reference images"]
    assert list(map(activity_of, read_stages(log.path)))[1:-1] == kinds


def test_the_log_keeps_how_long_a_worker_stood_still(tmp_path: Path) -> None:
    log = StageLog(tmp_path / "stages.jsonl", Budget(Limits(budget_s=60, max_trials=None)))
    with log.run():
        executor = LoggingExecutor(InlineExecutor(lambda _: ()), log)
        executor.running["a"] = ("build", 3)
        for event in (StoodStill(2.5), StoodStill(0.0)):
            executor._follow(Handle(job=None, device=Device(name="cpu"), id="a"), event)  # type: ignore[arg-type]
    assert [(entry.stage, entry.still_s) for entry in read_stages(log.path)] == [("run", 0), ("still", 2.5), (END, 0)]


def test_an_executor_that_logs_leaves_the_other_one_to_whoever_opened_it(tmp_path: Path) -> None:
    log = StageLog(tmp_path / "stages.jsonl", Budget(Limits(budget_s=60, max_trials=None)))
    inner = InlineExecutor(lambda _: ())
    inner.running["a"] = Handle(job=None, device=Device(name="cpu"), id="a")  # type: ignore[arg-type]
    with LoggingExecutor(inner, log):
        pass
    assert list(inner.running) == ["a"]


def test_runs_add_up_also_after_one_that_was_killed(history: History) -> None:
    found = account(
        history, RUN, (0, "build", 0, "start"), (5, "build", 0, "time"), (20, "build", 1, "start"),
        (12, "study", 0, "run"), (12, "build", 1, "start"), (15, "build", 1, "compile"), (22, "build", 1, END),
    )  # fmt: skip
    assert found.wall_s == 30
    assert seconds(found) == {"load and build": 8, "timing": 15, "compile": 7}
    assert found.parent_cpu_s == pytest.approx(0.42)


def test_nothing_logged_is_no_account(history: History, tmp_path: Path) -> None:
    assert make_account(read_stages(tmp_path / "stages.jsonl"), history) is None


def test_figures_say_what_is_known(history: History) -> None:
    assert list(figures(account(history, RUN, (1, "study", 0, END)))) == [
        "0 builds, no confirmed gain", "CPU time of this command itself 10.0 ms, 1.0% of the time",
    ]  # fmt: skip


def test_time_beyond_the_budget_and_builds_that_were_only_timed_are_told(history: History) -> None:
    rows = entries(
        RUN, (0, "build", 7, "time"), (5, "build", 7, "await"), (60, "build", 7, END), (64, "study", 0, END)
    )  # fmt: skip
    found = make_account(rows, history, 60.0)
    assert found is not None and (found.over_budget_s, found.only_timed) == (4.0, 1)
    first, second, *_ = figures(found)
    assert first.startswith("0:04 past the budget of 1:00, which limits the search: ")
    assert second == "0 builds judged, 1 more timed, no confirmed gain"
    within = make_account(rows, history, 600.0)
    assert within is not None and within.over_budget_s == 0.0
    assert not any("past the budget" in line for line in figures(within))


def test_the_table_has_nine_lines_in_a_narrow_terminal() -> None:
    spent = {name: Spent(seconds=4000, share=0.1) for name in ACTIVITIES}
    figures_ = {"parent_cpu_s": 80.1, "parent_cpu_share": 0.012, "builds": 120, "first_gain_s": 3000}
    found = TimeAccount(wall_s=40000, activities=spent, useful_share=0.6, start_s=4.2, repetition_s=23.3, **figures_)  # type: ignore[arg-type]
    console = make_console(io.StringIO(), 80)
    with console.capture() as captured:
        console.print(TimeTable(found, "cuda"))
    assert len(captured.get().splitlines()) == 9
    assert "120 builds, first confirmed gain after 50:00" in captured.get()


def test_what_was_stopped_without_a_result_is_named_with_what_it_did(history: History) -> None:
    found = account(
        history, RUN, (0, "build", 0, "start"), (1, "build", 2, "start"), (2, "build", 2, "compile"),
        (3, "build", 9, "start"), (4, "build", 9, "time"), (5, "build", 9, "done"), (5, "build", 9, "still"),
        (6, "build", 0, END), (6, "build", 9, END), (6, "repetition", 4, "time"), (7, "repetition", 4, END),
        (8, "build", 7, "compile"), (9, "study", 0, END),
    )  # fmt: skip
    assert found.unfinished == {0: "start", 2: "compile", 7: "compile", 9: "time"}
    assert "stopped without a result: trial 0 (starting); trials 2, 7 (compiling); trial 9 (timing)" in figures(found)


def test_a_build_that_runs_or_runs_again_was_not_stopped(history: History) -> None:
    killed, again = (3, "build", 5, "compile"), (3, "study", 0, "run")
    assert account(history, RUN, killed).unfinished == {}
    assert account(history, RUN, killed, again).unfinished == {5: "compile"}
    assert account(history, RUN, killed, again, (4, "build", 0, "start")).unfinished == {}, "all begins anew"
    moved = (4, "build", 5, END), (5, "build", 5, "start")
    assert account(history, RUN, killed, *moved).unfinished == {}, "it runs again elsewhere"


# ---- the file -------------------------------------------------------------------------------------------------------


def test_a_torn_line_is_left_out_and_the_log_goes_on(tmp_path: Path) -> None:
    path, budget = tmp_path / "stages.jsonl", Budget(Limits(budget_s=60, max_trials=None))
    with StageLog(path, budget).run():
        pass
    whole = read_stages(path)
    with path.open("ab") as file:
        file.write(b'{"at_s":1')
    assert read_stages(path) == whole
    with StageLog(path, budget).run():
        pass
    assert [entry.stage for entry in read_stages(path)] == ["run", END, "run", END]


def test_a_full_disk_ends_the_log_and_nothing_else(tmp_path: Path) -> None:
    log = StageLog(tmp_path / "stages.jsonl", Budget(Limits(budget_s=60, max_trials=None)))
    log.path = Path("/dev/full")
    with log.run():
        pass
    assert not log.is_writable


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"{}\n", "line 1"),
        (b"garbage", "line 1: not a stage"),
        (b"{" + b"x" * 2000, "line 1: not a stage"),
        (encode(*entries((3, "build", 0, "time"))) + b"\n", "line 1: at_s"),
        (b"\n".join(map(encode, entries(RUN, (3, "build", 0, "time"), (2, "build", 0, END)))) + b"\n", "line 3: at_s"),
        (encode(*entries(RUN)) + b"\n" + b'{"at_s":1e300}\n', "line 2"),
    ],
)
def test_a_foreign_file_is_named_with_its_line_and_kept(content: bytes, line: str, tmp_path: Path) -> None:
    path = tmp_path / "stages.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=rf"stages\.jsonl: {line}.*remove the file"):
        StageLog(path, Budget(Limits(budget_s=60, max_trials=None)))
    assert path.read_bytes() == content
