import hashlib
import threading
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.commit import CatalogConfig, FragmentSink, Manifest, prune, publish, read_manifest, versions
from engine.errors import CommitError, SchemaError
from engine.ledger import Ledger
from engine.partition import healpix_29
from engine.schema import arrow_schema
from engine.stage import Rejection, rejected_table, run_local
from engine.storage import Storage, StorageError, StorageOptions
from tests.toy import COLUMNS, FIRST_ID, ToySource, ToyStage, toy_units, write_all

CONFIG = CatalogConfig(name="toy", max_rows_per_partition=25)
SOURCE = ToySource()


class Catalogue:
    """A catalogue of toy units below a local folder."""

    def __init__(self, root: Path, source: ToySource = SOURCE, reverse: bool = False) -> None:
        self.root, self.storage, self.source = str(root), Storage(), source
        self.units = toy_units(source)
        self.sink = FragmentSink(self.root, StorageOptions(), COLUMNS)
        write_all(self.sink, source, self.units[::-1] if reverse else self.units)

    @property
    def ids(self) -> list[str]:
        return [unit.id for unit in self.units]

    def publish(self, config: CatalogConfig = CONFIG, ids: list[str] | None = None, **facts) -> Manifest:
        return publish(self.root, self.storage, self.ids if ids is None else ids, COLUMNS, config, **facts)

    def table(self, manifest: Manifest, role="data") -> pa.Table:
        return pa.concat_tables(
            pq.read_table(f"{self.root}/{p}", partitioning=None) for p in manifest.paths(role)
        )

    def unit_table(self, number: int):
        unit = self.units[number]
        return unit, run_local([ToyStage()], self.source.read(unit))


@pytest.fixture
def catalogue(tmp_path):
    return Catalogue(tmp_path)


