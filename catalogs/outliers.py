"""Outlier rates by fibre, petal, tile and night as SQL: the list that tells an instrument's fault from a discovery.

`outlier_rates(fraction)` is a table macro, computed when it is read; the view `outlier_rates` is the top 1 %.
A coadd has several exposures: tile and fibre are those of the first, the night is that of the last.
Intervals and probabilities are exact (`catalogs.binomial`), by functions that the connection registers.
"""
# ruff: noqa: S608 - names come from declared columns

from collections.abc import Callable
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from duckdb.func import PythonUDFType

from catalogs.binomial import binomial_excess, binomial_interval
from catalogs.spec import CatalogSpec
from catalogs.sql import sql_name, sql_text

VIEW = "outlier_rates"
DEFAULT_FRACTION = 0.01
"""Rows of the catalogue that the view calls outliers."""

SIGNIFICANT = 0.01
"""Members whose corrected probability is below this are pointed out."""

COLUMNS = {
    "grouped_by": ("VARCHAR", "What the rows are grouped by: fiber, petal, tileid or night"),
    "member": ("BIGINT", "Number of the fibre, petal or tile of the first exposure, or night of the last"),
    "num_rows": ("BIGINT", "Rows of the member with a score"),
    "num_outliers": ("BIGINT", "Rows of them among the highest scores of the catalogue"),
    "rate": ("DOUBLE", "num_outliers / num_rows"),
    "rate_low": ("DOUBLE", "Lower end of the exact (Clopper-Pearson) 95 % interval of the rate"),
    "rate_high": ("DOUBLE", "Upper end of it"),
    "p_value": ("DOUBLE", "Probability of as many outliers or more at the rate of all rows"),
    "p_corrected": ("DOUBLE", "p_value times the number of members of the group, at most 1 (Bonferroni)"),
    "is_significant": ("BOOLEAN", f"Whether p_corrected is below {SIGNIFICANT}"),
}
"""Of the view and of the macro: SQL type and meaning."""


def create_outlier_rates(con: duckdb.DuckDBPyConnection, spec: CatalogSpec, names: frozenset[str]) -> None:
    """Make the macro and the view of a catalogue that `catalog` is a view of.

    Parameters
    ----------
    con
        Connection that is not locked yet.
    spec
        Says which columns group rows, and which is the score.
    names
        Columns that the catalogue has; a group that it has not is left out. Without any there are no rows.
    """
    groups = [column for column, _ in spec.groups if column in names]
    _register(con)
    con.execute(f"CREATE MACRO {VIEW}(fraction) AS TABLE {_rates(groups, spec.score) if groups else _none()}")
    con.execute(f"CREATE VIEW {VIEW} AS SELECT * FROM {VIEW}({DEFAULT_FRACTION})")
    for name, (_, comment) in COLUMNS.items():
        con.execute(f"COMMENT ON COLUMN {VIEW}.{sql_name(name)} IS {sql_text(comment)}")


def _rates(groups: list[str], score: str) -> str:
    """One pass over the catalogue for all groups; a null names no member, so it is told from a total by `grouping`."""
    sets = ", ".join(f"({sql_name(name)})" for name in groups)
    kind = " ".join(f"WHEN grouping({sql_name(name)}) = 0 THEN {sql_text(name)}" for name in groups)
    member = ", ".join(f"CAST({sql_name(name)} AS BIGINT)" for name in groups)
    columns = ", ".join(map(sql_name, (score, *groups)))
    return f"""
        WITH scored AS (SELECT {columns} FROM catalog WHERE isfinite({score})),
        threshold AS (SELECT quantile_disc({score}, 1 - fraction) AS lowest FROM scored),
        counted AS (
            SELECT CASE {kind} END AS grouped_by, coalesce({member}) AS member, count(*) AS num_rows,
                CAST(count_if({score} > lowest) AS BIGINT) AS num_outliers
            FROM scored, threshold GROUP BY GROUPING SETS ({sets})
        ),
        members AS (
            SELECT *, sum(num_outliers) OVER kind / sum(num_rows) OVER kind AS overall, count(*) OVER kind AS num_members
            FROM counted WHERE member IS NOT NULL WINDOW kind AS (PARTITION BY grouped_by)
        ),
        tested AS (
            SELECT *, binomial_excess(num_outliers, num_rows, overall) AS p_value FROM members
        )
        SELECT grouped_by, member, num_rows, num_outliers, num_outliers / num_rows AS rate,
            binomial_low(num_outliers, num_rows) AS rate_low, binomial_high(num_outliers, num_rows) AS rate_high,
            p_value, least(1.0, p_value * num_members) AS p_corrected, p_corrected < {SIGNIFICANT} AS is_significant
        FROM tested ORDER BY grouped_by, member
    """


def _none() -> str:
    columns = ", ".join(f"CAST(NULL AS {kind}) AS {sql_name(name)}" for name, (kind, _) in COLUMNS.items())
    return f"SELECT {columns} WHERE fraction IS NULL AND false"


def _register(con: duckdb.DuckDBPyConnection) -> None:
    functions: dict[str, tuple[Callable[..., pa.Array], list[Any]]] = {
        "binomial_low": (lambda hits, trials: _array(binomial_interval(*_numbers(hits, trials))[0]), ["BIGINT"] * 2),
        "binomial_high": (lambda hits, trials: _array(binomial_interval(*_numbers(hits, trials))[1]), ["BIGINT"] * 2),
        "binomial_excess": (
            lambda hits, trials, rate: _array(binomial_excess(*_numbers(hits, trials, rate))),
            ["BIGINT", "BIGINT", "DOUBLE"],
        ),
    }  # fmt: skip
    for name, (function, types) in functions.items():
        con.create_function(name, function, types, "DOUBLE", type=PythonUDFType.ARROW)


def _numbers(*columns: pa.ChunkedArray) -> tuple[np.ndarray, ...]:
    return tuple(column.to_numpy() for column in columns)


def _array(values: np.ndarray) -> pa.Array:
    return pa.array(values, pa.float64())
