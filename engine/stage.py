"""A stage maps the table of one unit to another. Nothing here knows Ray.

A stage is a frozen dataclass: picklable, cheap, without open handles. All cost is in `open()`, which a
worker calls once; the function it returns may be called twice on the same rows (Ray retries).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from engine.column import Column
from engine.config import Config
from engine.errors import SchemaError
from engine.flags import REASONS
from engine.rows import IDENTITY
from engine.schema import arrow_schema, arrow_type

REJECTED: tuple[Column, ...] = (
    Column("uri", "string", "File that was rejected or holds the rejected object"),
    Column("row", "int64", "Row in the file, from 0", nullable=True),
    *IDENTITY,
    Column("reason", "string", "Reason code, see engine.flags.REASONS"),
    Column("kind", "string", "'cut' if chosen by configuration, 'fault' if broken"),
    Column("detail", "string", "What was found and what was expected"),
)


@dataclass(frozen=True, slots=True)
class Rejection:
    """One row of `rejected`; see the columns of `REJECTED`."""

    uri: str
    reason: str
    detail: str
    row: int | None = None
    targetid: int | None = None
    survey: str | None = None
    program: str | None = None
    field: str | None = None
    object_id: int | None = None


def rejected_table(rejections: Iterable[Rejection]) -> pa.Table:
    """Rejections as a table with the columns of `REJECTED`."""
    names = [column.name for column in REJECTED if column.name != "kind"]
    rows = [{n: getattr(r, n) for n in names} | {"kind": REASONS[r.reason].kind} for r in rejections]
    return pa.Table.from_pylist(rows, schema=arrow_schema(REJECTED))


@dataclass(frozen=True)
class UnitTable:
    """The rows of one unit on their way, with what was rejected so far.

    `rows_in` counts the objects that the files held, whatever became of them:
    `rows_in == rows.num_rows + objects in rejected` at all times (a rejected file that could not be
    read has no objects: its `row` is null).
    """

    rows: pa.Table
    rejected: pa.Table
    rows_in: int
    stats: dict[str, float] = field(default_factory=dict)

    def with_rows(self, rows: pa.Table) -> "UnitTable":
        """Replace the rows."""
        return replace(self, rows=rows)

    def reject(self, bad: np.ndarray, reason: str, detail: str) -> "UnitTable":
        """Move the rows where `bad`, bool [rows], is True to `rejected`.

        The rows must carry `source_uri` and `source_row`, and those columns of `IDENTITY` that name them.
        """
        if not bad.any():
            return self
        names = [column.name for column in IDENTITY if column.name in self.rows.column_names]
        gone = self.rows.select(["source_uri", "source_row", *names]).filter(pa.array(bad)).to_pylist()
        more = rejected_table(
            Rejection(row.pop("source_uri"), reason, detail, row.pop("source_row"), **row) for row in gone
        )
        rows = self.rows.filter(pa.array(~bad))
        return replace(self, rows=rows, rejected=pa.concat_tables([self.rejected, more]))


@dataclass(frozen=True, slots=True)
class Resources:
    """What one worker of a stage asks the cluster for."""

    num_cpus: float = 1.0
    num_gpus: float = 0.0
    memory_gib: float = 0.0


UnitFunction = Callable[[UnitTable], UnitTable]


class PrepareConfig(Config, ABC):
    """How rows of a source are made ready for a model. Part of every checkpoint: a model only fits its own."""

    @property
    @abstractmethod
    def stage(self) -> "Stage":
        """The stage that prepares so."""


class Stage(Protocol):
    """What the engine needs to know of a step."""

    @property
    def name(self) -> str:
        """Short name for logs."""
        ...

    @property
    def requires(self) -> tuple[Column, ...]:
        """Columns that must be there."""
        ...

    @property
    def provides(self) -> tuple[Column, ...]:
        """Columns that are added or replaced."""
        ...

    @property
    def resources(self) -> Resources:
        """What one worker asks for."""
        ...

    def open(self) -> UnitFunction:
        """Load what is needed and return the function."""
        ...


def check(stages: Sequence[Stage], columns: Sequence[Column]) -> tuple[Column, ...]:
    """Check that each stage finds what it requires; return the columns after the last one.

    Raises
    ------
    SchemaError
        Naming the stage, the column, and what is there instead.
    """
    available = {column.name: column for column in columns}
    for stage in stages:
        for wanted in stage.requires:
            _check_column(stage, wanted, available)
        available |= {column.name: column for column in stage.provides}
    return tuple(available.values())


def _check_column(stage: Stage, wanted: Column, available: dict[str, Column]) -> None:
    found = available.get(wanted.name)
    if found is None:
        got, hint = ", ".join(available), "Choose a source or a stage before it that provides it."
    elif arrow_type(found) != arrow_type(wanted):
        got, hint = str(arrow_type(found)), "The checkpoint was made for another preparation."
    else:
        return
    raise SchemaError(
        f"column '{wanted.name}' is not what the stage requires",
        f"stage '{stage.name}'",
        got=got,
        expected=f"{wanted.name}: {arrow_type(wanted)}",
        hint=hint,
    )


def run_local(stages: Sequence[Stage], table: UnitTable) -> UnitTable:
    """Open the stages and run them one after the other in this process."""
    for stage in stages:
        table = stage.open()(table)
    return table


def columns_by_name(columns: Iterable[Column], *names: str) -> tuple[Column, ...]:
    """Pick declared columns by name, in the order asked for."""
    table: dict[str, Any] = {column.name: column for column in columns}
    return tuple(table[name] for name in names)
