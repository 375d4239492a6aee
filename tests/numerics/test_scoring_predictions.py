"""What the predictor says of spectra that a known decoder made: uniform percentiles, named windows and neighbours."""

import numpy as np
import pytest
from scipy import stats

from engine.flags import BEYOND_CALIBRATION, CLASS_FALLBACK, LOW_COVERAGE, NOT_SCORED
from models.scoring.spectral import Scorer, columns, fit, fit_kind, predictor
from tests.knowndecoder import CPU, D, KnownDecoder, L, config, drawn, spectra


def test_predictor_finds_an_injected_line_and_where_it_is() -> None:
    model, settings = KnownDecoder(), config(num_reference=300, min_class_rows=100)
    scorer = Scorer(settings, model, CPU)
    random = np.random.default_rng(0)

    def normal(rows: int) -> dict[str, np.ndarray]:
        flux = model.offset.numpy() + random.normal(size=(rows, L)) * np.sqrt(model.sigma.numpy() ** 2 + 0.01)
        ivar = np.full((rows, L), 100.0, np.float32)
        return {"flux": flux.astype(np.float32), "ivar": ivar, "spectype": np.full(rows, "STAR", object)}

    predict = predictor(settings, scorer, fit(settings, scorer, [normal(400)], [normal(2000)], 1), 1)
    batch = normal(500)
    batch["flux"][7, 100:110] += 3.0
    batch["ivar"][8, 60:] = 0
    batch["spectype"][9] = None
    out = predict(batch)
    assert out["anomaly_score"].argmax() == 7
    assert (out["worst_wave_min"][7], out["worst_wave_max"][7]) == pytest.approx((3650.8, 3702.0))
    assert out["flags"][7] & BEYOND_CALIBRATION.value
    assert out["flags"][8] & LOW_COVERAGE.value
    assert out["flags"][9] & CLASS_FALLBACK.value
    assert out["flags"][7] & (LOW_COVERAGE.value | CLASS_FALLBACK.value) == 0
    normals = np.arange(500) > 9
    uniform = out["reduced_chi2_percentile"][normals] / 100
    assert stats.kstest(uniform, "uniform").pvalue > 0.01


@pytest.fixture(scope="module")
def known():
    """A scorer whose decoder is known, every score on, fitted."""
    everything = ("latent_lof", "latent_forest", "latent_log_density", "residual_log_density")
    settings = config(
        num_reference=300,
        num_density=400,
        lof_neighbours=20,
        num_trees=10,
        min_class_rows=200,
        optional_scores=everything,
    )
    model = KnownDecoder()
    scorer = Scorer(settings, model, CPU)
    fitted = fit(settings, scorer, [drawn(model, 400, 1)], [drawn(model, 2000, 2)], 1)
    return settings, model, scorer, fitted


def test_every_score_of_normal_objects_is_uniform_between_0_and_100(known) -> None:
    settings, model, scorer, fitted = known
    out = predictor(settings, scorer, fitted, 1)(drawn(model, 1000, 3))
    assert {c.name for c in columns(D, settings.scoring)} == set(out) - {"flags"}
    for name in settings.scoring.scores:
        percentile = out[f"{name}_percentile"]
        assert stats.kstest(percentile / 100, "uniform").statistic < 0.08, (
            name
        )  # 1000 rows against 2000 in 6 bins
        np.testing.assert_allclose(out[f"{name}_p_value"], 1 - percentile / 100, atol=1e-6)


def test_nearest_normal_objects_are_named(known) -> None:
    settings, model, scorer, fitted = known
    reference = drawn(model, 400, 1)
    out = predictor(settings, scorer, fitted, 1)(drawn(model, 30, 5))
    names = {int(name): row for row, name in enumerate(reference["targetid"])}
    latents = scorer.latent_mean(reference["flux"], reference["ivar"])
    for row in range(30):
        rows = [names[int(name)] for name in out["neighbour_id"][row]]
        distance = np.linalg.norm(latents[rows] - out["latent_mean"][row], axis=1)
        np.testing.assert_allclose(out["neighbour_distance"][row], distance, rtol=1e-4)
        assert (np.diff(distance) >= 0).all()
    np.testing.assert_array_equal(out["neighbour_class_fraction"], 1)
    batch = drawn(model, 2, 5)
    batch["spectype"] = np.array(["QSO", None], object)
    fraction = predictor(settings, scorer, fitted, 1)(batch)["neighbour_class_fraction"]
    assert fraction[0] == 0
    assert np.isnan(fraction[1])


