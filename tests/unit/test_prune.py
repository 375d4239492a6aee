"""Pruning beside publishers, readers and running jobs: nothing goes that somebody still needs."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from engine.commit import CatalogConfig, Manifest, prune, publish, read_manifest, versions
from engine.ledger import Ledger
from engine.runs import Beat, Begin, Recorder, RunFolder, run_names
from engine.storage import Storage
from tests.toy import COLUMNS, TOY_CATALOG, ToyCatalogue

DAY = 86400.0
FLAT = CatalogConfig(kind="flat")


@pytest.fixture
def catalogue(tmp_path: Path) -> ToyCatalogue:
    return ToyCatalogue(tmp_path)


def backdate(root: str, days: float, only: str = "") -> None:
    """Make everything below a root older."""
    for path in Path(root, only).rglob("*"):
        if path.is_file():
            then = path.stat().st_mtime - days * DAY
            os.utime(path, (then, then))


def skew(monkeypatch: pytest.MonkeyPatch, ahead_s: float) -> None:
    """Set the clock of this process, not that of its storage, forward."""
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + ahead_s)


def is_whole(catalogue: ToyCatalogue, manifest: Manifest) -> bool:
    return all(Path(catalogue.root, file.path).is_file() for file in manifest.files)


def test_version_goes_when_its_successor_is_old_not_when_itself_is(catalogue: ToyCatalogue) -> None:
    first = catalogue.publish(ids=catalogue.ids[:2])
    backdate(catalogue.root, 30)
    second = catalogue.publish()  # a reader that opened version 1 a minute ago is still reading it
    assert prune(catalogue.root, catalogue.storage, 1, DAY).uris == ()
    assert is_whole(catalogue, first)
    backdate(catalogue.root, 2)
    gone = prune(catalogue.root, catalogue.storage, 1, DAY).uris
    assert sum("/versions/" in uri for uri in gone) == 1
    assert not is_whole(catalogue, first)
    assert is_whole(catalogue, second)


def test_clocks_of_machines_that_publish_and_prune_do_not_matter(
    catalogue: ToyCatalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = catalogue.publish(ids=catalogue.ids[:2])
    unit, table = catalogue.unit_table(1)
    catalogue.sink.write(unit, table)  # an orphan
    second = catalogue.publish()
    (record,) = Path(catalogue.root, "versions").glob("*2.json")
    age = record.stat().st_mtime
    record.write_text(record.read_text().replace(second.created[:4], "1999"))
    os.utime(record, (age, age))
    skew(monkeypatch, 30 * DAY)
    before = {path for path in Path(catalogue.root).rglob("*") if path.is_file()}
    assert prune(catalogue.root, catalogue.storage, 1, DAY, dry_run=True).uris == ()
    assert prune(catalogue.root, catalogue.storage, 1, DAY).uris == ()
    assert {path for path in Path(catalogue.root).rglob("*") if path.is_file()} == before
    assert is_whole(catalogue, first)


def test_fragments_of_units_that_only_old_versions_had_go_in_two_steps(catalogue: ToyCatalogue) -> None:
    catalogue.publish()
    later = catalogue.publish(ids=catalogue.ids[:2])
    backdate(catalogue.root, 3)
    fragments = set(Path(catalogue.root, "fragments").iterdir())

    assert prune(catalogue.root, catalogue.storage, 1, DAY, dry_run=True).retired == 2
    assert Ledger(catalogue.root, catalogue.storage).ids() == set(catalogue.ids)
    assert prune(catalogue.root, catalogue.storage, 1, DAY).retired == 2
    assert Ledger(catalogue.root, catalogue.storage).ids() == set(catalogue.ids[:2])
    assert set(Path(catalogue.root, "fragments").iterdir()) == fragments, "a job may have read the records"

    assert prune(catalogue.root, catalogue.storage, 1, DAY).uris == ()
    backdate(catalogue.root, 2, "retired")
    gone = prune(catalogue.root, catalogue.storage, 1, DAY).uris
    assert sum("/fragments/" in uri for uri in gone) == 4
    assert not list(Path(catalogue.root, "retired").iterdir())
    assert is_whole(catalogue, later)
    assert prune(catalogue.root, catalogue.storage, 1, 0).uris == ()


def test_job_that_counted_on_retired_records_publishes_a_whole_version(catalogue: ToyCatalogue) -> None:
    catalogue.publish(FLAT)
    records = list(
        Ledger(catalogue.root, catalogue.storage).done().values()
    )  # as a job reads them at its start
    catalogue.publish(FLAT, ids=catalogue.ids[:2])
    backdate(catalogue.root, 3)
    assert prune(catalogue.root, catalogue.storage, 1, DAY).retired == 2
    manifest = catalogue.publish(FLAT, records=records)  # names the fragments themselves
    backdate(catalogue.root, 9, "retired")
    prune(catalogue.root, catalogue.storage, 1, DAY)
    assert is_whole(catalogue, manifest)


def test_units_that_were_never_published_and_those_of_a_running_job_stay(catalogue: ToyCatalogue) -> None:
    catalogue.publish(ids=catalogue.ids[:2])
    catalogue.publish(ids=catalogue.ids[:1])
    backdate(catalogue.root, 3)
    recorder = Recorder("infer", (RunFolder(catalogue.root, catalogue.storage, "run"),), 60)
    recorder.begin([(4, catalogue.units)])
    assert prune(catalogue.root, catalogue.storage, 1, DAY, dry_run=True).retired == 0
    recorder.end(None)
    assert prune(catalogue.root, catalogue.storage, 1, DAY).retired == 1
    assert Ledger(catalogue.root, catalogue.storage).ids() == {catalogue.ids[i] for i in (0, 2, 3)}


@pytest.mark.parametrize("whose", ["pruner", "driver"])
def test_run_goes_on_whatever_the_clock_of_who_prunes_or_computes(
    catalogue: ToyCatalogue, monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    catalogue.publish()
    catalogue.publish(ids=catalogue.ids[:2])
    backdate(catalogue.root, 3)
    folder = RunFolder(catalogue.root, catalogue.storage, "run")
    told_s = time.time() - (0 if whose == "pruner" else 7200)
    folder.begin(Begin("run", "infer", "host", 7, told_s, 4, 4, 30.0), catalogue.units)
    folder.beat(Beat("driver", "host", 7, told_s), 0)
    if whose == "pruner":
        skew(monkeypatch, 7200)
    assert prune(catalogue.root, catalogue.storage, 1, DAY, dry_run=True).retired == 0
    assert prune(catalogue.root, catalogue.storage, 1, DAY).retired == 0
    assert Ledger(catalogue.root, catalogue.storage).ids() == set(catalogue.ids)


def test_run_that_goes_on_keeps_its_beginning_however_old_it_is(catalogue: ToyCatalogue) -> None:
    recorders = [
        Recorder("infer", (RunFolder(catalogue.root, catalogue.storage, name),), 60) for name in ("a", "b")
    ]
    for recorder in recorders:
        recorder.begin([(4, catalogue.units)])
    for number, recorder in enumerate(recorders):  # their own beats come when they like
        recorder.folders[0].beat(Beat("driver", "host", 7, time.time()), 900 + number)
    recorders[1].end(None)
    for name in ("begin.json", "units.arrow"):
        path = Path(catalogue.root, "runs", "a", name)
        os.utime(path, (time.time() - 9 * DAY, time.time() - 9 * DAY))
    assert prune(catalogue.root, catalogue.storage, 1, DAY).uris == ()
    assert prune(catalogue.root, catalogue.storage, 1, 0).uris == (), "its beats tell, not the grace"
    recorders[0].end(None)
    time.sleep(0.01)
    assert len(prune(catalogue.root, catalogue.storage, 1, 0).uris) == 3
    assert run_names(catalogue.root, catalogue.storage) == ["b"]


def test_only_the_losing_attempt_of_a_unit_is_an_orphan(catalogue: ToyCatalogue, monkeypatch) -> None:
    unit, table = catalogue.unit_table(1)
    before = set(Path(catalogue.root, "fragments").iterdir())
    catalogue.sink.write(unit, table)
    orphans = set(Path(catalogue.root, "fragments").iterdir()) - before
    read: list[str] = []
    plain = Ledger.read
    monkeypatch.setattr(
        Ledger, "read", lambda ledger, unit_id: read.append(unit_id) or plain(ledger, unit_id)
    )
    assert {Path(uri) for uri in prune(catalogue.root, catalogue.storage, 1, 0).uris} == orphans
    assert read == [unit.id], "records of units with one attempt need not be read"


def test_old_runs_are_forgotten_but_the_last(catalogue: ToyCatalogue) -> None:
    for name in ("20260101T000000Z-a", "20260102T000000Z-b", "20260103T000000Z-c"):
        recorder = Recorder("infer", (RunFolder(catalogue.root, catalogue.storage, name),), 60)
        recorder.begin([(4, catalogue.units)])
        recorder.end(None)
    backdate(catalogue.root, 2, "runs/20260101T000000Z-a")
    backdate(catalogue.root, 2, "runs/20260103T000000Z-c")
    prune(catalogue.root, catalogue.storage, 1, DAY)
    assert run_names(catalogue.root, catalogue.storage) == ["20260102T000000Z-b", "20260103T000000Z-c"]


def test_what_a_killed_writer_left_goes_when_it_is_old(catalogue: ToyCatalogue) -> None:
    left = Path(catalogue.root, "fragments"), Path(catalogue.root, "runs", "one", "beats")
    for folder in left:
        folder.mkdir(parents=True, exist_ok=True)
        with pytest.raises(KeyboardInterrupt), killed_before_cleaning_up():
            catalogue.storage.put(str(folder / "file"), b"whole")
    old, new = (next(folder.glob(".*.tmp")) for folder in left)
    then = time.time() - 2 * DAY
    os.utime(old, (then, then))
    assert str(old) not in {file.uri for file in catalogue.storage.list(catalogue.root)}
    assert prune(catalogue.root, catalogue.storage, 1, DAY, dry_run=True).uris == (str(old),)
    assert prune(catalogue.root, catalogue.storage, 1, DAY).uris == (str(old),)
    assert new.exists()
    assert not old.exists()


@contextmanager
def killed_before_cleaning_up() -> Iterator[None]:
    """Let a writer end between writing and renaming, as SIGKILL does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.localfiles._rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        yield


