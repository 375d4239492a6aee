"""Percentiles within class and signal-to-noise."""

import numpy as np
import pytest

from models.scoring.calibration import CLASSES, fit_calibration
from models.scoring.snr_calibration import fit_snr_calibration, snr_calibration_from_arrays

NUM_BINS = 6


def normals(rows: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Scores that grow with S/N, as residuals do, and spread less with it, as latents do; few stars."""
    random = np.random.default_rng(seed)
    snr = np.exp(random.normal(1, 1, rows))
    labels = np.array(CLASSES[:3], object)[random.choice(3, rows, p=[0.7, 0.295, 0.005])]
    is_qso = labels == "QSO"
    scores = {
        "residual": random.gamma(3, 1 + 0.3 * snr * (1 + is_qso)),
        "latent": random.normal(is_qso, 1 + 2 / (1 + snr)),
    }
    return scores, labels, snr


def binomial_bound(rows: int, calibration_rows: int, sigmas: float = 4.0) -> float:
    """Spread of the fraction above the 99th percentile where the percentile is itself counted."""
    return sigmas * np.sqrt(0.01 * 0.99 * (1 / rows + 1 / calibration_rows))


@pytest.fixture(scope="module")
def fitted():
    return fit_snr_calibration(*normals(40_000, 1), NUM_BINS, 500)


def test_one_percent_lies_above_the_99th_percentile_in_every_bin(fitted) -> None:
    scores, labels, snr = normals(60_000, 2)
    place = fitted.place(labels, snr)
    seen = 0
    for name, values in scores.items():
        judged = fitted.tables.judge(name, values, place.group)
        for group in np.unique(place.group):
            rows = place.group == group
            if fitted.tables.classes[group].startswith("all"):
                continue  # stars, compared with everything
            bound = binomial_bound(rows.sum(), fitted.tables.counts[group])
            assert abs((judged.percentile[rows] > 99).mean() - 0.01) < bound, (name, group)
            assert abs((judged.percentile[rows] > 50).mean() - 0.5) < 5 * bound, (name, group)
            seen += 1
    assert seen == 2 * 2 * NUM_BINS


def test_without_bins_faint_objects_would_pass_for_strange_or_hide() -> None:
    scores, labels, snr = normals(40_000, 1)
    whole = fit_calibration(scores, labels, 500)
    fresh, labels, snr = normals(60_000, 2)
    classes, _ = whole.usable_classes(labels)
    faint = snr < np.quantile(snr, 1 / 6)
    for name, low, high in (("residual", 0, 0.002), ("latent", 0.02, 1)):
        fraction = (whole.judge(name, fresh[name], classes).percentile[faint] > 99).mean()
        assert low <= fraction <= high


def test_small_class_takes_the_bins_of_all_classes_and_says_so(fitted) -> None:
    labels = np.array(["GALAXY", "STAR", None, "COMET"], object)
    place = fitted.place(labels, np.full(4, np.e))
    names = [fitted.tables.classes[group] for group in place.group]
    assert names[0].startswith("GALAXY ")
    assert len(set(names[1:])) == 1
    assert names[1].startswith("all ")
    assert place.is_other_class.tolist() == [False, True, True, True]
    assert not place.is_other_snr.any()


def test_bins_hold_equally_many_and_snr_outside_takes_the_nearest(fitted) -> None:
    _, labels, snr = normals(40_000, 1)
    galaxies = fitted.tables.counts[:NUM_BINS]
    assert galaxies.sum() == (labels == "GALAXY").sum()
    assert galaxies.max() - galaxies.min() <= 2
    place = fitted.place(np.full(5, "GALAXY", object), np.array([1e-9, snr.min(), 3.0, 1e9, np.nan]))
    assert place.group[0] == 0
    assert place.group[3] == NUM_BINS - 1
    assert place.is_other_snr.tolist() == [True, False, False, True, True] or place.is_other_snr.tolist() == [
        True, True, False, True, True,
    ]  # fmt: skip  # the faintest object may be a quasar


def test_class_with_few_rows_has_fewer_bins_and_one_bin_is_flagged() -> None:
    random = np.random.default_rng(0)
    labels = np.array(["GALAXY"] * 1300 + ["QSO"] * 700 + ["STAR"] * 100, object)
    snr = random.uniform(1, 10, len(labels))
    fitted = fit_snr_calibration({"score": random.random(len(labels))}, labels, snr, NUM_BINS, 500)
    assert np.isfinite(fitted.edges).sum(1).tolist() == [3, 2, 0, 5]
    place = fitted.place(np.array(["GALAXY", "QSO", "STAR"], object), np.full(3, 5.0))
    assert place.is_other_snr.tolist() == [False, True, False]
    assert place.is_other_class.tolist() == [False, False, True]
    judged = fitted.tables.judge("score", np.full(3, 0.5), place.group)
    assert np.isfinite(judged.percentile).all()


def test_equal_snr_makes_one_bin() -> None:
    random = np.random.default_rng(0)
    labels, snr = np.full(4000, "QSO", object), np.ones(4000)
    fitted = fit_snr_calibration({"score": random.random(4000)}, labels, snr, NUM_BINS, 500)
    place = fitted.place(labels[:3], np.array([1.0, 0.5, 2.0]))
    assert np.isfinite(fitted.tables.judge("score", np.full(3, 0.5), place.group).percentile).all()


def test_score_that_is_unknown_for_some_is_calibrated_on_the_others() -> None:
    scores, labels, snr = normals(4000, 3)
    scores["latent"][::2] = np.nan
    fitted = fit_snr_calibration(scores, labels, snr, 2, 500)
    judged = fitted.tables.judge("latent", np.array([0.5, np.nan]), np.array([0, 0]))
    assert np.isfinite(judged.percentile[0])
    assert np.isnan(judged.percentile[1])


def test_too_few_normal_objects_are_refused() -> None:
    scores, labels, snr = normals(10, 0)
    with pytest.raises(ValueError, match=r"10 calibration rows are too few, need 11 .*hold out more"):
        fit_snr_calibration(scores, labels, snr, NUM_BINS, 500)


def test_calibration_survives_storage_and_refuses_other_shapes(fitted) -> None:
    arrays = fitted.arrays()
    again = snr_calibration_from_arrays(("residual", "latent"), arrays, NUM_BINS)
    scores, labels, snr = normals(500, 4)
    first, second = (c.place(labels, snr) for c in (fitted, again))
    assert (first.group == second.group).mean() > 0.99  # edges are kept in float32
    values = [c.tables.judge("residual", scores["residual"], first.group).log10_p for c in (fitted, again)]
    np.testing.assert_allclose(*values, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="calibration_snr_edges"):
        snr_calibration_from_arrays(("residual", "latent"), arrays, 3)
    with pytest.raises(ValueError, match="calibration_quantiles"):
        snr_calibration_from_arrays(("residual",), arrays, NUM_BINS)
