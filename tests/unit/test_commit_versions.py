"""Versions come one after another and stay whole, whatever dies, races, is damaged or is pruned."""

import importlib
import threading
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from engine.commit import CatalogConfig, prune, read_manifest, versions
from engine.errors import CommitError, SupersededError
from engine.ledger import Ledger
from engine.stage import Rejection, rejected_table
from engine.storage import StorageError
from tests.toy import TOY_CATALOG

publication = importlib.import_module("engine.commit.publish")  # the package names its function so


def test_lost_row_is_an_error(catalogue):
    unit, table = catalogue.unit_table(0)
    with pytest.raises(CommitError, match="20 rows \\+ 1 rejected objects; expected 22"):
        catalogue.sink.write(unit, replace(table, rows_in=22))


def test_zombie_attempt_changes_nothing(catalogue):
    before = catalogue.publish()
    unit, table = catalogue.unit_table(1)
    first = Ledger(catalogue.root, catalogue.storage).read(unit.id)
    late = catalogue.sink.write(unit, table)
    assert late == first
    orphans = [
        p for p in Path(catalogue.root, "fragments").glob(f"{unit.id}-*") if first.attempt not in p.name
    ]
    assert len(orphans) == 2
    assert catalogue.publish() == before


def test_kill_between_fragment_and_record_leaves_an_orphan_that_is_ignored(catalogue, monkeypatch):
    reference = catalogue.table(catalogue.publish())
    unit, table = catalogue.unit_table(2)
    Path(catalogue.root, "ledger", f"{unit.id}.json").unlink()

    def killed(self, record):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "record", killed)
        with pytest.raises(KeyboardInterrupt):
            catalogue.sink.write(unit, table)
    assert unit.id not in Ledger(catalogue.root, catalogue.storage).ids()
    catalogue.sink.write(unit, table)
    again = catalogue.publish(TOY_CATALOG.model_copy(update={"name": "again"}))
    assert catalogue.table(again).equals(reference)


def test_publishing_again_publishes_nothing(catalogue):
    first = catalogue.publish()
    files = sorted(Path(catalogue.root).rglob("*"))
    assert catalogue.publish(ids=catalogue.ids[::-1]) == first
    assert sorted(Path(catalogue.root).rglob("*")) == files


def test_damaged_version_gets_one_successor_of_the_same_content(catalogue):
    first = catalogue.publish()
    assert catalogue.publish(damaged=7) == first, "another version is damaged"
    path = first.paths("data")[0]
    data = Path(catalogue.root, path).read_bytes()
    Path(catalogue.root, path).unlink()
    second = catalogue.publish(damaged=first.version)
    assert (second.version, second.publish_id) == (2, first.publish_id)
    (again,) = (new for new in second.paths("data") if new.endswith(path.removeprefix(first.path)))
    assert Path(catalogue.root, again).read_bytes() == data
    assert catalogue.publish(damaged=first.version) == catalogue.publish() == second


def test_versions_stay_readable(catalogue):
    first = catalogue.publish(ids=catalogue.ids[:2])
    second = catalogue.publish()
    assert [(v.version, v.previous, v.rows) for v in versions(catalogue.root, catalogue.storage)] == [
        (1, 0, 36),
        (2, 1, 72),
    ]
    assert read_manifest(catalogue.root, catalogue.storage, 1) == first
    assert read_manifest(catalogue.root, catalogue.storage) == second
    third = catalogue.publish(ids=catalogue.ids[:2])
    assert (third.version, third.previous, third.publish_id) == (3, 2, first.publish_id)
    assert catalogue.table(third).equals(catalogue.table(first))


def test_missing_versions_are_named(catalogue, tmp_path):
    with pytest.raises(CommitError, match="nothing is published"):
        read_manifest(str(tmp_path / "nowhere"), catalogue.storage)
    catalogue.publish()
    with pytest.raises(CommitError, match=r"no such version; got 7; expected 1"):
        read_manifest(catalogue.root, catalogue.storage, 7)
    Path(catalogue.root, "versions", "000001.json").write_text("{}")
    with pytest.raises(CommitError, match=r"000001\.json: not a version record"):
        read_manifest(catalogue.root, catalogue.storage)


def test_unit_without_record_stops_publishing(catalogue):
    with pytest.raises(CommitError, match=r"1 of 5 units have no record.*none for zzz"):
        catalogue.publish(ids=[*catalogue.ids, "zzz"])
    assert versions(catalogue.root, catalogue.storage) == []


def test_damaged_and_missing_fragments_stop_publishing(catalogue):
    record = Ledger(catalogue.root, catalogue.storage).read(catalogue.ids[0])
    path = Path(catalogue.root, record.fragment)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"X")
    with pytest.raises(CommitError, match="not the one that was recorded"):
        catalogue.publish()
    path.unlink()
    with pytest.raises(StorageError, match="does not exist"):
        catalogue.publish()
    assert versions(catalogue.root, catalogue.storage) == []


