"""Scores against closed forms and independent implementations."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial import cKDTree

from models.scoring.isolation import Neighbours
from models.scoring.reconstruction import antithetic_normal, window_significance, window_sum
from models.scoring.spectral import Scorer, ScoringConfig
from tests.knowndecoder import CPU, D, KnownDecoder, L, config, spectra


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