class Interrupted(Storage):
    """Calls something before each operation of a publisher."""

    def __init__(self, before: Callable[[str], None]) -> None:
        super().__init__()
        self.before = before

    def _backend(self, uri: str, is_folder: bool = False) -> Any:
        self.before(uri)
        return super()._backend(uri, is_folder)


@pytest.mark.parametrize("config", [TOY_CATALOG, FLAT], ids=["hats", "flat"])
def test_pruning_between_any_two_steps_of_a_publisher_takes_nothing_of_it(
    catalogue: ToyCatalogue, config: CatalogConfig
) -> None:
    for count in (3, 1, 2):
        catalogue.publish(config, ids=catalogue.ids[:count])
    unit, table = catalogue.unit_table(0)
    catalogue.sink.write(unit, table)
    backdate(catalogue.root, 5)
    steps: list[str] = []

    def pruned(uri: str) -> None:
        steps.append(uri)
        prune(catalogue.root, catalogue.storage, 1, DAY)
        current = read_manifest(catalogue.root, catalogue.storage)
        assert is_whole(catalogue, current), f"a reader finds version {current.version} damaged"

    manifest = publish(
        catalogue.root, Interrupted(pruned), catalogue.ids[:1] + catalogue.ids[3:], COLUMNS, config
    )
    assert len(steps) > 10
    assert manifest.version == 4
    assert is_whole(catalogue, manifest)
    assert [v.version for v in versions(catalogue.root, catalogue.storage)] == [3, 4]


def test_age_is_that_of_the_storage_on_s3(moto_server) -> None:
    storage, root = Storage(moto_server.options), moto_server.make_bucket()
    storage.put(f"{root}/fragments/unit-attempt.parquet", b"data")
    (listed,) = storage.list(f"{root}/fragments")
    assert abs(listed.modified_s - datetime.now(UTC).timestamp()) < 60
    assert storage.info(listed.uri).modified_s == listed.modified_s
    assert prune(root, storage, 1, DAY).uris == ()
    time.sleep(1.1)  # S3 tells whole seconds
    assert prune(root, storage, 1, 0).uris == (listed.uri,)