def test_worst_windows_are_named_in_order(known) -> None:
    settings, model, scorer, fitted = known
    batch = drawn(model, 3, 6)
    batch["flux"][0, 70:75] += 5
    batch["flux"][0, 195:198] += 9
    batch["ivar"][1, 64:] = 0
    batch["ivar"][2] = 0
    out = predictor(settings, scorer, fitted, 1)(batch)
    edges = settings.wave_edges
    np.testing.assert_allclose(out["window_wave_min"][0, :2], edges[[3, 1]], rtol=1e-6)
    np.testing.assert_allclose(out["window_wave_max"][0, :2], edges[[4, 2]], rtol=1e-6)
    assert out["worst_wave_min"][0] == out["window_wave_min"][0, 0]
    assert (np.diff(out["window_sigma"][0]) <= 0).all()
    assert np.isfinite(out["window_sigma"][1]).tolist() == [True, False, False]
    assert np.isnan(out["window_wave_min"][2]).all()


def test_ranking_by_a_score_that_is_too_low(known) -> None:
    _, model, _, _ = known
    settings = config(
        num_reference=300, min_class_rows=500, optional_scores=(), on_manifold=("latent_distance",),
        off_manifold=("-reduced_chi2",),
    )  # fmt: skip
    scorer = Scorer(settings, model, CPU)
    fitted = fit(settings, scorer, [drawn(model, 400, 1)], [drawn(model, 1000, 2)], 1)
    batch = drawn(model, 300, 3)
    batch["flux"][7] = model.offset.numpy() + 0.2 * (batch["flux"][7] - model.offset.numpy())
    out = predictor(settings, scorer, fitted, 1)(batch)
    assert out["off_manifold_score"].argmax() == out["reduced_chi2"].argmin() == 7
    assert out["reduced_chi2_percentile"][7] < 1


def test_latents_that_are_not_numbers_stop_a_fit_and_leave_a_spectrum_without_a_score(known) -> None:
    settings, model, scorer, fitted = known
    batch = drawn(model, 4, 7)
    batch["flux"][2, 0] = np.nan
    out = predictor(settings, scorer, fitted, 1)(batch)
    assert np.isfinite(out["anomaly_score"]).tolist() == [True, True, False, True]
    assert [bool(flags & NOT_SCORED.value) for flags in out["flags"]] == [False, False, True, False]
    assert (out["neighbour_id"][2] == -1).all()
    assert np.isnan(out["latent_lof"][2])
    reference = drawn(model, 400, 1)
    reference["flux"][5, 1] = np.nan
    with pytest.raises(ValueError, match=r"latents or residuals of 1 of 400 .* id 1000000000005"):
        fit(settings, scorer, [reference], [batch], 1)


def test_what_was_not_fitted_is_named(known) -> None:
    settings, _, scorer, fitted = known
    for name in fitted:
        with pytest.raises(ValueError, match=f"{name}: got nothing.*fit the scores anew"):
            predictor(settings, scorer, {k: v for k, v in fitted.items() if k != name}, 1)


def test_guess_of_the_kind_is_learned_from_injections(known) -> None:
    settings, model, scorer, fitted = known

    def injected(seed: int) -> dict[str, np.ndarray]:
        batch = drawn(model, 300, seed)
        is_artefact = np.arange(300) % 2 == 0
        batch["flux"][is_artefact, 20:25] += 4
        batch["flux"][~is_artefact, 150:190] += 1
        return batch | {"is_artefact": is_artefact}

    arrays = fit_kind(settings, scorer, fitted, [injected(8)], 1)
    fresh = injected(9)
    guessed = predictor(settings, scorer, fitted | arrays, 1)(fresh)["artefact_probability"]
    assert ((guessed > 0.5) == fresh["is_artefact"]).mean() > 0.95
    assert np.isnan(predictor(settings, scorer, fitted, 1)(fresh)["artefact_probability"]).all()


def test_too_few_normal_objects_are_refused(known) -> None:
    settings, model, scorer, _ = known
    with pytest.raises(ValueError, match="8 calibration rows are too few, need 11"):
        fit(settings, scorer, [drawn(model, 400, 1)], [drawn(model, 8, 2)], 1)
    with pytest.raises(ValueError, match="reference has 15 rows, need more than num_neighbours = 20"):
        fit(settings, scorer, [drawn(model, 15, 1)], [drawn(model, 100, 2)], 1)


def test_fitting_without_rows_is_refused() -> None:
    scorer = Scorer(config(), KnownDecoder(), CPU)
    flux, ivar = spectra(20)
    batch = {"flux": flux, "ivar": ivar, "spectype": np.full(20, None, object)}
    with pytest.raises(ValueError, match="reference has 0 rows"):
        fit(config(), scorer, [], [batch], 1)
    with pytest.raises(ValueError, match="held_out has no rows"):
        fit(config(), scorer, [batch], [], 1)
