import dataclasses
import itertools

import duckdb
import numpy as np
import pytest
from scipy import stats

from catalogs.spectral_anomaly import SPEC
from catalogs.statistics import (
    binomial_interval,
    flag_counts,
    histogram,
    latent_sample,
    outlier_rates,
    quantile,
    trend,
)

NUM_ROWS = 1000
TOY = dataclasses.replace(SPEC, latent="latent", score="score")


@pytest.fixture
def con():
    """A view as `open_catalog` makes it, with values that are easy to count."""
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE VIEW catalog AS SELECT CAST(2^60 AS BIGINT) + i AS targetid, 'main' AS survey, 'dark' AS program, "
            "CAST(i % 10 AS SMALLINT) AS petal, CAST(i AS FLOAT) AS score, CAST(i % 4 AS INTEGER) AS flags, "
            "CASE WHEN i % 3 = 0 THEN 'STAR' END AS spectype, "
            "CAST([i, CASE WHEN i = 5 THEN 'nan'::FLOAT ELSE 1 END] AS FLOAT[2]) AS latent "
            f"FROM range({NUM_ROWS}) r(i)"
        )
        yield connection


def test_histogram_counts_every_finite_value_once(con):
    counts = histogram(con, "score", 0, 500, 5)
    assert counts.edges.tolist() == [0, 100, 200, 300, 400, 500]
    assert counts.counts.tolist() == [100, 100, 100, 100, 600]  # what lies beyond is in the last bin


def test_histogram_leaves_out_what_is_not_finite(con):
    con.execute("CREATE OR REPLACE VIEW catalog AS SELECT unnest(['1', 'nan', 'inf', NULL])::FLOAT AS score")
    assert histogram(con, "score", 0, 2, 2).counts.tolist() == [0, 1]


def test_quantile_and_its_absence(con):
    assert quantile(con, "score", 1.0) == NUM_ROWS - 1
    assert quantile(con, "score", 0.99) == pytest.approx(989, abs=1)
    con.execute("CREATE OR REPLACE VIEW catalog AS SELECT 'nan'::FLOAT AS score")
    assert quantile(con, "score", 0.5) is None


def test_trend_is_that_of_numpy_in_each_bin(con):
    edges = np.array([0.0, 10.0, 15.0, 1000.0, 2000.0])
    found = trend(con, "score * score", "score", edges)
    x = np.arange(NUM_ROWS)
    for i, (low, high) in enumerate(itertools.pairwise(edges)):
        inside = x[(x >= low) & (x < high)].astype(float) ** 2
        assert found.counts[i] == len(inside)
        if len(inside):
            expected = np.quantile(inside, [0.16, 0.5, 0.84])
            np.testing.assert_allclose([found.low[i], found.median[i], found.high[i]], expected)
    assert np.isnan(found.median[3])


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


def test_rates_count_outliers_by_group(con):
    rates = outlier_rates(con, "petal", "score", 899.5)
    assert [rate.group for rate in rates] == list(range(10))
    assert all((rate.num_rows, rate.num_outliers) == (100, 10) for rate in rates)
    assert rates[0].rate == 0.1
    assert rates[0].low < 0.1 < rates[0].high
    assert rates[0].p_value == 1.0


def test_a_bad_group_stands_out_after_correction(con):
    con.execute(
        "CREATE OR REPLACE VIEW worse AS SELECT * REPLACE (IF(petal = 3, 1000, score) AS score) FROM catalog"
    )
    con.execute("CREATE TABLE copied AS FROM worse")
    con.execute("CREATE OR REPLACE VIEW catalog AS FROM copied")
    rates = outlier_rates(con, "petal", "score", 989)
    assert [rate.group for rate in rates if rate.p_value < 1e-10] == [3]


def test_rates_leave_out_null_groups(con):
    con.execute("CREATE TABLE copied AS SELECT * REPLACE (NULL::SMALLINT AS petal) FROM catalog")
    con.execute("CREATE OR REPLACE VIEW catalog AS FROM copied")
    assert outlier_rates(con, "petal", "score", 10) == ()


def test_sample_is_the_same_on_every_run_and_spread_over_the_rows(con):
    first, second = (latent_sample(con, TOY, 100, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.latent, second.latent)
    other = latent_sample(con, TOY, 100, seed=4)
    assert not np.array_equal(first.latent, other.latent)
    assert first.latent.shape == (100, 2)
    assert 400 < first.score.mean() < 600


def test_sample_leaves_out_latents_that_are_not_finite(con):
    sample = latent_sample(con, TOY, 2 * NUM_ROWS, seed=0)
    assert len(sample.latent) == len(sample.score) == len(sample.label) == NUM_ROWS - 1
    assert set(sample.label) == {"STAR", ""}


def test_flag_counts(con):
    assert flag_counts(con, [1, 2, 4]) == [500, 500, 0]
    assert flag_counts(con, []) == []
    con.execute("CREATE OR REPLACE VIEW catalog AS SELECT 1 AS flags WHERE false")
    assert flag_counts(con, [1]) == [0]
