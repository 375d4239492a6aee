"""Percentiles, tails and ranks against the distributions that they were made from."""

import numpy as np
import pytest
from scipy import stats

from models.scoring.calibration import (
    CLASSES,
    calibration_from_arrays,
    fit_calibration,
    fit_tail,
    tail_log10_p,
)
from models.scoring.ranking import rank


def calibrated(rows: int = 20_000, seed: int = 0):
    random = np.random.default_rng(seed)
    spectype = np.array(CLASSES[:3], object)[random.integers(0, 3, rows)]
    return fit_calibration({"score": random.exponential(2.0, rows)}, spectype, 500), spectype


def test_percentiles_of_the_calibration_population_are_uniform() -> None:
    calibration, _ = calibrated()
    fresh = np.random.default_rng(1).exponential(2.0, 5000)
    for index in range(len(CLASSES)):
        judged = calibration.judge("score", fresh, np.full(5000, index))
        assert stats.kstest(judged.percentile / 100, "uniform").pvalue > 0.01


def test_tail_probability_of_an_exponential_is_right_beyond_the_table() -> None:
    calibration, _ = calibrated()
    scores = 2.0 * np.log(10) * np.arange(1.0, 8.0)  # p = 0.1 ... 1e-7
    judged = calibration.judge("score", scores, np.full(7, 3))
    # The shape is uncertain by about 1/sqrt(400 exceedances): 10 % at 1e-4, 30 % of the exponent at 1e-7.
    np.testing.assert_allclose(judged.log10_p[:4], np.arange(1, 5), rtol=0.1)
    np.testing.assert_allclose(judged.log10_p[4:], np.arange(5, 8), rtol=0.3)
    assert judged.beyond.tolist() == [False] * 4 + [True] * 3


def test_heavy_tail_gets_its_shape_and_a_short_one_stays_open() -> None:
    random = np.random.default_rng(0)
    heavy = fit_tail(stats.genpareto.rvs(0.4, scale=2.0, size=50_000, random_state=random), 0.5)
    assert heavy.shape == pytest.approx(0.4, abs=0.05)
    truth = stats.genpareto.sf(100.0, 0.4, scale=2.0)
    assert tail_log10_p(heavy, np.array([100.0]))[0] == pytest.approx(-np.log10(truth), rel=0.05)
    short = fit_tail(random.uniform(size=50_000))
    assert short.shape == 0
    extremes = tail_log10_p(short, np.array([2.0, 3.0]))
    assert extremes[1] > extremes[0] > 4


def test_probability_never_falls_with_the_score() -> None:
    calibration, _ = calibrated(3000)
    scores = np.linspace(-1, 60, 20_001)
    judged = calibration.judge("score", scores, np.full(len(scores), 3))
    assert (np.diff(judged.log10_p) >= 0).all()
    assert (np.diff(judged.log10_p[scores > 12]) > 0).all()
    assert np.abs(np.diff(judged.log10_p)).max() < 0.1  # no step where the tail takes over


def test_small_or_unknown_class_falls_back_to_all() -> None:
    spectype = np.array(["GALAXY"] * 600 + ["QSO"] * 20, object)
    calibration = fit_calibration({"score": np.random.default_rng(0).random(620)}, spectype, 500)
    index, fallback = calibration.usable_classes(np.array(["GALAXY", "QSO", None, "COMET"], object))
    assert index.tolist() == [0, 3, 3, 3]
    assert fallback.tolist() == [False, True, True, True]


def test_nan_score_stays_nan_and_nan_rows_do_not_calibrate() -> None:
    scores = np.random.default_rng(0).random(600)
    scores[5] = np.nan
    calibration = fit_calibration({"score": scores}, np.full(600, "STAR", object), 10)
    assert calibration.counts[-1] == 599
    judged = calibration.judge("score", np.array([np.nan, 0.5]), np.array([3, 3]))
    assert np.isnan(judged.log10_p[0])
    assert np.isfinite(judged.log10_p[1])
    assert not judged.beyond[0]


def test_calibration_survives_storage_and_refuses_other_shapes() -> None:
    calibration, _ = calibrated(3000)
    arrays = calibration.arrays()
    again = calibration_from_arrays(("score",), arrays)
    scores = np.linspace(0, 30, 50)
    first, second = (c.judge("score", scores, np.full(50, 3)).log10_p for c in (calibration, again))
    np.testing.assert_allclose(first, second, rtol=1e-4)
    with pytest.raises(ValueError, match="calibration_quantiles"):
        calibration_from_arrays(("one", "two"), arrays)


def test_rank_takes_the_stronger_evidence() -> None:
    log10_p = {
        "on": np.array([1.0, 5.0, np.nan]),
        "a": np.array([2.0, 1.0, np.nan]),
        "b": np.array([3.0, 0.0, 4.0]),
    }
    ranked = rank(log10_p, ["on"], ["a", "b"])
    np.testing.assert_array_equal(ranked["off_manifold_score"], [3.0, 1.0, 4.0])
    np.testing.assert_array_equal(ranked["anomaly_score"], [3.0, 5.0, 4.0])
