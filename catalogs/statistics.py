"""Numbers of the report, computed in DuckDB so that a catalogue of any size needs little memory."""
# ruff: noqa: S608 - column names come from declared schemas, values are parameters

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from catalogs.binomial import binomial_interval
from catalogs.spec import CatalogSpec, Choice, Classes


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts [N] between edges [N + 1]; values outside are in the first and last bin."""

    edges: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class Rate:
    """How often members of one group are outliers, and how surprising that is.

    Parameters
    ----------
    group
        Number of the tile, petal, fibre or night.
    num_rows, num_outliers
        Members, and outliers among them.
    low, high
        Clopper-Pearson interval of the rate at `catalogs.binomial.CONFIDENCE`.
    p_value
        Probability of as many outliers or more at the overall rate, times the number of groups (Bonferroni).
    """

    group: int
    num_rows: int
    num_outliers: int
    low: float
    high: float
    p_value: float

    @property
    def rate(self) -> float:
        """Fraction of outliers."""
        return self.num_outliers / self.num_rows


@dataclass(frozen=True, eq=False)
class Trend:
    """Quantiles of a column in bins of another: edges [N + 1]; counts, low (16 %), median, high (84 %) [N].

    NaN where a bin is empty.
    """

    edges: np.ndarray
    counts: np.ndarray
    low: np.ndarray
    median: np.ndarray
    high: np.ndarray


@dataclass(frozen=True, eq=False)
class Fractions:
    """Trusted rows of class 1 in bins: edges [N + 1]; hits, totals, and the interval of their ratio at `catalogs.binomial.CONFIDENCE` [N].

    `probability` is their mean probability, NaN where a bin is empty; `everything` counts rows that are not trusted too.
    The interval is of sampling only, not of misclassification.
    """

    edges: np.ndarray
    hits: np.ndarray
    totals: np.ndarray
    low: np.ndarray
    high: np.ndarray
    probability: np.ndarray
    everything: np.ndarray


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows for the map of latent space: latents [N, D], class and score [N]."""

    latent: np.ndarray
    label: np.ndarray
    score: np.ndarray


def histogram(
    con: duckdb.DuckDBPyConnection, column: str, low: float, high: float, bins: int, where: str = ""
) -> Histogram:
    """Count the finite values of a column of `catalog` in equal bins.

    Parameters
    ----------
    con
        Connection of `open_catalog`.
    column
        Numeric column; rows where it is not finite are left out.
    low, high
        First and last edge, in the column's unit; values beyond are counted in the first and last bin.
    bins
        How many, N of `Histogram`.
    where
        SQL condition on declared columns; empty: all rows.
    """
    edges = np.linspace(low, high, bins + 1)
    counts = np.zeros(bins, np.int64)
    sql = (
        f"SELECT CAST(greatest(0, least({bins - 1}, floor(({column} - $low) * {bins} / ($high - $low)))) AS INTEGER) "
        f"AS bin, count(*) AS num FROM catalog WHERE isfinite({column}){f' AND {where}' if where else ''} GROUP BY bin"
    )
    for row in _table(con, sql, low=low, high=high).to_pylist():
        counts[row["bin"]] = row["num"]
    return Histogram(edges, counts)


def trend(con: duckdb.DuckDBPyConnection, column: str, against: str, edges: np.ndarray) -> Trend:
    """Quantiles of the finite values of a column of `catalog` in bins of an expression.

    Parameters
    ----------
    con
        Connection of `open_catalog`.
    column
        Numeric column.
    against
        SQL expression of declared columns that the bins are of.
    edges
        Edges of the bins, increasing, [N + 1]; rows outside are left out.
    """
    values = np.full((3, len(edges) - 1), np.nan)
    counts = np.zeros(len(edges) - 1, np.int64)
    chosen = f"SELECT {column} AS y, {against} AS x FROM catalog WHERE isfinite({column})"
    sql = (
        "SELECT len(list_filter($edges::DOUBLE[], lambda e: e <= x)) - 1 AS bin, count(*) AS num, "
        "quantile_cont(y, [0.16, 0.5, 0.84]) AS q "
        f"FROM ({chosen}) WHERE x >= $low AND x < $high GROUP BY bin"
    )
    for row in _table(con, sql, edges=edges.tolist(), low=float(edges[0]), high=float(edges[-1])).to_pylist():
        counts[row["bin"]], values[:, row["bin"]] = row["num"], row["q"]
    return Trend(edges, counts, *values)


def quantile(con: duckdb.DuckDBPyConnection, column: str, fraction: float) -> float | None:
    """Value of `catalog` below which `fraction` of the finite values lie; None without any."""
    sql = f"SELECT quantile_disc({column}, $fraction) AS value FROM catalog WHERE isfinite({column})"
    value = _table(con, sql, fraction=fraction)["value"][0].as_py()
    return None if value is None else float(value)


def outlier_rates(con: duckdb.DuckDBPyConnection, fraction: float) -> dict[str, tuple[Rate, ...]]:
    """Rates of outliers of every group that the catalogue has, each in order of its members.

    Parameters
    ----------
    con
        Connection of `open_catalog`; its macro `outlier_rates` counts.
    fraction
        Rows with the highest scores that are outliers.
    """
    rates: dict[str, tuple[Rate, ...]] = {}
    columns = "member, num_rows, num_outliers, rate_low, rate_high, p_corrected"
    table = _table(con, f"SELECT grouped_by, {columns} FROM outlier_rates($fraction)", fraction=fraction)
    for group, *values in zip(*(table[name].to_pylist() for name in table.column_names), strict=True):
        rates[group] = (*rates.get(group, ()), Rate(*values))
    return rates


