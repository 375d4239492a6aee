import dataclasses

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.column import Column
from engine.schema import arrow_schema
from engine.sources.staged import StagedSource
from engine.storage import Storage
from engine.units import FileRef

COLUMNS = (
    Column("targetid", "int64", "Key"),
    Column("flux", "float32", "Flux", length=3),
    Column("z", "float64", "Redshift", nullable=True),
)
BIG = (1 << 53) + 1


def make_source(folder, **columns) -> StagedSource:
    table = {"targetid": [BIG, -1], "flux": [[1.0, 2, 3]] * 2, "z": [None, 0.5]} | columns
    schema = pa.schema([field for field in arrow_schema(COLUMNS) if table[field.name] is not None])
    files = []
    for name in ("b.parquet", "a.parquet"):
        path = folder / name
        kept = {k: v for k, v in table.items() if v is not None}
        pq.write_table(pa.table(kept, schema=schema), path, row_group_size=1)
        files.append(FileRef(str(path), path.stat().st_size, "f"))
    return StagedSource(tuple(files), COLUMNS)


def test_each_file_is_a_unit_and_comes_back_exactly(tmp_path):
    source = make_source(tmp_path)
    units = list(source.plan())
    assert [unit.key for unit in units] == ["a", "b"]
    table = source.read(units[0])
    assert table.rows.schema.equals(arrow_schema(COLUMNS), check_metadata=True)
    assert table.rows["targetid"].to_pylist() == [BIG, -1]
    assert table.rows["z"].to_pylist() == [None, 0.5]
    assert table.rows["flux"].num_chunks == 1
    assert (table.rows_in, table.rejected.num_rows) == (2, 0)


@pytest.mark.parametrize(
    ("harm", "reason", "detail"),
    [
        (lambda path: path.unlink(), "not_found", "does not exist"),
        (lambda path: path.write_bytes(b"no parquet"), "unreadable_file", "."),
        (lambda path: path.write_bytes(path.read_bytes()[:200]), "unreadable_file", "."),
    ],
)
def test_a_damaged_file_is_rejected(tmp_path, harm, reason, detail):
    source = make_source(tmp_path)
    unit = next(iter(source.plan()))
    harm(tmp_path / "a.parquet")
    table = source.read(unit)
    (rejected,) = table.rejected.to_pylist()
    assert (rejected["reason"], rejected["row"], table.rows_in) == (reason, None, 0)
    assert detail in rejected["detail"]
    assert table.rows.schema.names == [column.name for column in COLUMNS]


def test_a_file_of_another_schema_is_rejected(tmp_path):
    source = make_source(tmp_path, z=None)
    unit = next(iter(source.plan()))
    assert "column z is missing" in source.read(unit).rejected["detail"][0].as_py()
    longer = (COLUMNS[0], dataclasses.replace(COLUMNS[1], length=4))
    other = dataclasses.replace(source, columns=longer)
    assert other.read(unit).rejected["reason"].to_pylist() == ["unsupported_layout"]


def test_bytes_are_counted(tmp_path):
    source = make_source(tmp_path)
    unit = next(iter(source.plan()))
    size = Storage().info(unit.files[0].uri).size
    assert source.read(unit).stats["bytes_fetched"] == size
