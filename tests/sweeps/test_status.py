"""How far a sweep is, by its files: worked by hand, without running a task."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from support.records import run_info
from typer.testing import Result

from cosam_bench.cli.sweep_view import live_view, shown_time, status_view
from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import exclusive
from cosam_bench.results.records import RecordWriter
from cosam_bench.sweeps.estimate import Estimate
from cosam_bench.sweeps.status import Standing, Status, StatusReader
from cosam_bench.sweeps.task_store import Done, Listed, TaskList, TaskStore

RUN = ("tiny", "average", "quick")


@pytest.fixture
def store(tmp_path: Path) -> TaskStore:
    """A sweep of one expert and five runs: the expert and two runs are done, one failed, one waits."""
    store = TaskStore(tmp_path)
    runs = {f"run{number}": Listed(kind="run", words=f"average, seed {number}", like=RUN) for number in range(5)}
    expert = Listed(kind="expert", words="expert pill", like=("tiny", "pill", "quick"))
    store.write_list(TaskList(workers=2, tasks={"expert": expert, **runs}))
    store.finish("expert", Done(kind="expert", like=expert.like, made="", seconds=7))
    for number, (iou, seconds) in enumerate([(0.5, 10), (0.7, 30)]):
        made = f"quick/average/{number}"
        summary = {"iou": {"last": iou}}
        RecordWriter(tmp_path / made).write_info(run_info(status="complete", summary=summary))
        store.finish(f"run{number}", Done(kind="run", like=RUN, made=f"{made}/run.json", seconds=seconds))
    store.fail("run2", "as asked")
    return store


def read(store: TaskStore) -> Status:
    return StatusReader(store.results).read()


def test_each_task_is_in_one_state(store: TaskStore) -> None:
    with exclusive(store.lock("run3")):
        found = read(store)
    assert found.counts["expert"] == {"done": 1}
    assert found.counts["run"] == {"done": 2, "failed": 1, "running": 1, "waiting": 1}
    assert found.running == ("average, seed 3",)
    assert found.failed == {"average, seed 2": "as asked"}
    assert (found.count("done"), found.count("waiting", "running")) == (3, 2)


def test_the_live_table_stays_as_it_is_while_the_store_does_not_answer(
    store: TaskStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found, answers = read(store), [True, False]

    def answer(_: StatusReader) -> Status:
        if not (answers.pop(0) if answers else False):
            raise CosamError("The store does not answer.")
        return found

    monkeypatch.setattr(StatusReader, "read", answer)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr(
        "cosam_bench.cli.sweep_view.notes_console", lambda: Console(file=sys.stderr, force_terminal=True, width=100)
    )
    with live_view(store.results):
        capsys.readouterr()
    assert "expert" in capsys.readouterr().err


def test_what_is_left_takes_the_median_of_what_was_like_it(store: TaskStore) -> None:
    assert read(store).left == Estimate(seconds=2 * (10 + 30) / 2, known=2, unknown=0)


def test_the_leaderboard_has_the_mean_of_the_runs_that_are_complete(store: TaskStore) -> None:
    assert read(store).standings == (Standing("average", "tiny", "", 2, pytest.approx(0.6)),)


def test_runs_with_other_settings_are_other_lines(tmp_path: Path) -> None:
    store = TaskStore(tmp_path)
    labels = ["", "adapter.rank=4"]
    runs = {
        f"run{rank}": Listed(kind="run", words="average", like=RUN, settings=label) for rank, label in enumerate(labels)
    }
    store.write_list(TaskList(workers=1, tasks=runs))
    for key, iou in zip(runs, (0.5, 0.7), strict=True):
        made = f"quick/average/{key}"
        RecordWriter(tmp_path / made).write_info(run_info(status="complete", summary={"iou": {"last": iou}}))
        store.finish(key, Done(kind="run", like=RUN, made=f"{made}/run.json", seconds=1))
    assert read(store).standings == (
        Standing("average", "tiny", "adapter.rank=4", 1, 0.7),
        Standing("average", "tiny", "", 1, 0.5),
    )
    console = Console(width=100, record=True, file=None, quiet=False)
    with console.capture() as printed:
        console.print(status_view(read(store)))
    rows = [line.split() for line in printed.get().splitlines()]
    assert ["method", "model", "settings", "runs", "iou"] in rows
    assert ["average", "tiny", "adapter.rank=4", "1", "70.0"] in rows


def test_each_task_that_failed_is_named(tmp_path: Path) -> None:
    store = TaskStore(tmp_path)
    experts = {key: Listed(kind="expert", words="expert pill", like=("tiny", "pill", "quick")) for key in ("a1", "b2")}
    store.write_list(TaskList(workers=1, tasks=experts))
    store.fail("a1", "no memory")
    store.fail("b2", "no disk")
    assert read(store).failed == {"expert pill": "no memory", "expert pill (b2)": "no disk"}


def test_a_lock_of_a_process_that_was_killed_is_not_a_running_task(store: TaskStore) -> None:
    store.lock("run3").touch()
    assert read(store).counts["run"]["waiting"] == 2


def test_a_run_whose_record_was_removed_waits_again(store: TaskStore) -> None:
    (store.results / "quick" / "average" / "1" / "run.json").unlink()
    assert read(store).counts["run"] == {"done": 1, "failed": 1, "waiting": 3}


def test_a_damaged_file_is_written_again(store: TaskStore) -> None:
    (store.folder / store.done_name("run3")).write_bytes(b"\xff")
    assert read(store).counts["run"]["done"] == 2
    store.finish("run3", store.all_done()["run1"])
    assert read(store).counts["run"]["done"] == 3


def test_what_is_tried_again_has_not_failed(store: TaskStore) -> None:
    store.forget_failures(["run2", "run3"])
    assert not read(store).failed


def test_one_reader_sees_what_came_since(store: TaskStore) -> None:
    reader = StatusReader(store.results)
    assert reader.read().count("done") == 3
    store.finish("run3", store.all_done()["run1"])
    assert reader.read().count("done") == 4


def test_the_view_shows_all_of_it(store: TaskStore) -> None:
    console = Console(width=100, record=True, file=None, quiet=False)
    with console.capture() as printed:
        console.print(status_view(read(store)))
    rows = [line.split() for line in printed.get().splitlines()]
    assert ["task", "waiting", "running", "done", "failed"] in rows
    assert ["run", "2", "0", "2", "1"] in rows
    assert ["average", "tiny", "2", "60.0"] in rows
    assert ["Left:", "20", "s", "in", "2", "processes."] in rows
    assert ["Failed:", "average,", "seed", "2:", "as", "asked"] in rows


def test_another_terminal_prints_it(cli: Callable[..., Result], store: TaskStore) -> None:
    shown = cli("sweep", "--status", store.results)
    assert shown.exit_code == 0, shown.output
    assert "Left: 20 s in 2 processes." in shown.output


def test_it_is_printed_without_torch(store: TaskStore) -> None:
    code = (
        "import sys; from cosam_bench.cli.main import app\n"
        "try: app(['sweep', '--status', sys.argv[1]])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "found = {'torch', 'scipy', 'pandas', 'fsspec'} & set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code, str(store.results)], check=True, stdout=subprocess.DEVNULL)


def test_a_folder_without_a_sweep_is_named(cli: Callable[..., Result], tmp_path: Path) -> None:
    shown = cli("sweep", "--status", tmp_path / "none")
    assert shown.exit_code == 2
    assert "No sweep was started in" in shown.output
    (tmp_path / "_shared" / "tasks").mkdir(parents=True)
    (tmp_path / "_shared" / "tasks" / "sweep.json").write_text("{")
    with pytest.raises(CosamError, match="cannot be read"):
        StatusReader(tmp_path)


@pytest.mark.parametrize(
    ("seconds", "processes", "shown"), [(90, 1, "90 s"), (3600, 2, "30 min"), (72000, 1, "20 h"), (1200, 4, "300 s")]
)
def test_times_are_rounded_to_what_is_known(seconds: float, processes: int, shown: str) -> None:
    assert shown_time(Estimate(seconds, known=1, unknown=0), processes=processes) == shown
