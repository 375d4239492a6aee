import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalogs.check import CheckReport, check_catalog
from engine.commit import parquet
from engine.errors import CommitError
from engine.storage import Storage
from tests.catalogue import CatalogueMaker
from tests.servers import S3Server


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of a small catalogue."""
    root = tmp_path_factory.mktemp("good")
    maker = CatalogueMaker(str(root), Storage())
    maker.publish((60, 2), max_rows_per_partition=40)
    maker.publish((60, 2), (50, 1), max_rows_per_partition=40)
    return root


@pytest.fixture
def root(good: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(good, tmp_path / "copy"))


def manifest_path(root: Path) -> Path:
    record = json.loads((root / "versions/000002.json").read_text())
    return root / record["manifest"]


def change_manifest(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = manifest_path(root)
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def files(root: Path, role: str) -> list[dict[str, Any]]:
    return [file for file in json.loads(manifest_path(root).read_text())["files"] if file["role"] == role]


def forge(root: Path, path: str, data: bytes, rows: int | None = None) -> None:
    """Replace a file and make the manifest agree, as a bug in the writer would."""
    (root / path).write_bytes(data)

    def change(manifest: dict[str, Any]) -> None:
        (entry,) = (file for file in manifest["files"] if file["path"] == path)
        entry |= {"num_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        entry["rows"] = entry["rows"] if rows is None else rows

    change_manifest(root, change)


def forge_rows(root: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change the rows of the first data file."""
    path = files(root, "data")[0]["path"]
    table = change(pq.read_table(root / path, partitioning=None))
    forge(root, path, parquet.to_bytes(table), table.num_rows)


def set_column(name: str, row: int, value: Any, flags: int | None = None) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        columns = {name: value} | ({} if flags is None else {"flags": flags})
        for key, new in columns.items():
            values = table[key].to_pylist()
            values[row] = new
            index = table.column_names.index(key)
            field = table.schema.field(index)
            table = table.set_column(index, field, pa.array(values, field.type))
        return table

    return change


def errors(report: CheckReport) -> list[str]:
    return [f"{f.check}: {f.text}" for f in report.findings if f.severity == "error"]


def test_a_good_catalogue_passes_in_full(good):
    report = check_catalog(str(good))
    assert report.findings == ()
    assert report.ok
    assert report.checks == ("versions", "files", "counts", "keys", "hats")
    assert report.lines()[-1].startswith("version 2 is whole and consistent")
    assert (report.num_rows, report.version) == (110, 2)
    assert json.loads(json.dumps(report.to_dict()))["ok"] is True


def test_older_versions_pass_too(good):
    assert check_catalog(str(good), version=1).findings == ()


def test_a_flat_layout_passes(tmp_path):
    CatalogueMaker(str(tmp_path), Storage()).publish((30, 1), kind="flat")
    report = check_catalog(str(tmp_path))
    assert report.ok
    assert [f.severity for f in report.findings] == ["info"]


def test_an_empty_catalogue_passes(tmp_path):
    CatalogueMaker(str(tmp_path), Storage()).publish((0, 3))
    assert check_catalog(str(tmp_path)).ok


def test_nothing_published_is_an_error_of_its_own(tmp_path):
    with pytest.raises(CommitError, match="nothing is published"):
        check_catalog(str(tmp_path))


@pytest.mark.parametrize("role", ["data", "rejected", "units", "metadata"])
def test_a_changed_byte_is_found_in_every_file(root, role):
    path = root / files(root, role)[0]["path"]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    report = check_catalog(str(root))
    assert any("sha256" in text for text in errors(report))
    assert not report.ok
    assert report.lines()[-1].startswith("version 2 has 1 errors")


def test_a_missing_and_a_truncated_file_are_found(root):
    first, second = (root / file["path"] for file in files(root, "data")[:2])
    first.unlink()
    second.write_bytes(second.read_bytes()[:-5])
    found = errors(check_catalog(str(root)))
    assert len(found) == 2
    assert "does not exist" in found[0]
    assert "bytes, expected" in found[1]


def test_a_file_that_is_not_parquet_is_found(root):
    forge(root, files(root, "data")[0]["path"], b"PAR1 nonsense PAR1")
    assert any("not readable Parquet" in text for text in errors(check_catalog(str(root))))


def test_a_wrong_number_of_rows_is_found(root):
    path = files(root, "data")[0]["path"]
    table = pq.read_table(root / path, partitioning=None)
    forge(root, path, parquet.to_bytes(table.slice(1)))
    found = errors(check_catalog(str(root)))
    assert any(f"has {table.num_rows - 1} rows, expected {table.num_rows}" in text for text in found)


def test_a_lost_column_type_and_unit_are_found(root):
    forge_rows(root, lambda table: table.drop_columns(["norm"]))
    assert any("columns differ in norm" in text for text in errors(check_catalog(str(root))))


def test_a_changed_type_is_found(root):
    def change(table: pa.Table) -> pa.Table:
        index = table.column_names.index("targetid")
        return table.set_column(index, "targetid", table["targetid"].cast(pa.float64(), safe=False))

    forge_rows(root, change)
    found = errors(check_catalog(str(root)))
    assert "columns: targetid is double, declared int64 not null" in found


