from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.column import Column, DType
from engine.errors import SchemaError
from engine.schema import (
    arrow_schema,
    conform,
    empty_table,
    list_array,
    matrix,
    packed_array,
    set_column,
    to_arrays,
)

KEY = Column("targetid", "int64", "identifier", ucd="meta.id")
FLUX = Column("flux", "float32", "flux", "nJy", length=3)
Z = Column("z", "float64", "redshift", nullable=True)


def _table(**columns: object) -> pa.Table:
    return pa.table(columns)


def test_field_metadata_has_only_what_is_known() -> None:
    schema = arrow_schema([KEY, FLUX])
    assert schema.field("targetid").metadata == {b"description": b"identifier", b"ucd": b"meta.id"}
    assert schema.field("flux").metadata[b"unit"] == b"nJy"
    assert schema.field("flux").type == pa.list_(pa.float32(), 3)
    assert not schema.field("flux").nullable


def test_column_is_set_in_its_place_or_behind_with_what_is_declared() -> None:
    table = _table(z=[0.5], targetid=[7])
    table = set_column(set_column(table, KEY, pa.array([8])), FLUX, list_array(np.ones((1, 3), np.float32)))
    assert table.column_names == ["z", "targetid", "flux"]
    assert table["targetid"].to_pylist() == [8]
    assert table.schema.field("targetid").equals(arrow_schema([KEY]).field(0), check_metadata=True)
    assert table.schema.field("flux").equals(arrow_schema([FLUX]).field(0), check_metadata=True)


def test_conform_selects_orders_and_casts() -> None:
    table = _table(z=[0.5, None], extra=[1, 2], targetid=pa.array([1, 2**60 + 1], pa.uint64()))
    done = conform(table, [KEY, Z])
    assert done.schema.equals(arrow_schema([KEY, Z]), check_metadata=True)
    assert done["targetid"].to_pylist() == [1, 2**60 + 1]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (_table(z=[0.1]), "targetid is missing"),
        (_table(targetid=[1, None]), "1 nulls"),
        (_table(targetid=pa.array([2**63], pa.uint64())), "cannot be cast"),
        (_table(targetid=["a"]), "cannot be cast"),
    ],
)
def test_conform_refuses_what_would_lose_something(table: pa.Table, words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        conform(table, [KEY], "unit main-dark-1")


def test_matrix_and_list_array_are_inverse_over_chunks() -> None:
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    table = pa.concat_tables([_table(flux=list_array(part)) for part in (values[:1], values[1:])])
    assert np.array_equal(matrix(table, "flux"), values)
    assert np.array_equal(matrix(table.slice(2, 2), "flux"), values[2:])
    assert matrix(empty_table([FLUX]), "flux").shape == (0, 3)


@pytest.mark.parametrize("length", [1, 8, 54])
@pytest.mark.parametrize("dtype", ["bool", "float32", "int16"])
def test_packed_columns_come_back_as_they_were(dtype: DType, length: int, tmp_path: Path) -> None:
    column = Column("mask", dtype, "pixels", length=length, packed=True)
    values = np.random.default_rng(length).integers(0, 2, (5, length)).astype(dtype)
    table = conform(_table(mask=packed_array(values)), [column])
    pq.write_table(table, tmp_path / "mask.parquet")
    for found in (table, pq.read_table(tmp_path / "mask.parquet")):
        np.testing.assert_array_equal(to_arrays(found, ["mask"])["mask"], values, strict=True)
        np.testing.assert_array_equal(matrix(found.slice(2, 2), "mask"), values[2:4])
        np.testing.assert_array_equal(
            matrix(pa.concat_tables([found, found]), "mask"), np.tile(values, (2, 1))
        )
    assert matrix(empty_table([column]), "mask").shape == (0, length)
    assert matrix(table.slice(5), "mask").shape == (0, length)


def test_matrix_does_not_copy() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.shares_memory(matrix(_table(flux=list_array(values)), "flux"), values)


def test_matrix_of_several_or_no_chunks_keeps_its_type() -> None:
    mask = np.array([[True, False], [False, False]])
    table = pa.table({"mask": list_array(mask)})
    for several in (table, pa.concat_tables([table, table]), table.slice(0, 0)):
        assert matrix(several, "mask").dtype == bool
    assert matrix(pa.table({"mask": pa.chunked_array([], pa.list_(pa.bool_(), 2))}), "mask").shape == (0, 2)
    np.testing.assert_array_equal(matrix(pa.concat_tables([table, table]), "mask"), np.vstack([mask, mask]))
