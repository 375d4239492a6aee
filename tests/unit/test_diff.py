"""What a version changed: counted and listed, once, from the files that differ, as a plain comparison finds it."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import tests.catalogue
from catalogs.check import check_catalog
from catalogs.diff import Diff, write_diff
from catalogs.options import DiffOptions
from catalogs.query import open_catalog, run_query
from engine.commit import Manifest, prune
from engine.errors import CommitError
from engine.storage import Storage
from tests.catalogue import CatalogueMaker, make_rows
from tests.servers import S3Server

KEY = ("survey", "program", "targetid")


@pytest.fixture
def maker(tmp_path: Path) -> CatalogueMaker:
    return CatalogueMaker(str(tmp_path / "catalogue"), Storage())


def diff_of(maker: CatalogueMaker, version: int = 2, **options: Any) -> Diff:
    found = write_diff(maker.root, maker.storage, version, DiffOptions(**options))
    assert found is not None
    return found


def listed(maker: CatalogueMaker, version: int = 2) -> list[dict[str, Any]]:
    with open_catalog(maker.root, version=version) as con:
        return run_query(con, "SELECT * FROM diff").read_all().to_pylist()


def scores(maker: CatalogueMaker, manifest: Manifest) -> dict[tuple[Any, ...], float]:
    """Scores of a version by key, read without the code under test."""
    files = [f"{maker.root}/{path}" for path in manifest.paths("data")]
    table = pa.concat_tables(pq.read_table(file, partitioning=None) for file in files)
    return {tuple(row[k] for k in KEY): row["anomaly_score"] for row in table.to_pylist()}


def test_rows_that_came_went_and_moved_are_those_of_a_plain_comparison(maker: CatalogueMaker) -> None:
    before = scores(maker, maker.publish((60, 2), (50, 0), (20, 0)))
    after = scores(maker, maker.publish((60, 1), (50, 0), (20, 0), (30, 1), seed=1))
    found, rows = diff_of(maker), listed(maker)
    common = before.keys() & after.keys()
    moved = {key: abs(after[key] - before[key]) for key in common if abs(after[key] - before[key]) > 0.01}
    assert (found.added, found.removed) == (len(after.keys() - common), len(before.keys() - common))
    assert found.changed == len(moved) > 0
    assert found.largest == pytest.approx(max(moved.values()))
    assert found.listed == len(rows) == found.added + found.removed + found.changed
    for row in rows:
        key = tuple(row[name] for name in KEY)
        assert (row["old_score"], row["new_score"]) == (before.get(key), after.get(key))
    assert f"{len(moved)} whose anomaly_score moved by more than 0.01" in str(found)


def test_added_units_are_added_rows_alone(maker: CatalogueMaker) -> None:
    maker.publish((40, 0), (30, 0))
    maker.publish((40, 0), (30, 0), (20, 0))
    found = diff_of(maker)
    assert (found.added, found.removed, found.changed, found.largest) == (20, 0, 0, 0)
    assert {row["change"] for row in listed(maker)} == {"added"}


def publish_scores(maker: CatalogueMaker, monkeypatch: pytest.MonkeyPatch, *versions: list[float]) -> None:
    """Publish versions of the same rows with these scores."""
    for seed, values in enumerate(versions):
        rows = make_rows(len(values))
        index = rows.schema.get_field_index("anomaly_score")
        rows = rows.set_column(index, rows.schema.field(index), pa.array(values, pa.float32()))
        monkeypatch.setattr(tests.catalogue, "make_rows", lambda *_, rows=rows: rows)
        maker.publish((len(values), 0), seed=seed)


def test_tolerance_and_length_of_the_list_are_as_told(
    maker: CatalogueMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_scores(maker, monkeypatch, [1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.5, 3.75, 6.0, 4.0])
    found = diff_of(maker, tolerance=0.5, max_rows=2)
    assert (found.added, found.removed, found.changed, found.listed, found.largest) == (0, 0, 3, 2, 2)
    assert [row["new_score"] for row in listed(maker)] == [6.0, 4.0]


def test_files_that_both_versions_have_are_not_read(maker: CatalogueMaker) -> None:
    maker.publish((60, 0))
    second = maker.publish((60, 0), default_columns=("targetid",))
    for path in second.paths("data"):
        Path(maker.root, path).unlink()
    assert diff_of(maker).listed == 0


def test_version_that_repairs_another_changes_nothing_and_what_is_damaged_is_not_read(
    maker: CatalogueMaker,
) -> None:
    first = maker.publish((60, 0))
    for path in first.paths("data"):
        Path(maker.root, path).write_bytes(b"damaged")
    maker.publish((60, 0), damaged=1)
    found = diff_of(maker)
    assert (found.added, found.removed, found.changed) == (0, 0, 0)
    assert check_catalog(maker.root).ok


@pytest.mark.parametrize("damage", ["gone", "cut", "other bytes"])
def test_damage_of_the_version_before_is_told_and_no_error(
    maker: CatalogueMaker, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    for path in maker.publish((60, 0)).paths("data"):
        file = Path(maker.root, path)
        data = {"gone": b"", "cut": file.read_bytes()[:-99], "other bytes": b"damaged" * 99}[damage]
        file.unlink() if damage == "gone" else file.write_bytes(data)
    maker.publish((60, 0), seed=1)
    assert write_diff(maker.root, maker.storage, 2, DiffOptions()) is None
    assert "no diff: version 1 or 2 cannot be read" in caplog.text


def test_score_that_is_no_number_differs_from_numbers_only(
    maker: CatalogueMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan, inf = math.nan, math.inf
    publish_scores(maker, monkeypatch, [nan, nan, 1.0, inf, inf], [nan, 1.0, nan, inf, -inf])
    found = diff_of(maker)
    assert (found.added, found.removed, found.changed, found.largest) == (0, 0, 3, 0)


def test_it_is_worked_out_once(maker: CatalogueMaker) -> None:
    maker.publish((20, 0))
    maker.publish((20, 0), (10, 0))
    first = diff_of(maker)
    files = sorted(Path(maker.root).rglob("*"))
    assert diff_of(maker, tolerance=3.0) == first
    assert sorted(Path(maker.root).rglob("*")) == files


def test_first_version_and_one_without_predecessor_have_none(maker: CatalogueMaker) -> None:
    maker.publish((20, 0))
    assert write_diff(maker.root, maker.storage, 1, DiffOptions()) is None
    assert listed(maker, 1) == []
    maker.publish((20, 0), (10, 0))
    prune(maker.root, maker.storage, 1, min_age_s=0)
    assert write_diff(maker.root, maker.storage, 2, DiffOptions()) is None


def test_it_passes_the_check_and_goes_with_its_version(maker: CatalogueMaker) -> None:
    for count in (1, 2, 3):
        maker.publish(*[(20, 0)] * count)
    diffs = [diff_of(maker, version) for version in (2, 3)]
    assert check_catalog(maker.root).findings == ()
    prune(maker.root, maker.storage, 1, min_age_s=0)
    assert [Path(maker.root, diff.path).exists() for diff in diffs] == [False, True]
    assert len(listed(maker, 3)) == 20


def test_damaged_record_is_told(maker: CatalogueMaker) -> None:
    maker.publish((20, 0))
    manifest = maker.publish((20, 0), (10, 0))
    Path(maker.root, manifest.path, "diff.json").write_text(json.dumps({"version": 2}))
    with pytest.raises(CommitError, match="not the record of a difference"):
        diff_of(maker)


def test_columns_keep_their_types(maker: CatalogueMaker) -> None:
    maker.publish((20, 0))
    maker.publish((20, 0), (10, 0))
    diff_of(maker)
    with open_catalog(maker.root) as con:
        table = run_query(con, "SELECT * FROM diff").read_all()
    assert pc.min(table["targetid"]).as_py() > 2**53
    assert table["old_score"].null_count == 10


def test_catalogue_on_object_storage(moto_server: S3Server) -> None:
    maker = CatalogueMaker(f"{moto_server.make_bucket()}/catalogue", Storage(moto_server.options))
    maker.publish((20, 0))
    maker.publish((20, 0), (10, 0))
    assert diff_of(maker).added == 10
    with open_catalog(maker.root, moto_server.options) as con:
        assert run_query(con, "SELECT * FROM diff").read_all().num_rows == 10
