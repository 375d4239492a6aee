"""Losses of the U-Net VAE and measures of cleaned images against closed forms and other implementations."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from models.band_gan_stretch import Stretch
from models.scoring.denoising import false_structure, flux_ratio, psnr
from models.unet_vae_losses import (
    absolute_difference,
    cross_entropy,
    gaussian_nll,
    latent_kl,
    with_free_bits,
)
from models.unet_vae_networks import Output

C, S = 2, 6
SCALE = (0.5, 2.0)


def output(seed: int = 0, rows: int = 3, latents: int = 4) -> Output:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return Output(draw(rows, C, S, S), draw(rows, C, S, S), draw(rows, latents), draw(rows, latents))


def test_kl_is_that_of_torch() -> None:
    out = output()
    wanted = kl_divergence(Normal(out.latent_mean, (0.5 * out.latent_logvar).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(latent_kl(out), wanted)


def test_free_bits_are_the_least_that_a_latent_costs() -> None:
    kl = torch.tensor([[0.0, 1.0, 0.3], [0.02, 3.0, 0.1]])
    assert with_free_bits(kl, 0.05).item() == pytest.approx(0.05 + 2.0 + 0.2)
    assert with_free_bits(kl, 0.0).item() == pytest.approx(kl.sum(1).mean().item())
    assert with_free_bits(torch.zeros(3, 0), 0.1) == 0
    kl.requires_grad_()
    with_free_bits(kl, 0.05).backward()
    assert kl.grad is not None
    np.testing.assert_allclose(kl.grad, [[0, 0.5, 0.5]] * 2, err_msg="what is free has no gradient")


@pytest.mark.parametrize("is_asinh", [True, False])
def test_gaussian_likelihood_is_that_of_torch_in_flux(is_asinh: bool) -> None:
    out, stretch = output(), Stretch((0.0, 0.0), SCALE, is_asinh)
    clean, usable = 3 * torch.randn(3, C, S, S), torch.rand(3, C, S, S) > 0.3
    floor = 0.3
    sigma = (out.log_variance.exp() + floor**2).sqrt() * stretch.slope(out.mean)
    terms = -Normal(stretch.inverse(out.mean), sigma).log_prob(clean) - 0.5 * math.log(2 * math.pi)
    wanted = torch.where(usable, terms - stretch.scale.log(), 0).mean()
    torch.testing.assert_close(gaussian_nll(out, stretch, clean, usable, floor), wanted)


def test_cross_entropy_and_absolute_difference_count_usable_pixels() -> None:
    out, usable = output(), torch.rand(3, C, S, S) > 0.3
    clean = torch.rand(3, C, S, S)
    wanted = (
        nn.functional.binary_cross_entropy(out.mean.sigmoid()[usable], clean[usable], reduction="sum")
        / clean.numel()
    )
    torch.testing.assert_close(cross_entropy(out, torch.where(usable, clean, 9.0), usable), wanted)
    stretch = Stretch((0.0, 0.0), SCALE, True)
    difference = (out.mean - torch.asinh(clean / torch.tensor(SCALE).view(-1, 1, 1))).abs()
    wanted = difference[usable].sum() / clean.numel()
    torch.testing.assert_close(absolute_difference(out, stretch, clean, usable), wanted)


def test_psnr_of_noise_of_known_size() -> None:
    clean = torch.zeros(1, 2, 200, 200)
    clean[0, 0, 100, 100] = 10.0
    generator = torch.Generator().manual_seed(0)
    image = clean + 0.1 * torch.randn(clean.shape, generator=generator)
    usable = torch.ones_like(clean, dtype=torch.bool)
    found = psnr(image, clean, usable)
    assert found[0, 0].item() == pytest.approx(40, abs=0.1)
    assert found[0, 1].isnan(), "no light in the second band"
    usable[0, 0, :, :50] = False
    image[0, 0, :, :50] = 1e6
    assert psnr(image, clean, usable)[0, 0].item() == pytest.approx(40, abs=0.1)


def test_flux_ratio_is_one_where_flux_is_conserved() -> None:
    clean = torch.rand(2, 3, 8, 8)
    weights = torch.rand(2, 8, 8)
    torch.testing.assert_close(flux_ratio(1.2 * clean, clean, weights), torch.full((2, 3), 1.2))
    assert flux_ratio(clean, 0 * clean, weights).isnan().all()


def test_false_structure_of_noise_as_it_is() -> None:
    generator = torch.Generator().manual_seed(1)
    error = torch.full((300, 1, 32, 32), 0.3)
    found = false_structure(error * torch.randn(error.shape, generator=generator), error)
    assert found.flux_sigma.std().item() == pytest.approx(1, abs=0.1)
    # A pixel above 3 sigma (0.00135) is nearly always higher than its eight neighbours.
    assert found.peaks.float().mean().item() == pytest.approx(0.00135 * 32 * 32, rel=0.15)
    nothing = false_structure(torch.zeros_like(error), error)
    assert not nothing.flux_sigma.any()
    assert not nothing.peaks.any()