def latent_sample(con: duckdb.DuckDBPyConnection, spec: CatalogSpec, num_rows: int, seed: int) -> Sample:
    """Take rows of `catalog` that a hash of the key chooses: the same on every run.

    Parameters
    ----------
    con
        Connection of `open_catalog`.
    spec
        Which columns are the latent (of D elements), the class and the score; rows where latent or score is
        not finite are left out.
    num_rows
        At most so many.
    seed
        Of the hash.
    """
    table = _table(
        con,
        f"SELECT {spec.latent} AS latent, coalesce({spec.colour_by}, '') AS label, {spec.score} AS score "
        f"FROM catalog WHERE isfinite({spec.score}) "
        f"ORDER BY md5_number_lower(concat_ws('/', CAST($seed AS VARCHAR), {', '.join(spec.key)})) "
        f"LIMIT {num_rows}",
        seed=seed,
    )
    latents = np.array(table["latent"].to_pylist(), np.float32).reshape(table.num_rows, -1)
    is_finite = np.isfinite(latents).all(1)
    label = np.array(table["label"].to_pylist(), object)
    return Sample(latents[is_finite], label[is_finite], table["score"].to_numpy()[is_finite])


def chosen_rows(con: duckdb.DuckDBPyConnection, choice: Choice, num_rows: int) -> list[dict[str, Any]]:
    """Return rows with all columns but packed ones, their rank and `flag_names`, integers exact, in their order."""
    table = choice.rows.format(n=int(num_rows))
    described = _table(con, f"DESCRIBE SELECT * FROM {table}").to_pylist()
    names = ", ".join(row["column_name"] for row in described if row["column_type"] != "BLOB")
    return _table(con, f"SELECT {names}, flag_names(flags) AS flag_names FROM {table}").to_pylist()


def class_fractions(con: duckdb.DuckDBPyConnection, classes: Classes, edges: np.ndarray) -> Fractions:
    """Fraction of trusted rows that are predicted to be of class 1, and their mean probability, in bins of redshift.

    Parameters
    ----------
    con
        Connection of `open_catalog`.
    classes
        Columns; rows without redshift or prediction, or with a flag of `untrusted`, are left out.
    edges
        Of the bins, increasing, [N + 1].
    """
    hits, totals, everything = np.zeros((3, len(edges) - 1), np.int64)
    probability = np.full(len(edges) - 1, np.nan)
    rows = (
        f"SELECT {classes.redshift} AS x, {classes.predicted} AS c, {classes.probability} AS p, "
        f"flags & {classes.untrusted_bits} = 0 AS trusted FROM catalog"
    )
    sql = (
        "SELECT len(list_filter($edges::DOUBLE[], lambda e: e <= x)) - 1 AS bin, count(*) AS num, "
        "count_if(trusted) AS trusted, count_if(trusted AND c = 1) AS hits, avg(p) FILTER (trusted) AS p "
        f"FROM ({rows}) WHERE x >= $low AND x < $high AND c >= 0 GROUP BY bin"
    )
    for row in _table(con, sql, edges=edges.tolist(), low=float(edges[0]), high=float(edges[-1])).to_pylist():
        at = row["bin"]
        hits[at], totals[at], everything[at] = int(row["hits"]), int(row["trusted"]), row["num"]
        probability[at] = np.nan if row["p"] is None else row["p"]
    low, high = binomial_interval(hits, np.maximum(totals, 1))
    return Fractions(edges, hits, totals, low, high, probability, everything)


def confusion(con: duckdb.DuckDBPyConnection, classes: Classes) -> np.ndarray:
    """Count rows by given (first index) and predicted class, int64 [2, 2]."""
    counts = np.zeros((2, 2), np.int64)
    label, predicted = classes.label, classes.predicted
    sql = (
        f"SELECT {label} AS given, {predicted} AS found, count(*) AS num FROM catalog "
        f"WHERE {label} IN (0, 1) AND {predicted} IN (0, 1) GROUP BY ALL"
    )
    for row in _table(con, sql).to_pylist():
        counts[row["given"], row["found"]] = row["num"]
    return counts


def labelled(con: duckdb.DuckDBPyConnection, classes: Classes) -> tuple[np.ndarray, np.ndarray]:
    """Probability float64 and class bool of all rows that have both, [N] each."""
    sql = (
        f"SELECT {classes.probability} AS p, {classes.label} AS given FROM catalog "
        f"WHERE isfinite({classes.probability}) AND {classes.label} IN (0, 1)"
    )
    table = _table(con, sql)
    return table["p"].to_numpy().astype(np.float64), table["given"].to_numpy() == 1


def flag_counts(con: duckdb.DuckDBPyConnection, flags: Sequence[int]) -> list[int]:
    """Count the rows of `catalog` that have each flag value."""
    if not flags:
        return []
    counts = ", ".join(f"count_if(flags & {value} != 0) AS n{value}" for value in flags)
    row = _table(con, f"SELECT {counts} FROM catalog").to_pylist()[0]
    return [int(count or 0) for count in row.values()]  # DuckDB counts in HUGEINT, Arrow's decimal


def _table(con: duckdb.DuckDBPyConnection, sql: str, **values: object) -> pa.Table:
    return con.sql(sql, params=values).to_arrow_table()