def test_fragment_has_the_declared_columns_sorted_with_index(catalogue):
    record = Ledger(catalogue.root, catalogue.storage).read(catalogue.ids[0])
    data = Path(catalogue.root, record.fragment).read_bytes()
    table = pq.read_table(pa.BufferReader(data))
    wanted = arrow_schema(COLUMNS)
    assert table.schema.equals(wanted)
    assert [field.metadata for field in table.schema] == [field.metadata for field in wanted]
    index = table["_healpix_29"].to_numpy()
    assert (np.diff(index) >= 0).all()
    np.testing.assert_array_equal(index, healpix_29(table["ra"].to_numpy(), table["dec"].to_numpy()))
    assert (record.sha256, record.num_bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    assert (record.rows_in, record.rows, sum(record.pixels.values())) == (21, 20, 20)
    assert record.rejected == {"not_found": 1, "sky_fibre": 1}
    assert (record.rejected_files, record.rejected_objects) == (1, 1)


def test_lost_row_is_an_error(catalogue):
    unit, table = catalogue.unit_table(0)
    with pytest.raises(CommitError, match="20 rows \\+ 1 rejected objects; expected 22"):
        catalogue.sink.write(unit, replace(table, rows_in=22))


def test_row_without_a_position_is_rejected(tmp_path):
    catalogue = Catalogue(tmp_path, ToySource(num_units=0))
    unit = toy_units(ToySource())[0]
    table = run_local([ToyStage()], SOURCE.read(unit))
    ra = table.rows["ra"].to_numpy().copy()
    ra[3] = np.nan
    index = table.rows.column_names.index("ra")
    rows = table.rows.set_column(index, "ra", pa.array(ra))
    record = catalogue.sink.write(unit, table.with_rows(rows))
    assert record.rejected == {"bad_position": 1, "not_found": 1, "sky_fibre": 1}
    assert record.rows == 19


def test_unit_without_id_is_refused(catalogue):
    unit, table = catalogue.unit_table(0)
    with pytest.raises(ValueError, match="has no id"):
        catalogue.sink.write(replace(unit, id=""), table)


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
    again = catalogue.publish(CONFIG.model_copy(update={"name": "again"}))
    assert catalogue.table(again).equals(reference)


def test_catalogue_holds_each_key_once_and_counts_add_up(catalogue):
    manifest = catalogue.publish()
    table = catalogue.table(manifest)
    assert len(set(table["targetid"].to_pylist())) == table.num_rows == manifest.rows == 72
    assert min(table["targetid"].to_pylist()) == FIRST_ID
    assert manifest.rejected == {"duplicate_key": 8, "not_found": 1, "sky_fibre": 4}
    assert manifest.rows_in == manifest.rows + sum(manifest.rejected.values()) - manifest.rejected_files == 84
    rejected = catalogue.table(manifest, "rejected")
    assert Counter(rejected["reason"].to_pylist()) == manifest.rejected
    assert manifest.stats == {"bytes_fetched": 28.0}
    units = catalogue.table(manifest, "units")
    assert units["unit_id"].to_pylist() == sorted(catalogue.ids)
    assert sum(units["rows_in"].to_pylist()) == 84


def test_better_row_of_a_key_is_kept(catalogue):
    manifest = catalogue.publish()
    kept = {row["targetid"]: row for row in catalogue.table(manifest).to_pylist()}
    lost = [r for r in catalogue.table(manifest, "rejected").to_pylist() if r["reason"] == "duplicate_key"]
    assert len(lost) == 8
    for row in lost:
        number = int(row["uri"].removeprefix("toy://"))
        tsnr2 = ((row["targetid"] - FIRST_ID) * 7 + number) % 13
        assert kept[row["targetid"]]["tsnr2"] > tsnr2
        assert kept[row["targetid"]]["source_uri"] != row["uri"]
        assert (row["kind"], row["survey"]) == ("fault", "main")


def shift_in_sky(table, by: float):
    index = table.rows.column_names.index("ra")
    return table.with_rows(table.rows.set_column(index, "ra", pa.array(table.rows["ra"].to_numpy() + by)))


def test_better_row_of_a_key_is_kept_even_in_another_partition(tmp_path):
    near, far = Catalogue(tmp_path / "near"), Catalogue(tmp_path / "far", ToySource(num_units=0))
    for number in range(4):  # odd units see the shared targets 20 degrees away
        unit, table = near.unit_table(number)
        far.sink.write(unit, shift_in_sky(table, 20.0 * (number % 2)))
    expected, manifest = near.publish(), far.publish(ids=near.ids)
    assert (manifest.rows, manifest.rejected) == (expected.rows, expected.rejected)
    columns = ["targetid", "tsnr2", "source_uri"]
    found = far.table(manifest).select(columns).sort_by("targetid")
    assert found.equals(near.table(expected).select(columns).sort_by("targetid"))
    by_uri = [
        sorted(c.table(m, "rejected").to_pylist(), key=str) for c, m in ((near, expected), (far, manifest))
    ]
    assert by_uri[0] == by_uri[1]


def test_partition_of_which_all_rows_are_kept_elsewhere_disappears(tmp_path):
    catalogue = Catalogue(tmp_path, ToySource(num_units=0))
    units = toy_units(ToySource(num_units=2))
    for number, unit in enumerate(units):
        table = run_local([ToyStage()], ToySource(rows=5).read(replace(unit, key="toy-0")))
        index = table.rows.column_names.index("tsnr2")
        better = pa.array(np.full(5, number, np.float32))
        rows = table.rows.set_column(index, "tsnr2", better)
        catalogue.sink.write(unit, shift_in_sky(table.with_rows(rows), 90.0 * number))
    manifest = catalogue.publish(ids=[unit.id for unit in units])
    assert (manifest.rows, manifest.rejected["duplicate_key"], len(manifest.paths("data"))) == (5, 5, 1)
    assert set(catalogue.table(manifest)["tsnr2"].to_pylist()) == {1.0}
    assert len(list(Path(catalogue.root, manifest.path, "dataset").rglob("*.parquet"))) == 1


def test_missing_preference_values_come_last(tmp_path):
    catalogue = Catalogue(tmp_path, ToySource(num_units=0))
    units = toy_units(ToySource(num_units=2))
    for unit, values in zip(units, ([None, 1.0, np.nan], [0.5, None, None]), strict=True):
        table = run_local([ToyStage()], ToySource(rows=3).read(replace(unit, key="toy-0")))
        table = replace(table, rejected=table.rejected.slice(0, 1))
        index = table.rows.column_names.index("tsnr2")
        column = pa.array(values, pa.float32(), from_pandas=False)
        uris = pa.array([unit.key] * 3)
        rows = table.rows.set_column(index, "tsnr2", column).set_column(index + 1, "source_uri", uris)
        catalogue.sink.write(unit, table.with_rows(rows))
    manifest = catalogue.publish(ids=[unit.id for unit in units])
    kept = {row["targetid"] - FIRST_ID: row["source_uri"] for row in catalogue.table(manifest).to_pylist()}
    assert kept == {0: "toy-1", 1: "toy-0", 2: "toy-0"}


def test_files_are_equal_whatever_the_order_of_units(tmp_path):
    one, two = Catalogue(tmp_path / "1"), Catalogue(tmp_path / "2", reverse=True)
    first = one.publish()
    second = two.publish(ids=two.ids[::-1], run_all=lambda function, items: [function(i) for i in items])
    assert first.publish_id == second.publish_id
    stamped = ("hats.properties", "/properties")  # these hold the time of creation

    def hashes(manifest):
        files = {f.path.removeprefix(manifest.path): f for f in manifest.files}
        return {k: (f.sha256, f.rows) for k, f in files.items() if not k.endswith(stamped)}

    assert hashes(first) == hashes(second)
    assert len(hashes(first)) > 10


def test_manifest_describes_every_file(catalogue):
    manifest = catalogue.publish(provenance={"git_commit": "abc", "config": {"a": 1}})
    folder = Path(catalogue.root, manifest.path)
    on_disk = {str(p.relative_to(catalogue.root)) for p in folder.rglob("*") if p.is_file()}
    assert on_disk - {f"{manifest.path}/manifest.json"} == {file.path for file in manifest.files}
    for file in manifest.files:
        data = Path(catalogue.root, file.path).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.num_bytes, file.sha256)
        if file.role in ("data", "rejected", "units"):
            assert pq.read_metadata(pa.BufferReader(data)).num_rows == file.rows
    assert read_manifest(catalogue.root, catalogue.storage) == manifest
    assert manifest.provenance == {"git_commit": "abc", "config": {"a": 1}}
    assert [column["name"] for column in manifest.columns] == [column.name for column in COLUMNS]