def test_a_lost_unit_is_found(root):
    def change(table: pa.Table) -> pa.Table:
        index = table.column_names.index("ra")
        field = pa.field("ra", pa.float64(), False, {"description": "Right ascension, ICRS"})
        return table.set_column(index, field, table["ra"])

    forge_rows(root, change)
    found = errors(check_catalog(str(root)))
    assert any("ra has lost its" in text and "unit" in text for text in found)


def test_rows_out_of_order_are_found(root):
    forge_rows(root, lambda table: table.take(list(range(table.num_rows))[::-1]))
    assert any("not sorted by _healpix_29" in text for text in errors(check_catalog(str(root))))


def test_rows_outside_their_pixel_are_found(root):
    forge_rows(root, set_column("_healpix_29", -1, 2**61))
    assert any("1 rows lie outside" in text for text in errors(check_catalog(str(root))))


def test_values_out_of_range_are_found(root):
    forge_rows(root, set_column("log_wrp_percentile", 0, 100.5))
    assert any("log_wrp_percentile is outside 0-100 in 1 rows" in t for t in errors(check_catalog(str(root))))


def test_a_score_that_is_not_finite_needs_a_flag(root):
    forge_rows(root, set_column("anomaly_score", 0, float("nan"), flags=0))
    assert any(
        "anomaly_score is not finite in 1 rows, 1 of them" in t for t in errors(check_catalog(str(root)))
    )
    forge_rows(root, set_column("anomaly_score", 0, float("inf"), flags=1))
    report = check_catalog(str(root))
    assert report.ok
    assert [f.severity for f in report.findings] == ["warning"]


def test_latents_are_checked_too(root):
    forge_rows(root, set_column("latent_mean", 0, [0.0, float("nan"), 0.0, 0.0], flags=0))
    assert any("latent_mean is not finite in 1 rows" in t for t in errors(check_catalog(str(root))))


def test_a_key_that_occurs_twice_is_found_across_files(root):
    """In files of different pixels, as a bug in the merge would leave it."""
    first, second = (files(root, "data")[i]["path"] for i in (0, 1))
    key = pq.read_table(root / second, partitioning=None).slice(0, 1).to_pylist()[0]

    def change(table: pa.Table) -> pa.Table:
        for name in ("targetid", "survey", "program"):
            table = set_column(name, 0, key[name])(table)
        return table

    assert first != second
    forge_rows(root, change)
    found = errors(check_catalog(str(root)))
    assert found == [
        f"keys: 1 keys occur more than once, the first ('main', '{key['program']}', {key['targetid']}, 2)"
    ]


def test_counts_that_do_not_add_up_are_found(root):
    def change(manifest: dict[str, Any]) -> None:
        manifest["rows_in"] += 1
        manifest["num_units"] += 1

    change_manifest(root, change)
    found = errors(check_catalog(str(root)))
    assert any("rows + rejected objects: 113, but objects read: 114" in text for text in found)
    assert any("units: 3" in text for text in found)


def test_rejections_of_another_reason_are_found(root):
    change_manifest(root, lambda manifest: manifest.update(rejected={"zwarn": 3}))
    found = errors(check_catalog(str(root)))
    assert any("zwarn: 0 rows, expected 3" in text for text in found)


def test_an_unregistered_reason_is_found(root):
    path = files(root, "rejected")[0]["path"]
    table = set_column("reason", 0, "bad_luck")(pq.read_table(root / path))
    forge(root, path, parquet.to_bytes(table))
    assert any("reason 'bad_luck' of kind" in text for text in errors(check_catalog(str(root))))


def test_a_gap_between_versions_is_found(root):
    (root / "versions/000002.json").rename(root / "versions/000003.json")
    found = errors(check_catalog(str(root)))
    assert any("there is a gap in 1, 3" in text for text in found)
    assert any("says version 2 after 1, expected 3 after 2" in text for text in found)


def test_pruned_versions_are_no_gap(root):
    (root / "versions/000001.json").unlink()
    assert check_catalog(str(root)).ok


def test_a_record_that_disagrees_with_its_manifest_is_found(root):
    change_manifest(root, lambda manifest: manifest.update(publish_id="other"))
    assert any("its manifest" in text for text in errors(check_catalog(str(root))))


def test_a_stray_file_is_a_warning_and_breaks_hats(root):
    data = root / files(root, "data")[0]["path"]
    shutil.copy(data, data.with_name("Npix=3071.parquet"))
    report = check_catalog(str(root))
    assert any(f.severity == "warning" and "not in the manifest" in f.text for f in report.findings)
    assert "hats: is not a valid HATS catalogue" in errors(report)
    assert any("Partition pixels differ" in f.text for f in report.findings)


def test_many_findings_are_counted_not_told(root):
    for file in files(root, "data"):
        (root / file["path"]).unlink()
    report = check_catalog(str(root))
    assert len(report.findings) <= 24
    assert not report.ok


@pytest.mark.s3
def test_a_catalogue_on_s3_passes_with_hats(moto_server: S3Server):
    maker = CatalogueMaker(f"{moto_server.make_bucket()}/catalogue", Storage(moto_server.options))
    maker.publish((60, 2))
    report = check_catalog(maker.root, moto_server.options)
    assert report.findings == ()
