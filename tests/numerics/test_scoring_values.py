"""Scores against closed forms and independent implementations."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial import cKDTree

from engine.flags import BEYOND_CALIBRATION, CLASS_FALLBACK, LOW_COVERAGE, NOT_SCORED
from models.scoring.calibration import (
    CLASSES,
    calibration_from_arrays,
    fit_calibration,
    fit_tail,
    tail_log10_p,
)
from models.scoring.isolation import Neighbours
from models.scoring.ranking import rank
from models.scoring.reconstruction import Scatter, antithetic_normal, window_significance, window_sum
from models.scoring.spectral import Scorer, ScoringConfig, columns, fit, fit_kind, predictor
from models.spectral_vae_config import SpectralVAEConfig

L, D = 200, 2
CPU = torch.device("cpu")


class KnownDecoder:
    """Linear decoder and fixed posterior: everything about it is known."""

    def __init__(self, slope: float = 0.0, sigma: float = 0.3, posterior: float = 0.5) -> None:
        random = np.random.default_rng(3)
        self.offset = torch.tensor(random.normal(1, 0.2, L), dtype=torch.float32)
        self.slopes = slope * torch.tensor(random.normal(size=(D, L)), dtype=torch.float32)
        self.sigma = torch.tensor(sigma * random.uniform(0.5, 1.5, L), dtype=torch.float32)
        self.posterior = posterior

    def encode(self, flux, ivar):
        mean = flux[:, :D] - 1
        return mean, torch.full_like(mean, 2 * np.log(self.posterior))

    def decode(self, latent):
        tilt = torch.linspace(-0.2, 0.3, 4).expand(len(latent), 4)  # moved from the pixels to the windows
        pixel = 2 * self.sigma.log() - tilt[0].repeat_interleave(64)[:L]
        return self.offset + latent @ self.slopes, Scatter(tilt, pixel)


def config(**scoring) -> SpectralVAEConfig:
    return SpectralVAEConfig(
        num_pixels=L, num_latent=D, wave_max_angstrom=3759.2, scoring=ScoringConfig(**scoring)
    )


def spectra(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    ivar = random.uniform(1, 100, (rows, L)) * (random.random((rows, L)) > 0.2)
    return random.normal(1, 0.4, (rows, L)).astype(np.float32), ivar.astype(np.float32)


def test_scores_of_a_known_decoder_equal_scipy() -> None:
    model = KnownDecoder()
    flux, ivar = spectra(6)
    raw = Scorer(config(), model, CPU)(flux, ivar)
    mean, sigma = model.offset.numpy(), model.sigma.numpy()
    weights = ivar / ivar.sum(1, keepdims=True)
    with np.errstate(divide="ignore"):
        total = np.sqrt(sigma**2 + 1 / ivar)
    good = ivar > 0
    variant_a = (weights * stats.norm.logpdf(flux, mean, sigma)).sum(1)
    density = np.where(good, stats.norm.logpdf(flux, mean, np.where(good, total, 1)), 0)
    chi2 = np.where(good, ((flux - mean) / total) ** 2, 0)
    np.testing.assert_allclose(raw["log_wrp"], variant_a, rtol=1e-5)
    np.testing.assert_allclose(raw["log_likelihood"], density.sum(1) / good.sum(1), rtol=1e-5)
    np.testing.assert_allclose(raw["weighted_mse"], (weights * (flux - mean) ** 2).sum(1), rtol=1e-5)
    np.testing.assert_allclose(raw["reduced_chi2"], chi2.sum(1) / good.sum(1), rtol=1e-5)


def test_monte_carlo_average_nears_the_closed_form_of_a_linear_decoder() -> None:
    # E_q[(x - mu(z))^2] = (x - mu(m))^2 + posterior^2 |slope|^2 for each pixel.
    model = KnownDecoder(slope=0.2)
    flux, ivar = spectra(4)
    raw = Scorer(config(num_draws=4000), model, CPU)(flux, ivar)
    recon = (model.offset + torch.tensor(flux[:, :D] - 1) @ model.slopes).numpy()
    spread = model.posterior**2 * model.slopes.square().sum(0).numpy()
    sigma2 = model.sigma.square().numpy()
    density = -0.5 * (((flux - recon) ** 2 + spread) / sigma2 + np.log(2 * np.pi * sigma2))
    wanted = (ivar * density).sum(1) / ivar.sum(1)
    np.testing.assert_allclose(raw["log_wrp"], wanted, rtol=0.02)


def test_antithetic_pair_has_no_first_order_error() -> None:
    draws = antithetic_normal(6, 5, seed=1)
    torch.testing.assert_close(draws.sum(0), torch.zeros(5))
    torch.testing.assert_close(antithetic_normal(6, 5, seed=1), draws)
    with pytest.raises(ValueError, match="num_draws is 3"):
        antithetic_normal(3, 5, seed=1)


def test_worst_window_finds_a_local_excess_and_ignores_masked_windows() -> None:
    chi2 = torch.ones(2, L)
    chi2[0, 130] = 60.0
    chi2[1] = 0
    good = torch.ones(2, L)
    good[1] = 0
    good[0, :64], chi2[0, :64] = 0, 0
    significance = window_significance(window_sum(chi2, 64), window_sum(good, 64))
    value, index = significance[0].max(0)
    assert index == 2
    assert value == pytest.approx(59 / np.sqrt(128))
    assert torch.isneginf(significance[0, 0])
    assert torch.isneginf(significance[1]).all()


@pytest.mark.parametrize("rows", [5, 300])
def test_neighbour_distance_equals_a_tree(rows: int) -> None:
    random = np.random.default_rng(0)
    reference, queries = random.normal(size=(1000, 8)), random.normal(size=(rows, 8))
    found = Neighbours(reference.astype(np.float32), 10).mean_distance(queries.astype(np.float32))
    wanted = cKDTree(reference).query(queries, 10)[0].mean(1)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_an_object_is_not_its_own_neighbour() -> None:
    reference = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32) * 100
    found = Neighbours(reference, 10).mean_distance(reference + np.float32(1e-6))
    wanted = cKDTree(reference).query(reference, 11)[0][:, 1:].mean(1)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_too_small_a_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="10 reference latents are too few for 10"):
        Neighbours(np.zeros((10, 2), np.float32), 10)


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


def drawn(model: KnownDecoder, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Spectra that the decoder and the noise made."""
    random = np.random.default_rng(seed)
    flux = model.offset.numpy() + random.normal(size=(rows, L)) * np.sqrt(model.sigma.numpy() ** 2 + 0.01)
    ivar = np.full((rows, L), 100.0, np.float32)
    return {
        "flux": flux.astype(np.float32), "ivar": ivar, "spectype": np.full(rows, "STAR", object),
        "z": np.zeros(rows), "targetid": np.arange(rows) + 10**12 * seed,
    }  # fmt: skip


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