def test_publishing_again_publishes_nothing(catalogue):
    first = catalogue.publish()
    files = sorted(Path(catalogue.root).rglob("*"))
    assert catalogue.publish(ids=catalogue.ids[::-1]) == first
    assert sorted(Path(catalogue.root).rglob("*")) == files


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


def test_settings_with_unknown_columns_are_refused(catalogue):
    config = CatalogConfig(key=("targetid", "night"), default_columns=("scor",), prefer=("-exptime",))
    with pytest.raises(SchemaError, match="got exptime, night, scor"):
        catalogue.publish(config)


def test_without_a_key_all_rows_are_kept(catalogue):
    manifest = catalogue.publish(CatalogConfig(key=()))
    assert (manifest.rows, "duplicate_key" in manifest.rejected) == (80, False)


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


def test_unit_of_which_all_is_rejected(tmp_path):
    catalogue = Catalogue(tmp_path, ToySource(num_units=1, rows=0))
    record = Ledger(catalogue.root, catalogue.storage).read(catalogue.ids[0])
    assert (record.rows, record.fragment, record.pixels) == (0, "", {})
    manifest = catalogue.publish()
    assert (manifest.rows, manifest.rejected, manifest.paths("data")) == (
        0,
        {"not_found": 1, "sky_fibre": 1},
        [],
    )


def test_catalogue_of_nothing_can_be_published_and_read(tmp_path):
    catalogue = Catalogue(tmp_path, ToySource(num_units=0))
    manifest = catalogue.publish()
    assert (manifest.rows_in, manifest.rows, manifest.rejected) == (0, 0, {})
    common = f"{catalogue.root}/{manifest.path}/dataset/_common_metadata"
    assert duckdb.execute("SELECT count(*) FROM read_parquet(?)", [common]).fetchone() == (0,)
    assert duckdb.execute(
        "SELECT count(*) FROM read_parquet(?)", [f"{catalogue.root}/{manifest.paths('rejected')[0]}"]
    ).fetchone() == (0,)


def test_flat_kind_publishes_fragments_as_they_are(catalogue):
    manifest = catalogue.publish(CatalogConfig(kind="flat", key=("not", "used")))
    records = Ledger(catalogue.root, catalogue.storage).done()
    assert manifest.paths("data") == [records[i].fragment for i in sorted(records)]
    assert (manifest.rows, manifest.rejected) == (80, {"not_found": 1, "sky_fibre": 4})
    assert [file.rows for file in manifest.files if file.role == "data"] == [20] * 4


def test_fragment_columns_need_no_position(tmp_path):
    columns = tuple(c for c in COLUMNS if c.name in ("targetid", "score"))
    sink = FragmentSink(str(tmp_path), StorageOptions(), columns)
    unit = toy_units(SOURCE)[1]
    record = sink.write(unit, run_local([ToyStage()], SOURCE.read(unit)))
    assert record.pixels == {}
    manifest = publish(str(tmp_path), Storage(), [unit.id], columns, CatalogConfig(kind="flat"))
    assert manifest.rows == 20


def test_rejected_rows_are_merged_into_files_of_the_wanted_size(tmp_path):
    catalogue = Catalogue(tmp_path, ToySource(num_units=6, rows=2))
    config = CatalogConfig(rejected_rows_per_file=2, key=())
    manifest = catalogue.publish(config)
    sizes = [file.rows for file in manifest.files if file.role == "rejected"]
    assert sum(sizes) == 7
    assert max(sizes) <= 2 < len(sizes)


def test_row_groups_have_statistics_of_the_sky(tmp_path):
    catalogue = Catalogue(tmp_path, ToySource(num_units=1, rows=80))
    manifest = catalogue.publish(CatalogConfig(row_group_rows=25))
    metadata = pq.read_metadata(f"{catalogue.root}/{manifest.paths('data')[0]}")
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [25, 25, 25, 5]
    edges = [metadata.row_group(i).column(0).statistics for i in range(4)]
    assert all(a.max <= b.min for a, b in pairwise(edges))


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


def test_unknown_rejection_file_rows_do_not_pass(catalogue):
    """Counts of the ledger that the files do not bear out stop the publication."""
    ledger = Ledger(catalogue.root, catalogue.storage)
    record = ledger.read(catalogue.ids[1])
    path = Path(catalogue.root, record.rejected_fragment)
    pq.write_table(rejected_table([Rejection("a", "sky_fibre", "x", 1)] * 2), path)
    with pytest.raises(CommitError, match="lost or doubled"):
        catalogue.publish()
