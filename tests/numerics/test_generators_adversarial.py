"""Layers and losses of adversarial generators against closed forms and other implementations."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import nn

from models.generators.adversarial import discriminator_loss, generator_loss, r1_penalty
from models.generators.alae import (
    ALAEGenerator,
    EncodingDiscriminator,
    ImageALAEConfig,
    ImageALAETask,
    latent_loss,
)
from models.generators.distances import (
    image_distance,
    pooled_distance,
    radial_log_power,
    standardised_distance,
    wasserstein,
)
from models.generators.networks import EqualConv, EqualLinear, activated, batch_deviation, doubled
from models.generators.style_networks import Made, ModulatedConv, StyleGenerator
from models.generators.stylegan import PATH_DECAY, Discriminator, ImageStyleGANConfig, path_lengths

TINY = {"size": 16, "width": 8, "max_width": 16, "num_latent": 6, "mapping_layers": 2}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_demodulated_features_have_variance_1_whatever_the_style() -> None:
    layer, x = ModulatedConv(12, 5, 3, 6), torch.randn(3, 12, 100, 100)
    latent = torch.randn(3, 6) * torch.tensor([[0.1], [1.0], [20.0]])
    with torch.no_grad():
        variance = layer(x, latent)[:, :, 1:-1, 1:-1].var((2, 3))
        plain = ModulatedConv(12, 5, 3, 6, is_demodulated=False)(x, latent)[2].var()
    torch.testing.assert_close(variance, torch.ones(3, 5), atol=0.1, rtol=0)
    assert plain > 20


def test_modulation_of_features_is_that_of_weights() -> None:
    layer, x, latent = ModulatedConv(4, 3, 3, 6), torch.randn(2, 4, 9, 9), torch.randn(2, 6)
    with torch.no_grad():
        found = layer(x, latent)
        for row in range(2):
            # Karras et al. (2020), Eqs. 1 and 3, word for word
            weight = layer.weight / math.sqrt(4 * 9) * layer.style(latent)[row].view(1, 4, 1, 1)
            weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
            wanted = nn.functional.conv2d(x[row : row + 1], weight, padding=1)
            torch.testing.assert_close(found[row : row + 1], wanted)


@pytest.mark.parametrize("rate", [1.0, 0.01])
def test_equalised_layers_keep_the_variance(rate: float) -> None:
    x = torch.randn(4000, 50)
    with torch.no_grad():
        assert EqualLinear(50, 200, rate=rate)(x).var().item() == pytest.approx(1, rel=0.1)
        images = EqualConv(16, 32, 3)(torch.randn(8, 16, 20, 20))[:, :, 1:-1, 1:-1]
        assert images.var().item() == pytest.approx(1, rel=0.1)
        assert activated(x).square().mean().item() == pytest.approx(1, rel=0.05)


def test_doubling_is_the_binomial_filter() -> None:
    x = torch.zeros(1, 1, 6, 6)
    x[0, 0, 3, 3] = 1
    line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
    torch.testing.assert_close(doubled(x)[0, 0, 5:9, 5:9], line.outer(line))


def test_style_mixing_changes_the_convolutions_from_the_crossover_on() -> None:
    generator = StyleGenerator(ImageStyleGANConfig(**TINY))
    draws, other, nothing = torch.randn(3, 6), torch.randn(3, 6), torch.zeros(3, 0)
    with torch.no_grad():
        made = generator(draws, nothing, nothing, other, torch.tensor([2, generator.num_styles, 1]))
        first, second = (generator.mapping(x, nothing) for x in (draws, other))
    torch.testing.assert_close(made.styles[0, :2], first[0].expand(2, -1))
    torch.testing.assert_close(made.styles[0, 2:], second[0].expand(generator.num_styles - 2, -1))
    torch.testing.assert_close(made.styles[1], first[1].expand(generator.num_styles, -1))
    torch.testing.assert_close(made.images[1:2], generator.decode(first[1:2], nothing[1:2]))
    assert made.images.shape == (3, 1, 16, 16)
    assert generator.num_styles == 5


def test_noise_reaches_the_image_times_its_strength() -> None:
    config = ImageStyleGANConfig(**TINY, noise_inputs=True)
    generator, latent = StyleGenerator(config), torch.randn(2, 6)
    assert config.num_noise == 4**2 + 2 * 8**2 + 2 * 16**2
    first, second = torch.randn(2, 2, config.num_noise)
    with torch.no_grad():
        assert torch.equal(generator.decode(latent, first), generator.decode(latent, second))
        for level in generator.synthesis.levels:
            for convolution in level.convolutions:  # pyright: ignore[reportGeneralTypeIssues]
                convolution.noise_strength.fill_(0.5)
        assert not torch.allclose(generator.decode(latent, first), generator.decode(latent, second))


def test_r1_of_a_linear_discriminator_is_half_its_squared_weight() -> None:
    weight, images = torch.randn(2, 5, 5, requires_grad=True), torch.randn(7, 2, 5, 5, requires_grad=True)
    penalty = r1_penalty((images * weight).sum((1, 2, 3)), images)
    torch.testing.assert_close(penalty, 0.5 * weight.square().sum())
    penalty.backward()
    torch.testing.assert_close(weight.grad, weight.detach())


def test_r1_of_a_network_is_that_of_finite_differences() -> None:
    judge = Discriminator(ImageStyleGANConfig(**TINY)).double()
    images = torch.randn(1, 1, 16, 16, dtype=torch.float64, requires_grad=True)
    nothing, fixed = torch.zeros(1, 0).double(), torch.tensor(0.3).double()
    with torch.no_grad():
        basis = 1e-5 * torch.eye(256, dtype=torch.float64).view(256, 1, 16, 16)
        up, down = (
            torch.cat([judge.judge(images + sign * step[None], nothing, fixed).double() for step in basis])
            for sign in (1, -1)
        )
    wanted = 0.5 * ((up - down) / 2e-5).square().sum()
    found = r1_penalty(judge.judge(images, nothing, fixed), images).double()
    # logits are float32
    torch.testing.assert_close(found, wanted, rtol=0.05, atol=1e-6)


def test_adversarial_losses_are_cross_entropies() -> None:
    real, fake = torch.randn(9), torch.randn(9)
    entropy = nn.functional.binary_cross_entropy_with_logits
    torch.testing.assert_close(
        discriminator_loss(real, fake), entropy(real, torch.ones(9)) + entropy(fake, torch.zeros(9))
    )
    torch.testing.assert_close(generator_loss(fake), entropy(fake, torch.ones(9)))
    assert discriminator_loss(torch.zeros(2), torch.zeros(2)).item() == pytest.approx(2 * math.log(2))


def test_path_length_of_a_linear_generator() -> None:
    side, latents = 6, 4
    matrix = torch.randn(side * side, latents)
    styles = torch.randn(5, 1, latents, requires_grad=True)
    images = (styles[:, 0] @ matrix.T).view(5, 1, side, side)
    noise = torch.randn(images.shape)
    wanted = (noise.flatten(1) @ matrix / side).norm(dim=1)
    torch.testing.assert_close(path_lengths(Made(images, styles), noise), wanted)
    orthogonal = torch.linalg.qr(torch.randn(side * side, latents)).Q * side
    many = torch.randn(20_000, 1, latents, requires_grad=True)
    images = (many[:, 0] @ orthogonal.T).view(-1, 1, side, side)
    lengths = path_lengths(Made(images, many), torch.randn(images.shape))
    # |J^T y| / S of an orthogonal J with columns of length S: chi with 4 degrees of freedom
    chi = math.sqrt(2) * math.gamma(2.5) / math.gamma(2)
    assert lengths.mean().item() == pytest.approx(chi, rel=0.02)
    assert PATH_DECAY == 0.99


def test_path_length_over_several_styles_is_the_root_of_their_mean_square() -> None:
    matrix = torch.randn(4, 3)
    styles = torch.randn(2, 5, 3, requires_grad=True)
    images = (styles.sum(1) @ matrix.T).view(2, 1, 2, 2)
    noise = torch.randn(images.shape)
    wanted = (noise.flatten(1) @ matrix / 2).norm(dim=1)
    torch.testing.assert_close(path_lengths(Made(images, styles), noise), wanted)


def test_latent_loss_is_0_for_a_perfect_inverse() -> None:
    matrix = torch.randn(6, 6).double()
    latent = torch.randn(8, 6).double()
    encoded = torch.linalg.solve(matrix, (latent @ matrix.T).T).T
    assert latent_loss(latent, encoded).item() < 1e-20
    assert latent_loss(latent, encoded + 2).item() == pytest.approx(4)


def test_the_latent_loss_does_not_train_the_mapping() -> None:
    generator = ALAEGenerator(ImageALAEConfig(**TINY))
    nothing = torch.zeros(4, 0)
    made = generator(torch.randn(4, 6), nothing, nothing, 2)
    made.images[2:].square().sum().backward()
    assert all(not p.grad.any() for p in generator.mapping.parameters() if p.grad is not None)
    assert generator.synthesis.constant.grad is not None
    made = generator(torch.randn(4, 6), nothing, nothing, 2)
    made.images[:2].square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in generator.mapping.parameters())


def test_who_judges_the_generator_has_no_gradients_meanwhile() -> None:
    task = ImageALAETask(ImageALAEConfig(**TINY), 0)
    with task._judge(EncodingDiscriminator) as judge:
        assert judge is task.modules["discriminator"].trained
        assert not any(p.requires_grad for p in judge.parameters())
    assert all(p.requires_grad for p in judge.parameters())
    with pytest.raises(TypeError, match="discriminator is a EncodingDiscriminator, expected Linear"):
        task._judge(nn.Linear).__enter__()


def test_batch_deviation_of_known_features() -> None:
    x = torch.zeros(4, 3, 2, 2)
    x[:2] = 2.0
    assert batch_deviation(x).item() == pytest.approx(1.0)
    assert batch_deviation(x[:1]).item() == pytest.approx(1e-4)


def test_wasserstein_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1, (200, 3)), rng.gamma(2, 1, (200, 3))
    wanted = [wasserstein_distance(first[:, n], second[:, n]) for n in range(3)]
    np.testing.assert_allclose(wasserstein(torch.tensor(first), torch.tensor(second)), wanted, rtol=1e-10)
    shifted = torch.randn(500, 2)
    torch.testing.assert_close(
        wasserstein(shifted, shifted + torch.tensor([0.3, -2])), torch.tensor([0.3, 2])
    )
    wide = torch.randn(4000, 1) * 5
    assert standardised_distance(wide, wide + 10).item() == pytest.approx(2, rel=0.05)
    with pytest.raises(ValueError, match=r"\(200, 3\) and \(4, 3\), must have one shape"):
        wasserstein(torch.tensor(first), torch.zeros(4, 3))


def test_sliced_distance_of_one_pixel_is_the_wasserstein_distance() -> None:
    rng = np.random.default_rng(1)
    real, fake = rng.normal(0, 2, 300), rng.normal(1, 3, 300)
    found = pooled_distance(*(torch.tensor(x).view(-1, 1, 1, 1) for x in (real, fake)))
    assert found.item() == pytest.approx(wasserstein_distance(real, fake) / real.std(), rel=1e-6)


def test_power_of_a_plane_wave_is_in_its_bin() -> None:
    x = torch.arange(32) / 32
    wave = (2 * math.sqrt(2) * torch.cos(2 * math.pi * 5 * x)).expand(1, 1, 32, 32)
    power = 10 ** radial_log_power(wave)[0, 0]
    cycles = np.fft.fftfreq(32, 1 / 32)
    modes = (np.hypot(cycles[:, None], cycles).round() == 5).sum()
    assert power.argmax() == 4
    # variance of the wave is 4; it has two modes of those of the bin
    assert power[4].item() * modes == pytest.approx(4, rel=1e-4)
    assert power[[3, 5]].max() < 1e-9


def test_white_noise_has_equal_power_at_all_scales() -> None:
    power = 10 ** radial_log_power(torch.randn(400, 1, 32, 32)).mean(0)[0]
    assert power.shape == (16,)
    assert (power[4:] * 32**2).numpy() == pytest.approx(1, rel=0.15)


def test_distance_sees_shift_and_blur_and_is_small_between_halves() -> None:
    images = torch.randn(400, 1, 32, 32).cumsum(3)
    half, other = images[:200], images[200:]
    floor = image_distance(half, other)
    assert floor["distance"] == floor["pixels"] + floor["power"]
    assert image_distance(half, half)["distance"] == 0
    assert image_distance(half, other + 5)["pixels"] > 5 * floor["pixels"]
    blurred = nn.functional.avg_pool2d(other, 3, 1, 1)
    assert image_distance(half, blurred)["power"] > 5 * floor["power"]
