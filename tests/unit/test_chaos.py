"""What `make chaos` inflicts and how it judges, on processes and catalogues that stand in for those of a job."""

import os
import random
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from benchmarks import chaos
from benchmarks.chaos import HUNG, Outcome, _wait, choose, main, missing, never_hit, table
from benchmarks.faults.inflict import FAULTS, Scene, jump, kill_driver, kill_worker, limit
from benchmarks.faults.nodes import clock_of, has_faketime, set_clock
from benchmarks.faults.s3server import free_port
from benchmarks.faults.site import Comparison, Site, compare
from benchmarks.faults.watching import Watcher
from engine.storage import Storage, StorageOptions
from tests.catalogue import CatalogueMaker

WORKER = """
import sys
print('ready', flush=True)
for line in sys.stdin:
    try:
        eval(line)
        print('done', flush=True)
    except Exception as error:
        print(type(error).__name__, flush=True)
"""
DRIVER = f"""
import subprocess, sys
worker = subprocess.Popen(['ray::MapWorker(x)', '-c', '''{WORKER}'''], executable=sys.executable)
worker.wait()
"""


@pytest.fixture
def driver() -> Iterator[subprocess.Popen[bytes]]:
    """A process with a child that is called as Ray calls its workers, and evaluates what it reads."""
    process = subprocess.Popen([sys.executable, "-c", DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    yield process
    for child in psutil.Process(process.pid).children() if process.poll() is None else ():
        child.kill()
    process.kill()
    process.communicate()


def tell(driver: subprocess.Popen[bytes], text: str) -> str:
    assert driver.stdin is not None
    assert driver.stdout is not None
    driver.stdin.write(text.encode() + b"\n")
    driver.stdin.flush()
    return driver.stdout.readline().decode().strip()


def test_names_of_faults_are_unique_and_their_places_known() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert {fault.place for fault in FAULTS} == {"own", "nodes", "s3"}


def test_a_worker_is_killed_and_told(driver: subprocess.Popen[bytes]) -> None:
    scene = Scene(driver, random.Random(1))
    assert kill_worker("ray::MapWorker")(scene)
    assert scene.told == ["ray::MapWorker(x)"]
    assert 0 <= time.monotonic() - scene.struck < 60
    driver.wait(30)
    assert not kill_worker("ray::MapWorker")(scene), "there is none left"


def test_a_worker_of_another_kind_is_left_alone(driver: subprocess.Popen[bytes]) -> None:
    threading.Timer(1.0, driver.kill).start()
    assert not kill_worker("ray::Read")(Scene(driver, random.Random(1))), (
        "the driver has ended before there was one"
    )
    assert driver.wait(30) == -9


def test_a_driver_is_killed_with_what_it_has_started(driver: subprocess.Popen[bytes]) -> None:
    children = psutil.Process(driver.pid).children()
    assert kill_driver(Scene(driver, random.Random(1)))
    assert driver.wait(30) == -9
    assert not psutil.wait_procs(children, 30)[1]
    assert not kill_driver(Scene(driver, random.Random(1)))


def test_a_full_disk_is_an_error_of_the_worker(driver: subprocess.Popen[bytes], tmp_path: Path) -> None:
    write = f"open({str(tmp_path / 'x')!r}, 'wb', buffering=0).write(bytes(100_000)) == 100_000 or 1 / 0"
    assert tell(driver, write) == "done"
    assert limit(resource.RLIMIT_FSIZE, lambda _: 4096)(Scene(driver, random.Random(1)))
    assert tell(driver, write) in ("OSError", "ZeroDivisionError")
    assert tell(driver, write.replace("/x", "/y").replace("100_000", "4000")) == "done"


def test_a_lack_of_memory_is_an_error_of_the_worker(driver: subprocess.Popen[bytes]) -> None:
    assert tell(driver, "bytes(200 << 20)") == "done"
    assert limit(resource.RLIMIT_AS, lambda p: p.memory_info().vms + (1 << 20))(
        Scene(driver, random.Random(1))
    )
    assert tell(driver, "bytes(200 << 20)") == "MemoryError"


@pytest.mark.skipif(not has_faketime(), reason="libfaketime is not installed")
def test_a_clock_jumps_in_a_process_that_runs_and_its_durations_stay(tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    set_clock(clock, 0)
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, **clock_of(clock)},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    is_at = "abs(__import__('time').{}() - {}) < 60 or 1 / 0"
    assert tell(process, is_at.format("time", time.time())) == "done"
    assert jump(Scene(process, random.Random(1), clock=clock))
    assert abs(int(clock.read_text())) >= 3600
    deadline = time.monotonic() + 60
    while tell(process, is_at.format("time", time.time() + int(clock.read_text()))) != "done":
        assert time.monotonic() < deadline, "its clock has not jumped"
        time.sleep(0.2)
    assert tell(process, is_at.format("monotonic", time.monotonic())) == "done"
    process.communicate()


class TestCompare:
    @pytest.fixture
    def site(self, tmp_path: Path) -> Site:
        for name, unit in (("plain", (60, 2)), ("equal", (60, 2)), ("less", (50, 2)), ("other", (60, 2))):
            CatalogueMaker(str(tmp_path / name), Storage()).publish(unit, seed=int(name == "other"))
        return Site(tmp_path, str(tmp_path))

    def test_an_equal_catalogue_is_ok(self, site: Site) -> None:
        assert compare(site, "equal") == Comparison(0, 0, 0, True, True)
        assert compare(site, "equal").ok

    @pytest.mark.parametrize("name", ["less", "other", "none"])
    def test_another_one_is_not(self, site: Site, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Site, "check", lambda *_: True)  # it has tests of its own, and takes seconds
        found = compare(site, name)
        assert not found.ok
        assert {"less": found.lost >= 10, "other": found.wrong > 0, "none": found.lost == 60}[name]

    def test_a_reader_sees_a_version_that_is_not_whole(self, site: Site) -> None:
        watcher = Watcher(site, "equal")
        assert watcher._look() == []
        next((Path(site.root) / "equal" / "data").rglob("Npix=*.parquet")).unlink()
        (problem,) = watcher._look()
        assert "version 1" in problem

    def test_a_server_that_does_not_answer_is_no_version_that_is_not_whole(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = StorageOptions(endpoint_url=f"http://127.0.0.1:{free_port()}", max_attempts=1)
        monkeypatch.setattr(Site, "storage", Storage(options))
        watcher = Watcher(Site(tmp_path, "s3://bucket"), "any")
        assert watcher._look() == []
        assert watcher.blind == 1


def test_a_job_that_hangs_is_ended() -> None:
    sleeps = [
        subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({s})"], start_new_session=True)
        for s in (600, 0)
    ]
    assert [_wait(sleeps[0], 0.1), _wait(sleeps[1], 60)] == [HUNG, 0]
    assert sleeps[0].poll() == -9


def test_a_table_has_a_line_a_fault_and_what_is_wrong_in_it() -> None:
    good = Outcome("node", True, 1, False, 12.0, 30, 0, (), Comparison(0, 0, 0, True, True))
    bad = Outcome("node", True, 0, False, 40.0, 30, 5, ("version 1",), Comparison(2, 1, 0, True, False))
    assert good.ok
    assert not bad.ok
    assert not replace(good, blind=30).ok, "nobody has seen anything"
    assert table([good, bad])[2:] == ["| node | 2 | 2 | 1 | 2 | 1 | 0 | 55 | 1 | 1 | 26 | 40 |"]
    missed = replace(good, was_hit=False, recovery_s=99.0)
    assert table([good, missed])[2:] == ["| node | 2 | 1 | 2 | 0 | 0 | 0 | 60 | 0 | 2 | 12 | 12 |"]
    assert table([missed])[2].endswith("| 1 |  |  |"), "nothing to recover from"


def test_the_page_of_figures_has_the_columns_that_are_printed() -> None:
    page = Path(__file__).parents[2] / "docs" / "measured.md"
    assert table([])[0] in page.read_text().splitlines()


NAMES = [fault.name for fault in FAULTS]


def test_all_faults_take_turns_unless_some_are_named() -> None:
    assert choose("", 20, {}) == (list(FAULTS), [])
    faults, not_tried = choose("node, driver", 2, {"libfaketime": "x", "radosgw": "y"})
    assert ([fault.name for fault in faults], not_tried) == (["node", "driver"], [])


@pytest.mark.parametrize("tool", ["libfaketime", "radosgw"])
def test_a_fault_without_its_tool_is_told_or_if_named_refused(tool: str) -> None:
    (without,) = (fault.name for fault in FAULTS if fault.needs == tool)
    faults, not_tried = choose("", 20, {tool: "get it"})
    assert [fault.name for fault in faults] == [name for name in NAMES if name != without]
    assert not_tried == [f"not tried: {without}: needs {tool} (get it)"]
    with pytest.raises(ValueError, match=f"{without}: needs {tool}"):
        choose(f"driver,{without}", 20, {tool: "get it"})


def test_a_fault_that_gets_no_turn_is_told_or_if_named_refused() -> None:
    faults, not_tried = choose("", 9, {})
    assert [fault.name for fault in faults] == NAMES[:9]
    assert not_tried == [f"not tried: {NAMES[9]}: needs more moments than 9"]
    with pytest.raises(ValueError, match="node: needs more moments than 1"):
        choose("driver,node", 1, {})
    with pytest.raises(ValueError, match="driver: needs more moments than 0"):
        choose("", 0, {})


def test_a_name_that_no_fault_has_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--faults", "driver,nodes"])
    assert ended.value.code == 2
    assert "no such fault: nodes; there are: driver, reader" in capsys.readouterr().err


def test_a_server_of_others_is_not_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chaos, "missing_tools", lambda: ["radosgw"])
    monkeypatch.setattr(chaos, "has_faketime", lambda: False)
    assert "apt-get install radosgw" in missing("")["radosgw"]
    assert "--endpoint" in missing("http://server")["radosgw"]
    monkeypatch.setattr(chaos, "missing_tools", list)
    monkeypatch.setattr(chaos, "has_faketime", lambda: True)
    assert missing("") == {}
    assert list(missing("http://server")) == ["radosgw"]


@pytest.mark.parametrize(("hits", "code"), [((True,), 0), ((False, True), 0), ((False, False), 1)])
def test_a_fault_that_never_struck_is_no_success(
    hits: tuple[bool, ...], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fine = Outcome("node", True, 0, False, 1.0, 30, 0, (), Comparison(0, 0, 0, True, True))
    monkeypatch.setattr(chaos._Stage, "hit", lambda *_: [replace(fine, was_hit=hit) for hit in hits])
    assert main(["--faults", "node", "--moments", "1"]) == code
    assert ("never hit: node" in capsys.readouterr().out) == bool(code)
    assert never_hit([replace(fine, was_hit=hit) for hit in hits]) == ["node"] * code
