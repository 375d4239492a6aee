import dataclasses
import itertools

import duckdb
import numpy as np
import pytest

from catalogs.spectral_anomaly import SPEC
from catalogs.statistics import (
    flag_counts,
    histogram,
    latent_sample,
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
