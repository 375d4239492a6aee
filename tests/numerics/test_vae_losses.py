"""The terms of the ELBO against closed forms."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn

from models.scoring.reconstruction import gaussian_terms, log_ivar_sum, log_likelihood
from models.spectral_vae import (
    Output,
    SpectralVAETask,
    kl_divergence,
    losses,
    mean_discrepancy,
)
from models.spectral_vae_config import PRESETS, SpectralVAEConfig


def small(**settings) -> SpectralVAEConfig:
    given = {"num_pixels": 200, "num_latent": 2, "hidden": (16,), "precision": "float32"} | settings
    return SpectralVAEConfig(**given)


def test_kl_equals_torch_distributions() -> None:
    torch.manual_seed(0)
    mean, logvar = torch.randn(5, 7), torch.randn(5, 7)
    posterior = torch.distributions.Normal(mean, (0.5 * logvar).exp())
    prior = torch.distributions.Normal(torch.zeros(7), torch.ones(7))
    wanted = torch.distributions.kl_divergence(posterior, prior).sum(1)
    torch.testing.assert_close(kl_divergence(mean, logvar), wanted)


def test_elbo_equals_the_sum_over_usable_pixels_divided_by_all() -> None:
    torch.manual_seed(1)
    rows, pixels, beta = 4, 200, 0.7
    flux, ivar = torch.randn(rows, pixels), torch.rand(rows, pixels) + 0.1
    ivar[:, 50:80] = 0
    output = Output(
        torch.randn(rows, pixels), torch.randn(rows, pixels), torch.randn(rows, 2), torch.randn(rows, 2),
        torch.randn(rows, 2),
    )  # fmt: skip
    good = ivar > 0
    sigma = (output.log_scatter.exp() + 1 / ivar).sqrt()
    density = torch.distributions.Normal(output.mean, torch.where(good, sigma, 1)).log_prob(flux)
    elbo = (density * good).sum(1) - beta * kl_divergence(output.latent_mean, output.latent_logvar)
    torch.testing.assert_close(losses(output, flux, ivar, beta)["loss"], -elbo.mean() / pixels)


def test_masked_pixels_carry_no_gradient() -> None:
    flux, ivar = torch.randn(3, 20), torch.ones(3, 20)
    ivar[:, 5:9] = 0
    mean = torch.zeros(3, 20, requires_grad=True)
    log_scatter = torch.zeros(3, 20, requires_grad=True)
    terms = gaussian_terms(flux, ivar, mean, log_scatter.exp())
    log_likelihood(terms, *log_ivar_sum(ivar)).sum().backward()
    for gradient in (mean.grad, log_scatter.grad):
        assert gradient is not None
        assert (gradient[:, 5:9] == 0).all()
        assert (gradient[:, :5] != 0).all()


def test_discrepancy_is_small_for_equal_and_large_for_different_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(500, 3, generator=generator) for _ in range(2))
    assert 0 <= mean_discrepancy(a, b) < 0.01
    assert mean_discrepancy(a, b + 2) > 0.1


def test_info_option_adds_its_term() -> None:
    random = np.random.default_rng(0)
    batch = {"flux": random.normal(1, 0.1, (8, 200)), "ivar": np.full((8, 200), 100.0)}
    plain, info = (SpectralVAETask(small(info_lambda=value), 0) for value in (0.0, 50.0))
    for task in (plain, info):
        task.start(torch.device("cpu"), 10)
    first, second = plain.step(batch, 0), info.step(batch, 0)
    assert second["loss"] == pytest.approx(first["loss"] + 50 * 2 / 200 * second["mmd"], rel=1e-5)


def test_beta_and_learning_rate_warm_up() -> None:
    config = small(beta=2.0, beta_warmup_fraction=0.5, learning_rate_warmup_fraction=0.2)
    task = SpectralVAETask(config, 0)
    task.start(torch.device("cpu"), 20)
    random = np.random.default_rng(0)
    batch = {"flux": random.normal(1, 0.1, (4, 200)), "ivar": np.full((4, 200), 100.0)}
    found = [task.step(batch, step) for step in range(20)]
    rates = [metrics["learning_rate"] for metrics in found]
    assert rates[0] == pytest.approx(config.learning_rate / 4)
    assert max(rates) == pytest.approx(config.learning_rate, rel=0.02)
    assert rates[-1] == pytest.approx(0.01 * config.learning_rate, rel=0.1)
    betas = [(m["loss"] - m["nll"]) / m["kl"] for m in found]
    assert betas[0] == pytest.approx(0.2, rel=1e-3)
    assert betas[-1] == pytest.approx(2.0, rel=1e-3)


def test_linear_autoencoder_under_the_loss_finds_the_principal_subspace() -> None:
    # With constant noise and beta -> 0 the linear VAE is probabilistic PCA (Lucas et al. 2019, arXiv:1911.02469).
    random = np.random.default_rng(0)
    basis = np.linalg.qr(random.normal(size=(30, 2)))[0]
    data = random.normal(size=(400, 2)) * [3.0, 2.0] @ basis.T + 0.1 * random.normal(size=(400, 30))
    flux, ivar = torch.tensor(data, dtype=torch.float32), torch.full((400, 30), 100.0)
    torch.manual_seed(0)
    encoder, decoder = nn.Linear(30, 2), nn.Linear(2, 30)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=0.02)
    zeros = torch.zeros(400, 2)
    for _ in range(400):
        latent = encoder(flux)
        output = Output(decoder(latent), torch.full_like(flux, -20.0), latent, latent, zeros)
        optimizer.zero_grad()
        losses(output, flux, ivar, beta=0.0)["loss"].backward()
        optimizer.step()
    wanted = PCA(2, svd_solver="full").fit(data)
    residual = np.square(data - wanted.inverse_transform(wanted.transform(data))).mean()
    found = (flux - decoder(encoder(flux))).square().mean().item()
    assert found == pytest.approx(residual, rel=0.02)
    subspace = np.linalg.qr(decoder.weight.detach().numpy())[0]
    overlap = np.linalg.svd(subspace.T @ wanted.components_.T)[1]
    np.testing.assert_allclose(overlap, 1, atol=1e-3)


def test_presets_compress_a_hundredfold_and_default_fits_a_small_file() -> None:
    for config in PRESETS.values():
        assert config.num_pixels / config.num_latent >= 100
    assert PRESETS["observed_7781x77"] == SpectralVAEConfig()
    (module,) = SpectralVAETask(SpectralVAEConfig(), 0).modules.values()
    assert 2 * sum(p.numel() for p in module.parameters()) < 16e6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_latent": 3}, "num_latent is 3, must be at most num_pixels / 100 = 2"),
        ({"hidden": ()}, "hidden is"),
        ({"beta": -1.0}, "beta is -1.0"),
        ({"wave_min_angstrom": 9999.0}, "wave_min_angstrom is 9999.0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"beta_warmup_fraction": 1.0}, "beta_warmup_fraction is 1.0"),
        ({"precision": "float64"}, "precision is float64"),
        ({"wave_spacing": "sqrt"}, "wave_spacing is sqrt"),
    ],
)
def test_bad_settings_are_refused_by_name(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**settings)


def test_window_edges_lie_on_pixel_borders_of_both_spacings() -> None:
    linear = SpectralVAEConfig().wave_edges
    assert linear[0] == pytest.approx(3599.6)
    assert linear[1] == pytest.approx(3599.6 + 64 * 0.8)
    assert linear[-1] == pytest.approx(9824.4)
    log = PRESETS["rest_1000x10"].wave_edges
    step = (7000 / 2700) ** (1 / 999)
    assert log[0] == pytest.approx(2700 / step**0.5)
    assert log[-1] == pytest.approx(7000 * step**0.5)
