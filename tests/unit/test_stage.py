from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pytest

from engine.column import Column
from engine.errors import SchemaError
from engine.stage import REJECTED, Resources, UnitFunction, UnitTable, check, rejected_table, run_local

ROWS = {
    "source_uri": ["a", "a", "b"],
    "source_row": [0, 1, 0],
    "targetid": [2**60 + 1, 5, 6],
    "survey": ["main", "main", "sv1"],
    "program": ["dark", "dark", "bright"],
}
X, Y = Column("x", "float32", "x"), Column("y", "float32", "y")


@dataclass(frozen=True)
class Toy:
    name: str
    requires: tuple[Column, ...] = ()
    provides: tuple[Column, ...] = ()
    resources: Resources = field(default_factory=Resources)

    def open(self) -> UnitFunction:
        return lambda unit: unit.with_rows(unit.rows.append_column(self.name, pa.array([1.0] * 3)))


def _unit() -> UnitTable:
    return UnitTable(pa.table(ROWS), rejected_table([]), 3)


def test_reject_moves_rows_and_keeps_the_count() -> None:
    done = _unit().reject(np.array([True, False, True]), "no_redshift", "why")
    assert done.rows["targetid"].to_pylist() == [5]
    assert done.rejected.schema.names == [column.name for column in REJECTED]
    first = done.rejected.to_pylist()[0]
    assert first["targetid"] == 2**60 + 1
    assert (first["uri"], first["row"], first["kind"]) == ("a", 0, "fault")
    assert done.rows.num_rows + done.rejected.num_rows == done.rows_in


def test_check_follows_columns_through_the_stages() -> None:
    after = check([Toy("a", (X,), (Y,)), Toy("b", (Y,))], [X])
    assert [column.name for column in after] == ["x", "y"]


def test_check_names_stage_and_column() -> None:
    with pytest.raises(SchemaError, match=r"stage 'b': column 'x' .*expected x: float"):
        check([Toy("a", (Y,), (Y,)), Toy("b", (X,))], [Y])


def test_check_compares_list_lengths() -> None:
    with pytest.raises(SchemaError, match="another preparation"):
        check([Toy("a", (Column("x", "float32", "x", length=4),))], [Column("x", "float32", "x", length=3)])


def test_run_local_runs_in_order() -> None:
    assert run_local([Toy("p"), Toy("q")], _unit()).rows.column_names[-2:] == ["p", "q"]
