"""What runs write of themselves, and what `status` makes of it and of the ledger."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from engine.errors import CommitError, StorageError
from engine.ledger import Ledger
from engine.runs import Beat, Begin, InHand, Pulse, Recorder, RunFolder, RunState, run_names
from engine.storage import Storage
from engine.worker import UnitError
from jobs.__main__ import main
from jobs.status import rates
from tests.toy import ToyCatalogue

BEGIN = Begin("run", "infer", "host", 7, began_s=1000.0, units=4, pending=4, beat_every_s=30.0)


@pytest.fixture
def catalogue(tmp_path: Path) -> ToyCatalogue:
    return ToyCatalogue(tmp_path / "catalogue")


def recorder_of(catalogue: ToyCatalogue, name: str = "20260101T000000Z-a", every_s: float = 60) -> Recorder:
    return Recorder("infer", (RunFolder(catalogue.root, catalogue.storage, name),), every_s)


def say(capsys, *words: str) -> str:
    assert main(["status", *words]) == 0
    return capsys.readouterr().out


def wait_for(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- what is written ---


def test_run_is_read_as_it_was_told(catalogue: ToyCatalogue) -> None:
    recorder = recorder_of(catalogue)
    (folder,) = recorder.folders
    assert folder.read() is None
    recorder.begin([(9, catalogue.units)])
    recorder.counts[0].add(rows=20, rejected=3)
    state = folder.read()
    assert state is not None
    assert (state.begin.units, state.begin.pending, state.begin.job) == (9, 4, "infer")
    table = folder.units()
    assert table["unit_id"].to_pylist() == catalogue.ids
    assert table["num_bytes"].to_pylist() == [unit.num_bytes for unit in catalogue.units]
    recorder.end(None)
    state = folder.read()
    assert state is not None
    assert state.end is not None
    assert (state.end.state, state.end.done, state.end.rows, state.end.rejected) == ("done", 1, 20, 3)
    assert list(Path(folder.uri("beats")).glob("*")) == []
    assert run_names(catalogue.root, catalogue.storage) == [folder.run]


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (None, "done"),
        (KeyboardInterrupt(), "interrupted"),
        (SystemExit(1), "interrupted"),
        (OSError("x"), "failed"),
    ],
)
def test_end_says_how(catalogue: ToyCatalogue, error: BaseException | None, state: str) -> None:
    recorder = recorder_of(catalogue)
    recorder.begin([(4, catalogue.units)])
    recorder.end(error)
    told = recorder.folders[0].read()
    assert told is not None
    assert told.end is not None
    assert told.end.state == state
    assert told.end.error == ("x" if state == "failed" else "")


def test_each_beat_is_a_new_object_and_takes_the_one_before_away(catalogue: ToyCatalogue) -> None:
    folder = RunFolder(catalogue.root, catalogue.storage, "run")
    numbers = iter(range(100))
    pulse = Pulse([folder], 0.01, "driver", lambda _: {"done": next(numbers)})
    pulse.start()
    wait_for(lambda: next(numbers) > 50)
    pulse.stop()
    (last,) = Path(folder.uri("beats")).glob("*.json")
    assert int(last.stem.rpartition("-")[2]) > 3


def test_storage_that_refuses_beats_does_not_stop_the_work(catalogue: ToyCatalogue, caplog) -> None:
    class Full(Storage):
        def put(self, uri: str, data: bytes) -> None:
            raise StorageError("no space left", uri)

    pulse = Pulse([RunFolder(catalogue.root, Full(), "run")], 0.001, "driver", lambda _: {})
    pulse.start()
    time.sleep(0.05)
    pulse.stop()
    assert [record.levelname for record in caplog.records] == ["WARNING"], "told once"
    assert "the run goes on" in caplog.text


def test_silence_of_the_driver_counts_not_that_of_workers() -> None:
    driver = Beat("driver", "host", 7, time_s=99.0)
    worker = Beat("worker-1", "other", 8, time_s=99.0)
    state = RunState(
        BEGIN, (worker, driver), written_s={"begin": 1000.0, "driver": 2000.0, "worker-1": 9000.0}
    )
    assert not state.is_lost(2100.0)
    assert state.is_lost(2121.0)
    assert state.heard_s == 9000.0
    assert RunState(BEGIN, written_s={"begin": 1000.0}).is_lost(1121.0)
    assert not RunState(BEGIN, written_s={"begin": 1000.0}).is_lost(1119.0)


def test_damaged_record_is_named(catalogue: ToyCatalogue) -> None:
    folder = RunFolder(catalogue.root, catalogue.storage, "run")
    catalogue.storage.put(folder.uri("begin.json"), b'{"run": 3}')
    with pytest.raises(CommitError, match=r"begin\.json: not a record of a run"):
        folder.read()
    catalogue.storage.put(folder.uri("units.arrow"), b"no Arrow")
    with pytest.raises(CommitError, match=r"units\.arrow: not the units of a run"):
        folder.units()


# --- what is made of it ---


def test_rates_are_those_of_the_minutes_before_now() -> None:
    at = np.array([0.0, 5000.0, 5001.0, 5002.0, 5004.0])
    sizes = np.array([1e9, 10.0, 20.0, 30.0, 40.0])
    assert rates(at[::-1], sizes[::-1], 5100.0) == (4 / 600, 100 / 600)
    assert rates(at, sizes, 5601.5) == (2 / 600, 70 / 600), "two are older"
    assert rates(at, sizes, 5004.0 + 7200) == (0.0, 0.0), "an old rate hides that nothing moves"
    assert rates(at[1:], sizes[1:], 5006.0) == (0.5, 15.0), "since the first, which does not count"
    assert rates(at[:1], sizes[:1], 5.0) == (0.0, 0.0)
    assert rates(np.zeros(3), sizes[:3], 0.0) == (0.0, 0.0)
    assert rates(np.zeros(0), np.zeros(0), 5.0) == (0.0, 0.0)


def test_nothing_has_run(tmp_path: Path, capsys) -> None:
    assert say(capsys, str(tmp_path / "empty")) == "nothing has run yet\n"


def test_running_run_with_what_is_in_hand_rate_and_time_left(catalogue: ToyCatalogue, capsys) -> None:
    recorder = recorder_of(catalogue)
    recorder.begin([(6, catalogue.units)])
    (folder,) = recorder.folders
    ledger = sorted(
        Path(catalogue.root, "ledger").glob("*.json"), key=lambda path: catalogue.ids.index(path.stem)
    )
    ledger[3].unlink()
    now = time.time()
    for seconds, path in zip((40, 30, 20), ledger[:3], strict=True):
        os.utime(path, (now - seconds, now - seconds))
    in_hand = (InHand("toy-3", "infer toy", time.time() - 75),)
    folder.beat(Beat("worker-ab", "node", 12, time.time(), in_hand=in_hand), 0)
    told = json.loads(say(capsys, catalogue.root, "--json"))["runs"][0]
    assert (told["state"], told["done"], told["pending"], told["units"]) == ("running", 3, 4, 6)
    assert 20 <= told["last_done_s_ago"] < 40
    assert told["units_per_s"] == pytest.approx(2 / (20 + told["last_done_s_ago"]), rel=2e-2)
    assert told["eta_s"] == pytest.approx(1 / told["units_per_s"], rel=1e-3)
    text = say(capsys, catalogue.root)
    assert "nothing is published yet" in text
    assert "3/4 done, 1 running, 0 failed (6 in the release)" in text
    assert "toy-3: in 'infer toy' for 1m15s on node:12" in text
    assert "last unit done 2" in text
    assert "ETA 2" in text
    recorder.end(UnitError("unit toy-3 (abc) failed: ValueError: no"))
    text = say(capsys, catalogue.root)
    assert "failed, ended" in text
    assert "0 running, 1 failed" in text
    assert "error: unit toy-3 (abc) failed: ValueError: no" in text


def test_run_that_stands_still_has_no_rate_and_says_since_when(catalogue: ToyCatalogue, capsys) -> None:
    recorder = recorder_of(catalogue)
    recorder.begin([(5, catalogue.units)])
    hours_ago = time.time() - 2 * 3600
    for second, path in enumerate(Path(catalogue.root, "ledger").glob("*.json")):
        os.utime(path, (hours_ago - second, hours_ago - second))
    text = say(capsys, catalogue.root)
    assert "last unit done 2h00m ago" in text
    assert "rate" not in text
    assert "ETA" not in text
    recorder.end(None)


def test_units_that_were_given_up_have_failed(catalogue: ToyCatalogue, capsys) -> None:
    recorder = recorder_of(catalogue)
    recorder.begin([(4, catalogue.units)])
    ledger = Ledger(catalogue.root, catalogue.storage)
    ledger.forget(catalogue.ids[2])
    catalogue.sink.give_up(catalogue.units[2], "killed")
    recorder.end(None)
    assert "3/4 done, 0 running, 1 failed" in say(capsys, catalogue.root)
    catalogue.sink.write(*catalogue.unit_table(2))
    assert "4/4 done, 0 running, 0 failed" in say(capsys, catalogue.root)


def test_killed_run_is_told_as_lost_until_another_takes_over(catalogue: ToyCatalogue, capsys) -> None:
    dead = RunFolder(catalogue.root, catalogue.storage, "20260101T000000Z-a")
    dead.begin(Begin(dead.run, "infer", "host", 7, time.time() - 500, 4, 4, 30.0), catalogue.units)
    dead.beat(Beat("driver", "host", 7, time.time() - 300, done=2, rows=40), 0)
    for path in Path(dead.uri()).rglob("*.json"):
        os.utime(path, (time.time() - 300, time.time() - 300))
    text = say(capsys, catalogue.root)
    assert "infer on host:7: lost, last heard 5m00s ago" in text
    assert "run the same line again" in text
    assert "4/4 done" in text, "the ledger knows more than the last beat"
    recorder = recorder_of(catalogue, "20260102T000000Z-b")
    recorder.begin([(4, [])])
    recorder.end(None)
    text = say(capsys, catalogue.root)
    assert "lost" not in text
    assert "20260102T000000Z-b: infer" in text


@pytest.mark.parametrize("ahead_s", [-7200.0, 7200.0])
@pytest.mark.parametrize("whose", ["reader", "writers"])
def test_clocks_of_machines_do_not_matter(
    catalogue: ToyCatalogue, capsys, monkeypatch: pytest.MonkeyPatch, ahead_s: float, whose: str
) -> None:
    now = time.time
    folder = RunFolder(catalogue.root, catalogue.storage, "20260101T000000Z-a")
    told_s = now() + (ahead_s if whose == "writers" else 0)
    folder.begin(Begin(folder.run, "infer", "host", 7, told_s, 4, 4, 30.0), catalogue.units)
    folder.beat(Beat("driver", "host", 7, told_s), 0)
    in_hand = (InHand("toy-3", "read", told_s - 75), InHand("toy-2", "read", told_s + 90))
    folder.beat(Beat("worker-ab", "node", 12, told_s, in_hand=in_hand), 0)
    if whose == "reader":
        monkeypatch.setattr(time, "time", lambda: now() + ahead_s)
    (told,) = json.loads(say(capsys, catalogue.root, "--json"))["runs"]
    assert told["state"] == "running"
    assert 0 <= told["heard_s_ago"] < 30
    first, second = told["running"]
    assert (first["unit"], second["unit"]) == ("toy-3", "toy-2")
    assert 75 <= first["for_s"] < 105
    assert 0 <= second["for_s"] < 30, "a clock that was set back since"


def test_run_that_ends_while_it_is_read_is_not_taken_for_silent(catalogue: ToyCatalogue, monkeypatch) -> None:
    recorder = recorder_of(catalogue)
    recorder.begin([(4, catalogue.units)])
    (folder,) = recorder.folders
    plain = RunFolder._read
    ends = iter([lambda: recorder.end(None)])

    def read(self: RunFolder, name: str, kind):
        if name == "begin.json":
            next(ends, lambda: None)()
        return plain(self, name, kind)

    monkeypatch.setattr(RunFolder, "_read", read)
    state = folder.read()
    assert state is not None
    assert state.end is not None
    assert set(state.written_s) == {"begin", "end"}


def test_two_runs_at_once_are_both_told(catalogue: ToyCatalogue, capsys) -> None:
    first, second = recorder_of(catalogue, "20260101T000000Z-a"), recorder_of(catalogue, "20260102T000000Z-b")
    for recorder in (first, second):
        recorder.begin([(4, catalogue.units)])
    runs = json.loads(say(capsys, catalogue.root, "--json"))["runs"]
    assert [run["state"] for run in runs] == ["running", "running"]
    first.end(None)
    second.end(None)


def test_older_run_is_told_by_its_name(catalogue: ToyCatalogue, tmp_path: Path, capsys) -> None:
    names = ["20260101T000000Z-a", "20260102T000000Z-b"]
    for name, error in zip(names, (UnitError("unit x failed"), None), strict=True):
        recorder = recorder_of(catalogue, name)
        recorder.begin([(4, catalogue.units)])
        recorder.end(error)
    assert names[0] not in say(capsys, catalogue.root)
    (told,) = json.loads(say(capsys, catalogue.root, "--run", names[0], "--json"))["runs"]
    assert (told["run"], told["state"], told["error"]) == (names[0], "failed", "unit x failed")
    config = tmp_path / "job.toml"
    config.write_text(
        f'release.uri = "x"\noutput.uri = "{catalogue.root}"\nstaged.uri = "{tmp_path / "none"}"\n'
    )
    assert f"run {names[0]}: " in say(capsys, str(config), "--run", names[0])
    assert main(["status", catalogue.root, "--run", "20260101"]) == 2
    assert (
        f"no such run; got 20260101; expected one of the last: {', '.join(names)}" in capsys.readouterr().err
    )


def test_configuration_tells_of_all_that_it_writes(catalogue: ToyCatalogue, tmp_path: Path, capsys) -> None:
    catalogue.publish()
    config = tmp_path / "job.toml"
    places = f'output.uri = "{catalogue.root}"\nstaged.uri = "{tmp_path / "none"}"\n'
    config.write_text(f'release.uri = "x"\n{places}')
    assert "version 1, " in say(capsys, str(config))


def test_status_on_object_storage(moto_server, capsys) -> None:
    root = f"{moto_server.make_bucket()}/catalogue"
    storage = Storage(moto_server.options)
    recorder = Recorder("ingest", (RunFolder(root, storage, "20260101T000000Z-a"),), 60)
    recorder.begin([(4, [])])
    endpoint = f"storage.endpoint_url={moto_server.endpoint_url}"
    assert "running, last heard" in say(capsys, root, "-o", endpoint)
    recorder.end(None)
    assert "ingest" in say(capsys, root, "-o", endpoint)


# --- what workers tell ---
