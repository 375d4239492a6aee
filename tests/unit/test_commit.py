"""What a published version holds: rows, rejections, files, and what the manifest says of them."""

import hashlib
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.commit import CatalogConfig, FragmentSink, publish, read_manifest
from engine.errors import SchemaError
from engine.ledger import Ledger
from engine.partition import healpix_29
from engine.schema import arrow_schema
from engine.stage import run_local
from engine.storage import Storage, StorageOptions
from tests.toy import COLUMNS, FIRST_ID, ToyCatalogue, ToySource, ToyStage, toy_units


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
    assert (record.rejected_files, record.rejected_rows) == (1, 2)


def test_row_without_a_position_is_rejected(tmp_path):
    catalogue = ToyCatalogue(tmp_path, ToySource(num_units=0))
    unit = toy_units(ToySource())[0]
    table = run_local([ToyStage()], ToySource().read(unit))
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
    near, far = ToyCatalogue(tmp_path / "near"), ToyCatalogue(tmp_path / "far", ToySource(num_units=0))
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
    catalogue = ToyCatalogue(tmp_path, ToySource(num_units=0))
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
    catalogue = ToyCatalogue(tmp_path, ToySource(num_units=0))
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
    one, two = ToyCatalogue(tmp_path / "1"), ToyCatalogue(tmp_path / "2", reverse=True)
    first = one.publish()
    second = two.publish(ids=two.ids[::-1], run_all=lambda function, items: [function(i) for i in items])
    assert first.publish_id == second.publish_id
    stamped = ("hats.properties", "/properties", "metrics.jsonl")  # these hold the time of creation

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


def test_settings_with_unknown_columns_are_refused(catalogue):
    config = CatalogConfig(key=("targetid", "night"), default_columns=("scor",), prefer=("-exptime",))
    with pytest.raises(SchemaError, match="got exptime, night, scor"):
        catalogue.publish(config)


def test_without_a_key_all_rows_are_kept(catalogue):
    manifest = catalogue.publish(CatalogConfig(key=()))
    assert (manifest.rows, "duplicate_key" in manifest.rejected) == (80, False)


def test_unit_of_which_all_is_rejected(tmp_path):
    catalogue = ToyCatalogue(tmp_path, ToySource(num_units=1, rows=0))
    record = Ledger(catalogue.root, catalogue.storage).read(catalogue.ids[0])
    assert (record.rows, record.fragment, record.pixels) == (0, "", {})
    manifest = catalogue.publish()
    assert (manifest.rows, manifest.rejected, manifest.paths("data")) == (
        0,
        {"not_found": 1, "sky_fibre": 1},
        [],
    )


def test_catalogue_of_nothing_can_be_published_and_read(tmp_path):
    catalogue = ToyCatalogue(tmp_path, ToySource(num_units=0))
    manifest = catalogue.publish()
    assert (manifest.rows_in, manifest.rows, manifest.rejected) == (0, 0, {})
    common = f"{catalogue.root}/{manifest.path}/dataset/_common_metadata"
    rejected = f"{catalogue.root}/{manifest.paths('rejected')[0]}"
    with duckdb.connect() as connection:
        for path in (common, rejected):
            assert connection.execute("SELECT count(*) FROM read_parquet(?)", [path]).fetchall() == [(0,)]


def test_flat_kind_publishes_fragments_as_they_are(catalogue):
    manifest = catalogue.publish(CatalogConfig(kind="flat", key=("not", "used")))
    records = Ledger(catalogue.root, catalogue.storage).done()
    assert manifest.paths("data") == [records[i].fragment for i in sorted(records)]
    assert (manifest.rows, manifest.rejected) == (80, {"not_found": 1, "sky_fibre": 4})
    assert [file.rows for file in manifest.files if file.role == "data"] == [20] * 4


def test_fragment_columns_need_no_position(tmp_path):
    columns = tuple(c for c in COLUMNS if c.name in ("targetid", "score"))
    sink = FragmentSink(str(tmp_path), StorageOptions(), columns)
    unit = toy_units(ToySource())[1]
    record = sink.write(unit, run_local([ToyStage()], ToySource().read(unit)))
    assert record.pixels == {}
    manifest = publish(str(tmp_path), Storage(), [unit.id], columns, CatalogConfig(kind="flat"))
    assert manifest.rows == 20


def test_rejected_rows_are_merged_into_files_of_the_wanted_size(tmp_path):
    catalogue = ToyCatalogue(tmp_path, ToySource(num_units=6, rows=2))
    config = CatalogConfig(rejected_rows_per_file=2, key=())
    manifest = catalogue.publish(config)
    sizes = [file.rows for file in manifest.files if file.role == "rejected"]
    assert sum(sizes) == 7
    assert max(sizes) <= 2 < len(sizes)


def test_row_groups_have_statistics_of_the_sky(tmp_path):
    catalogue = ToyCatalogue(tmp_path, ToySource(num_units=1, rows=80))
    manifest = catalogue.publish(CatalogConfig(row_group_rows=25))
    metadata = pq.read_metadata(f"{catalogue.root}/{manifest.paths('data')[0]}")
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [25, 25, 25, 5]
    edges = [metadata.row_group(i).column(0).statistics for i in range(4)]
    assert all(a.max <= b.min for a, b in pairwise(edges))