def test_unknown_rejection_file_rows_do_not_pass(catalogue):
    """Counts of the ledger that the files do not bear out stop the publication."""
    ledger = Ledger(catalogue.root, catalogue.storage)
    record = ledger.read(catalogue.ids[1])
    path = Path(catalogue.root, record.rejected_fragment)
    pq.write_table(rejected_table([Rejection("a", "sky_fibre", "x", 1)] * 2), path)
    with pytest.raises(CommitError, match="lost or doubled"):
        catalogue.publish()


def test_race_of_publishers_with_equal_content_makes_one_version(catalogue):
    results = _race([catalogue.publish] * 4)
    assert {manifest.version for manifest in results} == {1}
    assert len({manifest.path for manifest in results}) == 1
    assert len(versions(catalogue.root, catalogue.storage)) == 1


def test_race_of_publishers_with_other_content_takes_successive_numbers(catalogue):
    def publish_units(count):
        return lambda: catalogue.publish(ids=catalogue.ids[:count])

    results = _race([publish_units(count) for count in (1, 2, 3, 4)])
    assert sorted(manifest.version for manifest in results) == [1, 2, 3, 4]
    found = versions(catalogue.root, catalogue.storage)
    assert [(v.version, v.previous) for v in found] == [(1, 0), (2, 1), (3, 2), (4, 3)]
    for manifest in results:
        assert read_manifest(catalogue.root, catalogue.storage, manifest.version) == manifest


def test_race_of_publishers_that_saw_the_same_version_makes_one_successor(catalogue):
    base = catalogue.publish(ids=catalogue.ids[:1]).version

    def publish_units(count):
        def call():
            try:
                return catalogue.publish(ids=catalogue.ids[:count], base=base)
            except SupersededError as error:
                return error

        return call

    results = _race([publish_units(count) for count in (2, 3, 4)])
    (winner,) = (manifest for manifest in results if not isinstance(manifest, SupersededError))
    assert [v.version for v in versions(catalogue.root, catalogue.storage)] == [1, 2]
    assert read_manifest(catalogue.root, catalogue.storage) == winner
    for error in results:
        assert error is winner or "got version 2; expected version 1" in str(error)


def test_version_that_came_while_another_was_written_is_not_followed(catalogue, monkeypatch):
    """Both have looked before either has published: the put decides, and its loser looks again."""
    claim = publication._claim_version

    def claim_late(*arguments):
        monkeypatch.setattr(publication, "_claim_version", claim)
        catalogue.publish(ids=catalogue.ids[:2], base=0)
        return claim(*arguments)

    monkeypatch.setattr(publication, "_claim_version", claim_late)
    with pytest.raises(SupersededError, match=r"another job published a version meanwhile.*expected none"):
        catalogue.publish(base=0)
    assert [v.rows for v in versions(catalogue.root, catalogue.storage)] == [36]


def test_equal_content_is_shared_whatever_was_current_before(catalogue):
    first = catalogue.publish(base=0)
    assert catalogue.publish(base=0) == first


def _race(calls):
    barrier = threading.Barrier(len(calls))
    results: list = [None] * len(calls)

    def run(index):
        barrier.wait()
        results[index] = calls[index]()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_prune_removes_orphans_and_old_versions_only(catalogue):
    for count in (1, 2, 3):
        catalogue.publish(ids=catalogue.ids[:count])
    unit, table = catalogue.unit_table(0)
    catalogue.sink.write(unit, table)  # two orphans
    Path(catalogue.root, "data", "unfinished").mkdir()
    Path(catalogue.root, "data", "unfinished", "x.parquet").touch()
    kept = [read_manifest(catalogue.root, catalogue.storage, v) for v in (2, 3)]

    assert prune(catalogue.root, catalogue.storage, 2, min_age_s=3600).uris == ()
    told = prune(catalogue.root, catalogue.storage, 2, min_age_s=0, dry_run=True)
    assert all(Path(uri).exists() for uri in told.uris)
    done = prune(catalogue.root, catalogue.storage, 2, min_age_s=0)
    assert done == told
    assert not any(Path(uri).exists() for uri in done.uris)
    assert len([u for u in done.uris if "/fragments/" in u]) == 2
    assert len([u for u in done.uris if "/versions/" in u]) == 1
    assert any("unfinished" in uri for uri in done.uris)

    assert [v.version for v in versions(catalogue.root, catalogue.storage)] == [2, 3]
    for manifest in kept:
        assert read_manifest(catalogue.root, catalogue.storage, manifest.version) == manifest
        assert all(Path(catalogue.root, file.path).exists() for file in manifest.files)
    assert catalogue.publish().version == 4
    assert prune(catalogue.root, catalogue.storage, 9, min_age_s=0).uris == ()


def test_prune_keeps_the_fragments_of_a_flat_catalogue_and_of_unpublished_units(catalogue):
    catalogue.publish(CatalogConfig(kind="flat"), ids=catalogue.ids[:1])
    assert prune(catalogue.root, catalogue.storage, 1, min_age_s=0).uris == ()
    with pytest.raises(ValueError, match="at least 1"):
        prune(catalogue.root, catalogue.storage, 0, min_age_s=0)
