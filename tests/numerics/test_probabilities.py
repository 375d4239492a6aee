"""Calibration of probabilities against closed forms, scikit-learn, and samples whose probabilities are known."""

import numpy as np
import pytest
from sklearn import metrics

from models.scoring.probabilities import (
    TEMPERATURE_RANGE,
    auroc,
    brier_score,
    calibration_error,
    cross_fitted,
    fit_temperature,
    halves,
    negative_log_likelihood,
    reliability,
    sigmoid,
)


def sample(num: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and outcomes drawn with just these probabilities."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, num)
    return logits, (rng.random(num) < sigmoid(logits)).astype(np.int8)


def test_sigmoid_has_no_overflow_and_keeps_nan() -> None:
    found = sigmoid(np.array([-1e6, 0, np.log(3), 1e6, np.nan]))
    np.testing.assert_allclose(found, [0, 0.5, 0.75, 1, np.nan])


def test_temperature_of_one_logit_is_that_of_the_observed_odds() -> None:
    # All logits are +-3 and right three times in four: sigmoid(3 / T) = 3 / 4, so T = 3 / log 3.
    logits = np.repeat([3.0, -3.0], 8)
    outcome = np.array([1, 1, 1, 0] * 2 + [0, 0, 0, 1] * 2)
    assert fit_temperature(logits, outcome) == pytest.approx(3 / np.log(3), rel=1e-12)


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_temperature_undoes_a_factor_on_the_logits(factor: float) -> None:
    logits, outcome = sample()
    alone = fit_temperature(logits, outcome)
    assert alone == pytest.approx(1, abs=0.1)
    assert fit_temperature(factor * logits, outcome) == pytest.approx(factor * alone, rel=1e-9)


def test_temperature_is_where_the_likelihood_is_largest() -> None:
    logits, outcome = sample(300, 1)
    best = fit_temperature(3 * logits, outcome)
    at_best = negative_log_likelihood(3 * logits / best, outcome)
    grid = [negative_log_likelihood(3 * logits / t, outcome) for t in np.geomspace(0.1, 50, 400)]
    assert at_best <= min(grid)
    assert at_best == pytest.approx(metrics.log_loss(outcome, sigmoid(3 * logits / best)), rel=1e-9)


def test_temperature_ends_where_there_is_no_optimum() -> None:
    apart = np.array([-2.0, -1.0, 1.0, 2.0])
    assert fit_temperature(apart, np.array([0, 0, 1, 1])) == pytest.approx(TEMPERATURE_RANGE[0])
    assert fit_temperature(apart, np.array([1, 1, 0, 0])) == pytest.approx(TEMPERATURE_RANGE[1])


@pytest.mark.parametrize("outcome", [[1, 1], [0, 0], [], [0, 1, 2], [0, 1, -1]])
def test_outcomes_of_one_class_or_other_numbers_are_refused(outcome: list[int]) -> None:
    with pytest.raises(ValueError, match="must be 0 and 1, some of each"):
        fit_temperature(np.ones(len(outcome)), np.array(outcome))


def test_reliability_counts_what_lies_in_each_bin() -> None:
    probability = np.array([0.0, 0.1, 0.2, 0.5, 0.50001, 1.0])
    outcome = np.array([0, 1, 0, 1, 1, 1])
    table = reliability(probability, outcome, 4)
    np.testing.assert_array_equal(table[:, 0], [3, 1, 1, 1])
    np.testing.assert_allclose(table[:, 1], [0.1, 0.5, 0.50001, 1.0])
    np.testing.assert_allclose(table[:, 2], [1 / 3, 1, 1, 1])
    assert np.isnan(reliability(probability, outcome, 15)[5, 1:]).all()


def test_calibration_error_of_a_known_table() -> None:
    # 8 objects at 0.9 of which 6 are of class 1, 2 at 0.2 of which none: (8 * 0.15 + 2 * 0.2) / 10.
    probability = np.repeat([0.9, 0.2], [8, 2])
    outcome = np.repeat([1, 0], [6, 4])
    table = reliability(probability, outcome, 15)
    assert calibration_error(table) == pytest.approx((8 * 0.15 + 2 * 0.2) / 10)


def test_true_probabilities_have_the_error_of_counting_alone() -> None:
    logits, outcome = sample(20_000, 2)
    honest = calibration_error(reliability(sigmoid(logits), outcome))
    certain = calibration_error(reliability(sigmoid(3 * logits), outcome))
    # Mean |binomial deviation| over 15 bins: about sqrt(2 / pi) sqrt(15 p (1 - p) / N) = 0.009.
    assert honest < 0.012
    assert certain > 0.08


def test_brier_and_auroc_agree_with_scikit_learn() -> None:
    logits, outcome = sample(500, 3)
    coarse = np.round(logits)  # with ties
    assert brier_score(sigmoid(logits), outcome) == pytest.approx(
        metrics.brier_score_loss(outcome, sigmoid(logits))
    )
    for score in (logits, coarse):
        assert auroc(score, outcome) == pytest.approx(metrics.roc_auc_score(outcome, score))


def test_brier_and_auroc_at_their_ends() -> None:
    outcome = np.array([0, 0, 1, 1])
    assert brier_score(outcome, outcome) == 0
    assert brier_score(np.full(4, 0.5), outcome) == 0.25
    assert auroc(outcome, outcome) == 1
    assert auroc(-outcome, outcome) == 0
    assert auroc(np.zeros(4), outcome) == 0.5
    assert np.isnan(auroc(outcome, np.ones(4)))


def test_halves_depend_on_keys_alone_and_have_both_classes() -> None:
    rng = np.random.default_rng(0)
    key, outcome = rng.permutation(21), np.repeat([0, 1], [14, 7])
    half, order = halves(key, outcome), rng.permutation(21)
    np.testing.assert_array_equal(halves(key[order], outcome[order]), half[order])
    for value, counts in ((0, [7, 7]), (1, [4, 3])):
        assert np.bincount(half[outcome == value]).tolist() == counts
    with pytest.raises(ValueError, match="class 1 has 1 object, must have at least 2"):
        halves(key[:15], outcome[:15])


def test_cross_fitted_probabilities_are_at_the_temperature_of_the_other_half() -> None:
    logits, outcome = sample()
    half = halves(np.arange(len(logits)), outcome)
    logits = np.where(half == 1, 3 * logits, logits)  # three times too certain
    probability, temperatures = cross_fitted(logits, outcome, half)
    np.testing.assert_allclose(temperatures, [1, 3], rtol=0.1)
    np.testing.assert_allclose(probability[half == 0], sigmoid(logits[half == 0] / temperatures[1]))
    np.testing.assert_allclose(probability[half == 1], sigmoid(logits[half == 1] / temperatures[0]))
