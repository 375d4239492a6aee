"""Rates of outliers by fibre, petal, tile and night: exact intervals, in SQL."""

import dataclasses

import duckdb
import numpy as np
import pytest
from scipy import stats

from catalogs import outliers
from catalogs.binomial import binomial_excess, binomial_interval
from catalogs.outliers import create_outlier_rates
from catalogs.query import open_catalog, run_query
from catalogs.spectral_anomaly import SPEC
from catalogs.statistics import outlier_rates
from engine.storage import Storage
from tests.catalogue import CatalogueMaker

TOY = dataclasses.replace(SPEC, score="score", groups=(("petal", "petal"), ("night", "night")))


def connection(
    score: str = "i", petal: str = "i % 10", night: str = "20240101 + i // 500"
) -> duckdb.DuckDBPyConnection:
    """Give 1,000 rows i, the highest scores last unless told otherwise."""
    con = duckdb.connect()
    con.execute(
        f"CREATE VIEW catalog AS SELECT CAST({petal} AS SMALLINT) AS petal, CAST({night} AS INTEGER) AS night, "
        f"CAST({score} AS FLOAT) AS score FROM range(1000) r(i)"
    )
    create_outlier_rates(con, TOY, frozenset(("petal", "night")))
    return con


def test_interval_agrees_with_scipys_exact_test():
    hits, trials = np.array([0, 1, 3, 50, 7]), np.array([10, 1000, 10, 50, 7])
    low, high = binomial_interval(hits, trials)
    for i, (k, n) in enumerate(zip(hits.tolist(), trials.tolist(), strict=True)):
        exact = stats.binomtest(k, n).proportion_ci(0.95, method="exact")
        assert (low[i], high[i]) == pytest.approx((exact.low, exact.high), abs=1e-12)


def test_interval_covers_at_least_as_often_as_promised():
    """Monte Carlo: exact intervals never cover less than 95 %."""
    rng = np.random.default_rng(1)
    for rate, trials in ((0.01, 200), (0.3, 25)):
        hits = rng.binomial(trials, rate, 4000)
        low, high = binomial_interval(hits, np.full(hits.shape, trials))
        assert ((low <= rate) & (rate <= high)).mean() > 0.95 - 0.01


def test_excess_is_the_tail_of_the_binomial():
    hits, trials = np.array([0, 1, 3, 50, 7, 200]), np.array([10, 1000, 10, 50, 70, 30_000])
    rate = np.array([0.1, 0.01, 0.5, 0.9, 0.02, 0.005])
    np.testing.assert_allclose(
        binomial_excess(hits, trials, rate), stats.binom.sf(hits - 1, trials, rate), rtol=1e-10
    )


def test_rates_count_outliers_by_group():
    with connection() as con:
        rates = outlier_rates(con, 0.1)
    assert list(rates) == ["night", "petal"]
    assert [rate.group for rate in rates["petal"]] == list(range(10))
    assert all((rate.num_rows, rate.num_outliers) == (100, 10) for rate in rates["petal"])
    assert rates["petal"][0].low < rates["petal"][0].rate < rates["petal"][0].high
    assert rates["petal"][0].p_value == 1.0
    first, second = rates["night"]
    assert (first.num_outliers, second.num_outliers, second.num_rows) == (0, 100, 500)
    assert (first.low, second.p_value < 1e-9) == (0.0, True)


def test_the_view_is_the_top_percent_with_scipys_numbers():
    with connection(score="hash(i) % 1000", petal="i % 7") as con:
        found = con.sql("FROM outlier_rates WHERE grouped_by = 'petal'").to_arrow_table().to_pylist()
    assert [row["member"] for row in found] == list(range(7))
    overall = sum(row["num_outliers"] for row in found) / 1000
    for row in found:
        test = stats.binomtest(row["num_outliers"], row["num_rows"], overall, "greater")
        interval = stats.binomtest(row["num_outliers"], row["num_rows"]).proportion_ci(0.95, "exact")
        assert (row["rate_low"], row["rate_high"]) == pytest.approx((interval.low, interval.high), abs=1e-12)
        assert row["p_value"] == pytest.approx(test.pvalue, rel=1e-9)
        assert row["p_corrected"] == pytest.approx(min(1, 7 * test.pvalue), rel=1e-9)
        assert row["rate"] == row["num_outliers"] / row["num_rows"]


def test_a_bad_group_stands_out_after_correction():
    with connection(score="IF(i % 10 = 3, 1000 + i, i)") as con:
        odd = con.sql("SELECT member FROM outlier_rates(0.02) WHERE is_significant AND grouped_by = 'petal'")
        assert odd.fetchall() == [(3,)]


def test_correction_counts_the_members():
    """The same excess is significant among ten petals, and not among a thousand fibres."""
    with connection(score="IF(i < 3, 2000, i)", petal="IF(i < 3, 0, i % 300 + 1)") as con:
        (row,) = con.sql("FROM outlier_rates(0.004) WHERE member = 0").to_arrow_table().to_pylist()
    assert row["num_outliers"] == 3
    assert row["p_corrected"] == pytest.approx(row["p_value"] * 301)


def test_null_members_and_scores_that_are_no_numbers_do_not_count():
    with connection(score="IF(i < 500, 'nan'::FLOAT, i)", petal="IF(i % 2 = 0, NULL, 1)") as con:
        found = con.sql("SELECT member, num_rows FROM outlier_rates WHERE grouped_by = 'petal'").fetchall()
    assert found == [(1, 250)]


def test_a_catalogue_without_groups_has_an_empty_view_of_the_same_columns():
    with duckdb.connect() as con:
        con.execute("CREATE VIEW catalog AS SELECT 1.0 AS score")
        create_outlier_rates(con, TOY, frozenset())
        table = con.sql("FROM outlier_rates").to_arrow_table()
    assert table.column_names == list(outliers.COLUMNS)
    assert table.num_rows == 0


def test_the_view_is_there_in_a_locked_connection(tmp_path):
    CatalogueMaker(str(tmp_path), Storage()).publish((400, 0))
    with open_catalog(str(tmp_path)) as con:
        table = run_query(
            con, "SELECT grouped_by, sum(num_rows) AS n FROM outlier_rates GROUP BY ALL"
        ).read_all()
        comment = run_query(
            con,
            "SELECT comment FROM duckdb_columns() WHERE table_name = 'outlier_rates' AND column_name = 'rate_low'",
        ).read_all()
    assert {row["grouped_by"]: int(row["n"]) for row in table.to_pylist()} == dict.fromkeys(
        ("petal", "fiber", "tileid", "night"), 400
    )
    assert "Clopper-Pearson" in comment["comment"][0].as_py()