def test_coherent_residual_is_the_sum_of_standardised_residuals() -> None:
    model = KnownDecoder()
    flux, ivar = spectra(5)
    raw = Scorer(config(), model, CPU)(flux, ivar)
    with np.errstate(divide="ignore"):
        noise = np.sqrt(model.sigma.numpy() ** 2 + 1 / ivar)
    sums = np.add.reduceat((flux - model.offset.numpy()) / noise, range(0, L, 64), axis=1)
    good = np.add.reduceat(ivar > 0, range(0, L, 64), axis=1, dtype=float)
    np.testing.assert_allclose(raw["coherent"], sums / np.sqrt(good), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(raw["coherent_sigma"], np.abs(raw["coherent"]).max(1))


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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_draws": 3}, "num_draws is 3"),
        ({"num_neighbours": 0}, "num_neighbours is 0"),
        ({"num_reference": 10}, "num_reference 10 must exceed"),
        ({"off_manifold": ("loss",)}, "off_manifold"),
        ({"on_manifold": ()}, "on_manifold"),
        ({"on_manifold": ("latent_lof",)}, "on_manifold .*latent_lof.* must be some of"),
        ({"optional_scores": ("latent_knn",)}, "optional_scores .*latent_knn"),
        ({"num_snr_bins": 0}, "num_snr_bins is 0"),
    ],
)
def test_bad_scoring_settings_are_refused_by_name(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScoringConfig(**settings)


def test_fitting_without_rows_is_refused() -> None:
    scorer = Scorer(config(), KnownDecoder(), CPU)
    flux, ivar = spectra(20)
    batch = {"flux": flux, "ivar": ivar, "spectype": np.full(20, None, object)}
    with pytest.raises(ValueError, match="reference has 0 rows"):
        fit(config(), scorer, [], [batch], 1)
    with pytest.raises(ValueError, match="held_out has no rows"):
        fit(config(), scorer, [batch], [], 1)
