"""The losses of the band GAN against closed forms, and what a step does to each network."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional

from models.band_gan import BandGANTask
from models.band_gan_config import NOISE_NJY, PRESETS, BandGANConfig, l1_only
from models.band_gan_losses import (
    absolute_difference,
    discriminator_loss,
    drizzled_noise,
    gaussian_nll,
    generator_loss,
)
from models.band_gan_networks import Discriminator, Generator, Output
from models.band_gan_stretch import Stretch, percentile_bounds
from models.scoring.band_columns import BandScoringConfig
from models.scoring.cutouts import LW, SW, Cutouts, cutouts
from models.symmetry import NUM_SYMMETRIES, turned
from tests.cutouts import make_cutouts
from tests.goldenlosses import compare

CPU = torch.device("cpu")
COMMAND = "python -m pytest tests/numerics/test_band_gan_losses.py --rewrite-golden"

ASINH = Stretch((0.0, 0.1, 0.0), (0.2, 0.3, 0.4), True)
LINEAR = Stretch((0.1, 0.2, 0.3), (2.0, 3.0, 4.0), False)


def small(**settings) -> BandGANConfig:
    given = {"size": 32, "width": 8, "levels": 3, "discriminator_width": 8, "precision": "float32"}
    return BandGANConfig(**given | {"scoring": BandScoringConfig(num_latent=4)} | settings)


def small_published(**settings) -> BandGANConfig:
    given = {"size": 32, "network_pixels": 64, "levels": 6, "width": 4, "discriminator_width": 4}
    return dataclasses.replace(PRESETS["published"], **given | settings)


def started(config: BandGANConfig, seed: int = 0, steps: int = 100) -> BandGANTask:
    task = BandGANTask(config, seed)
    task.start(CPU, steps)
    return task


def example(rows: int = 4, size: int = 8, seed: int = 0) -> tuple[Output, Cutouts]:
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, 3, size, size)
    science = torch.randn(shape, generator=generator) * 5
    error = torch.rand(shape, generator=generator) + 0.1
    usable = torch.rand(shape, generator=generator) > 0.2
    output = Output(
        torch.randn(shape, generator=generator),
        torch.randn(shape, generator=generator) - 1,
        torch.zeros(rows, 2),
    )
    return output, Cutouts(science * usable, torch.where(usable, error, 1), usable)


@pytest.mark.parametrize("stretch", [ASINH, LINEAR])
def test_stretch_is_undone_and_its_slope_is_the_derivative(stretch: Stretch) -> None:
    flux = torch.linspace(-3, 500, 192).view(1, 3, 8, 8)
    stretched = stretch(flux).requires_grad_()
    again = stretch.inverse(stretched)
    torch.testing.assert_close(again, flux, rtol=1e-4, atol=1e-4)
    (derivative,) = torch.autograd.grad(again.sum(), stretched)
    torch.testing.assert_close(stretch.slope(stretched).expand_as(derivative), derivative)


@pytest.mark.parametrize("stretch", [ASINH, LINEAR])
def test_nll_is_that_of_a_normal_in_flux_over_usable_pixels(stretch: Stretch) -> None:
    output, target = example()
    sigma = (0.5 * output.log_variance).exp() * stretch.slope(output.mean)
    total = (sigma.square() + target.error.square()).sqrt()
    density = torch.distributions.Normal(stretch.inverse(output.mean), total).log_prob(target.science)
    density = density + stretch.scale.log() + 0.5 * np.log(2 * np.pi)
    torch.testing.assert_close(gaussian_nll(output, stretch, target), -(density * target.usable).mean())


def test_absolute_difference_is_of_stretched_values_for_each_band() -> None:
    output, target = example()
    wanted = [
        functional.l1_loss(
            output.mean[:, b] * target.usable[:, b], ASINH(target.science)[:, b] * target.usable[:, b]
        )
        for b in range(3)
    ]
    torch.testing.assert_close(absolute_difference(output, ASINH, target), torch.stack(wanted))


def test_masked_pixels_carry_no_gradient() -> None:
    output, target = example()
    leaves = [part.requires_grad_() for part in output[:2]]
    loss = gaussian_nll(output, ASINH, target) + absolute_difference(output, ASINH, target).sum()
    for gradient in torch.autograd.grad(loss, leaves):
        assert (gradient[~target.usable] == 0).all()
        assert (gradient[target.usable] != 0).all()


@pytest.mark.parametrize("true_flux", [0.1, 0.2, 0.6])
def test_fitted_mean_has_no_bias_where_the_stretch_bends(true_flux: float) -> None:
    # A flux of half to three times the noise, softening equal to the noise. The mean of stretched values would be
    # 4 to 40 % too faint; the likelihood in flux gives the weighted mean, the absolute difference the median.
    sigma, rows, size = 0.2, 4, 48
    generator = torch.Generator().manual_seed(0)
    flux = true_flux + sigma * torch.randn(rows, 3, size, size, generator=generator)
    stretch = Stretch((0.0,) * 3, (sigma,) * 3, True)
    target = Cutouts(flux, torch.full_like(flux, sigma), torch.ones_like(flux, dtype=torch.bool))
    naive = stretch.inverse(stretch(flux).mean()).mean().item()
    for term in (gaussian_nll, lambda *given: absolute_difference(*given).mean()):
        mean = torch.ones(1, requires_grad=True)
        optimizer = torch.optim.Adam([mean], lr=0.05)
        for step in range(120):
            optimizer.param_groups[0]["lr"] = 0.05 * 0.97**step
            output = Output(mean.expand_as(flux), torch.full_like(flux, -20.0), flux)
            optimizer.zero_grad()
            term(output, stretch, target).backward()
            optimizer.step()
        found = stretch.inverse(mean.detach().view(1, 1, 1))[0].item()
        assert found == pytest.approx(true_flux, abs=5 * sigma / np.sqrt(flux.numel()) + 1e-3)
    assert naive < 0.96 * true_flux


def test_adversarial_losses_are_cross_entropies() -> None:
    generator = torch.Generator().manual_seed(0)
    real, fake = (3 * torch.randn(4, 3, 5, 5, generator=generator) for _ in range(2))
    entropy = functional.binary_cross_entropy_with_logits
    wanted = 0.5 * (entropy(real, torch.ones_like(real)) + entropy(fake, torch.zeros_like(fake)))
    torch.testing.assert_close(discriminator_loss(real, fake), wanted)
    torch.testing.assert_close(generator_loss(fake), entropy(fake, torch.ones_like(fake)))


def test_symmetries_are_the_group_of_the_square() -> None:
    image = torch.arange(25.0).view(5, 5)
    images = [turned(image, element) for element in range(NUM_SYMMETRIES)]
    known = {tuple(i.flatten().tolist()) for i in images}
    assert len(known) == 8
    for first in images:  # closed: each of each is one of them
        assert {tuple(turned(first, e).flatten().tolist()) for e in range(NUM_SYMMETRIES)} == known
        assert first[2, 2] == image[2, 2]
    torch.testing.assert_close(turned(image, 0), image)


def test_steps_are_augmented_by_their_number_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = make_cutouts(8)
    task = started(small())
    turns = [task._images(batch, step) for step in range(40)]
    assert all(torch.equal(a, b) for a, b in zip(turns[7], task._images(batch, 7), strict=True))
    whole = cutouts(batch, 32, CPU)
    counts = [
        sum(torch.equal(t.science, turned(whole.science, e)) for t in turns) for e in range(NUM_SYMMETRIES)
    ]
    assert sum(counts) == 40
    assert min(counts) > 0
    for images in turns:  # error and mask are turned with the science
        assert (images.science[~images.usable] == 0).all()
        assert (images.error[~images.usable] == 1).all()


def test_normalisation_takes_percentiles_in_the_logarithm_back_to_flux() -> None:
    rng = np.random.default_rng(0)
    flux = rng.normal(0.5, 2, 10_000)
    mask = rng.random(10_000) < 0.1
    logs = np.log10(flux[~mask & (flux > 0)])
    wanted = 10 ** np.percentile(logs, [10, 90])
    np.testing.assert_allclose(percentile_bounds(flux, mask), wanted, rtol=1e-3)
    with pytest.raises(ValueError, match="no usable pixel is positive"):
        percentile_bounds(flux, np.ones_like(mask))


def test_published_networks_have_the_published_size() -> None:
    # 57.20 million, printed by the authors' notebook.
    config = PRESETS["published"]
    generator, discriminator = (
        sum(p.numel() for p in m(config).parameters()) for m in (Generator, Discriminator)
    )
    assert generator == 54_413_955  # "54.414 M" of pix2pix, unet_256
    assert (generator + discriminator) / 1e6 == pytest.approx(57.20, abs=0.005)


def test_default_fits_a_small_file() -> None:
    parameters = [*Generator(BandGANConfig()).parameters(), *Discriminator(BandGANConfig()).parameters()]
    assert 4 * sum(p.numel() for p in parameters) < 16e6
    assert PRESETS["default"] == BandGANConfig()


@pytest.mark.parametrize(("layers", "patch"), [(2, 34), (3, 70)])
def test_discriminator_judges_patches_of_the_stated_size(layers: int, patch: int) -> None:
    config = small(size=96, discriminator_layers=layers, norm="batch", levels=2, scoring=BandScoringConfig())
    discriminator = Discriminator(config).eval()
    image = torch.zeros(1, 3, 96, 96, requires_grad=True)
    given = Cutouts(torch.zeros_like(image), torch.ones_like(image), torch.ones_like(image, dtype=torch.bool))
    (logits,) = discriminator(given, given.usable, image)
    middle = logits.shape[-1] // 2
    (gradient,) = torch.autograd.grad(logits[0, 0, middle, middle], image)
    seen = gradient[0].abs().sum(0) > 0
    assert (seen.any(0).sum(), seen.any(1).sum()) == (patch, patch)


def test_published_output_reaches_beyond_the_upper_percentile() -> None:
    # The released notebook ends in Tanh, which no bright core gets through.
    generator = Generator(small_published()).eval()
    with torch.no_grad():
        generator.up[0][1].bias.fill_(50.0)  # pyright: ignore
        output = generator(cutouts(make_cutouts(2), 32, CPU).bands(SW))
    assert (output.mean > 40).all()
    assert output.mean.shape == (2, 3, 32, 32)
    assert (generator.sigma(output) == 0).all()


def test_generator_has_an_adversarial_gradient() -> None:
    # In the released notebook it is judged detached.
    task = started(small(nll_weight=0.0, l1_weight=1e-30, adversarial_weight=1.0))
    task.step(make_cutouts(8), 0)
    gradients = [p.grad.norm() for p in task.modules["generator"].parameters() if p.grad is not None]
    assert len(gradients) == len(list(task.modules["generator"].parameters()))
    assert torch.stack(gradients).norm() > 1e-4


@pytest.mark.parametrize("config", [small(), small_published()])
def test_discriminator_is_conditional(config: BandGANConfig) -> None:
    images = cutouts(make_cutouts(8), 32, CPU)
    given, target = images.bands(SW), images.bands(LW)
    torch.manual_seed(0)
    discriminator = Discriminator(config).eval()
    (right,) = discriminator(given, target.usable, target.science)
    other = Cutouts(*(part.roll(1, 0) for part in given))
    (wrong,) = discriminator(other, target.usable, target.science)
    assert (right - wrong).abs().mean() > 0.01 * right.std()


def test_discriminator_learns_from_its_own_loss_alone() -> None:
    config = small(adversarial_noise=False, augment=False, grad_clip_norm=0.0)
    task, batch = started(config), make_cutouts(8)
    before = copy.deepcopy(task.modules)
    images = cutouts(batch, 32, CPU)
    given, target = images.bands(SW), images.bands(LW)
    generator = before["generator"]
    assert isinstance(generator, Generator)
    with torch.no_grad():
        fake = generator.flux(generator(given)) * target.usable
    loss = discriminator_loss(*before["discriminator"](given, target.usable, target.science, fake))
    wanted = torch.autograd.grad(loss, list(before["discriminator"].parameters()))
    task.step(batch, 0)
    for (name, parameter), gradient in zip(
        task.modules["discriminator"].named_parameters(), wanted, strict=True
    ):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6, msg=name)
        assert parameter.requires_grad


def test_without_adversarial_weight_there_is_only_a_generator() -> None:
    task = started(l1_only(small()))
    assert set(task.modules) == set(task.optimizers) == {"generator"}
    metrics = task.step(make_cutouts(8), 0)
    assert "adversarial" not in metrics
    l1 = np.mean([metrics[f"l1_{band}"] for band in ("f277w", "f356w", "f444w")])
    assert metrics["loss"] == pytest.approx(metrics["nll"] + l1, rel=1e-5)


def test_learning_rates_warm_up_for_both_networks() -> None:
    task = started(small(learning_rate_warmup_fraction=0.2, discriminator_rate_factor=0.5), steps=20)
    batch, rates = make_cutouts(4), []
    for step in range(20):
        task.step(batch, step)
        rates.append([task.optimizers[n].param_groups[0]["lr"] for n in ("generator", "discriminator")])
    found = np.array(rates)
    np.testing.assert_allclose(found[:, 1], 0.5 * found[:, 0])
    assert found[0, 0] == pytest.approx(1e-3 / 4)
    assert found[-1, 0] == pytest.approx(1e-5, rel=0.1)
    constant = started(small_published())
    constant.step(batch, 50)
    assert constant.optimizers["generator"].param_groups[0]["lr"] == 2e-4


def test_published_training_with_dropout_repeats_itself_and_evaluates_without() -> None:
    batch = make_cutouts(4)

    def curve() -> list[float]:
        task = started(small_published())
        return [task.step(batch, step)["loss"] for step in range(3)]

    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    assert curve() == curve()
    assert torch.rand(1) == wanted
    task = started(small_published())
    before = copy.deepcopy(task.modules["generator"].state_dict())
    assert task.evaluate(batch) == task.evaluate(batch)
    assert all(torch.equal(v, before[k]) for k, v in task.modules["generator"].state_dict().items())
    assert all(module.training for module in task.modules.values())


def test_noise_of_the_error_map_is_added_before_judging() -> None:
    task = started(small())
    images = cutouts(make_cutouts(16), 32, CPU)
    target = images.bands(LW)
    with torch.no_grad():
        output = task.modules["generator"](images.bands(SW))
        fake = task._as_observed(output, target)
        plain = started(small(adversarial_noise=False))._as_observed(output, target)
    pull = ((fake - plain) / target.error)[target.usable]
    assert pull.std() == pytest.approx(1, abs=0.02)
    assert (fake[~target.usable] == 0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 30}, "size is 30, must be a multiple of 2"),
        ({"network_pixels": 60}, "network_pixels is 60, must be a multiple"),
        ({"scale_njy": (1.0,) * 5}, "scale_njy is .* must be 6 values"),
        ({"scale_njy": (0.0,) * 6}, "scale_njy is"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"noise_correlation": 0.8}, "noise_correlation is 0.8"),
        ({"norm": "layer"}, "norm is layer, must be group or batch"),
        ({"nll_weight": 0.0, "l1_weight": 0.0}, "l1_weight is 0.0"),
        ({"discriminator_layers": 5}, "discriminator_layers is 5, must be fewer"),
        ({"adversarial_weight": -1.0}, "adversarial_weight is -1.0"),
        ({"scoring": BandScoringConfig(num_latent=99)}, "scoring.num_latent is 99, must be at most the 32"),
    ],
)
def test_bad_settings_are_refused_by_name(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**settings)


@pytest.mark.parametrize("correlation", [0.0, 0.26, 0.62, 0.7])
def test_noise_has_unit_variance_and_the_correlation_that_is_asked_for(correlation: float) -> None:
    torch.manual_seed(3)
    noise = drizzled_noise(torch.empty(40, 3, 64, 64), correlation)
    assert noise.std().item() == pytest.approx(1, abs=0.01)
    assert noise[..., 0].std().item() == pytest.approx(1, abs=0.05), "borders too"
    along = (noise[..., 1:] * noise[..., :-1]).mean().item()
    across = (noise[:, :, 1:] * noise[:, :, :-1]).mean().item()
    diagonal = (noise[:, :, 1:, 1:] * noise[:, :, :-1, :-1]).mean().item()
    assert (along, across) == (pytest.approx(correlation, abs=0.01), pytest.approx(correlation, abs=0.01))
    assert diagonal == pytest.approx(correlation**2, abs=0.01)


def test_scale_is_the_noise_of_real_mosaics() -> None:
    # Background rms in MJy/sr, times the solid angle of a pixel of 0.03 arcsec.
    rms = np.array([0.0066, 0.0078, 0.0065, 0.0041, 0.0038, 0.0056])
    solid_angle = np.deg2rad(0.03 / 3600) ** 2
    np.testing.assert_allclose(NOISE_NJY, rms * 1e15 * solid_angle, rtol=0.01)


def test_golden_losses(rewrite_golden: bool) -> None:
    torch.set_num_threads(1)
    task = started(small(), steps=20)
    losses = [task.step(make_cutouts(8, seed=step), step)["loss"] for step in range(20)]
    compare(
        "band_gan",
        losses,
        rewrite_golden,
        "generator loss of the first 20 steps of a small band GAN on simple galaxies",
        COMMAND,
    )
