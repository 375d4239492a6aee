"""Line measurements on spectra whose truth is a formula, and what latent space is said to know on points of known layout."""

import numpy as np
import pytest

from catalogs.latent_space import path_weights, regression, separation
from catalogs.spectral_properties import SLICE_WIDTH, densest_slice
from engine.spectra.measure import (
    BROAD_H_BETA,
    H_ALPHA,
    LIGHT_KM_S,
    OII,
    _planck,
    colour_temperature,
    equivalent_width,
    line_width,
)

WAVE = np.arange(3500.0, 9000.0, 0.8)


def lines(centre: float, width: np.ndarray, sigma: np.ndarray, slope: float = 1e-4) -> np.ndarray:
    """Gaussians of equivalent width [B] and dispersion [B] [Angstrom] on a sloping continuum, [B, L]."""
    profile = np.exp(-0.5 * ((WAVE - centre) / sigma[:, None]) ** 2) / (sigma[:, None] * np.sqrt(2 * np.pi))
    return (2.0 + slope * (WAVE - centre)) * (1 + width[:, None] * profile)


def rows(flux: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.broadcast_to(WAVE, flux.shape), flux, np.ones_like(flux)


@pytest.mark.parametrize("windows", [OII, H_ALPHA])
def test_equivalent_width_is_the_one_that_was_put_in(windows):
    width = np.array([-3.0, 0.0, 10.0, 80.0])
    found = equivalent_width(*rows(lines(windows.centre, width, np.full(4, 2.0))), windows)
    np.testing.assert_allclose(found, width, rtol=0.01, atol=0.02)


def test_equivalent_width_is_not_of_the_flux_scale():
    flux = lines(H_ALPHA.centre, np.array([20.0]), np.array([3.0]))
    once, more = (equivalent_width(*rows(factor * flux), H_ALPHA) for factor in (1.0, 37.0))
    np.testing.assert_allclose(once, more)


def test_width_is_twice_the_dispersion_of_a_gaussian():
    sigma = np.array([12.0, 25.0])
    found = line_width(*rows(lines(BROAD_H_BETA.centre, np.array([60.0, 60.0]), sigma)), BROAD_H_BETA)
    expected = 2 * 0.9945 * sigma / BROAD_H_BETA.centre * LIGHT_KM_S  # 16 and 84 % are 0.9945 sigma away
    np.testing.assert_allclose(found, expected, rtol=0.02)


def test_width_of_what_is_no_emission_line_is_not_a_number():
    assert np.isnan(
        line_width(*rows(lines(BROAD_H_BETA.centre, np.array([-5.0]), np.array([10.0]))), BROAD_H_BETA)
    )


def test_what_is_masked_or_not_covered_is_not_measured():
    wave, flux, ivar = rows(lines(H_ALPHA.centre, np.full(3, 10.0), np.full(3, 2.0)))
    ivar[0, (wave[0] > 6530) & (wave[0] < 6605)] = 0
    flux[1] = -1
    wave = wave.copy()
    wave[2] += 1500  # the continuum below is beyond the first pixels
    wave[2] = np.linspace(6500, 9000, wave.shape[1])
    assert np.isnan(equivalent_width(wave, flux, ivar, H_ALPHA)).all()


def test_temperature_is_that_of_a_black_body():
    temperature = np.array([3200.0, 5800.0, 12_000.0])
    flux = np.array([_planck(WAVE, t) for t in temperature])
    found = colour_temperature(*rows(flux / flux.mean(1, keepdims=True)))
    np.testing.assert_allclose(found, temperature, rtol=0.02)  # windows are wide


def test_temperature_beyond_the_range_is_not_a_number():
    flux = np.stack([WAVE**-6.0, WAVE**12.0, -np.ones_like(WAVE)])
    assert np.isnan(colour_temperature(*rows(flux))).all()


def test_the_densest_slice_holds_most_objects():
    rng = np.random.default_rng(1)
    redshift = np.concatenate([rng.uniform(0, 1.5, 300), rng.normal(0.7, 0.01, 200)])
    centre, chosen = densest_slice(redshift)
    assert abs(np.log1p(centre) - np.log1p(0.7)) < SLICE_WIDTH / 2
    assert chosen[300:].all()
    inside = np.log1p(redshift[chosen])
    assert np.ptp(inside) <= SLICE_WIDTH
    assert densest_slice(np.array([0.3]))[1].all()


def test_classes_far_apart_are_told_apart_and_shuffled_ones_by_chance():
    rng = np.random.default_rng(2)
    label = np.repeat(["A", "B", "rare", ""], [300, 100, 5, 50])
    latent = rng.normal(size=(455, 5)) + 12 * (label[:, None] == "B")
    found = separation(latent, label)
    assert found is not None
    assert (found.num_rows, found.num_classes) == (400, 2)
    assert found.purity == 1.0
    assert found.silhouette > 0.7
    assert found.by_class == {"A": (1.0, 300), "B": (1.0, 100)}
    mixed = separation(rng.normal(size=(455, 5)), label)
    assert mixed is not None
    assert mixed.chance == pytest.approx(0.75**2 + 0.25**2)
    assert mixed.purity == pytest.approx(mixed.chance, abs=0.06)
    assert abs(mixed.silhouette) < 0.05


def test_one_class_cannot_be_told_apart():
    assert separation(np.zeros((50, 2)), np.array(["A"] * 50)) is None


def test_a_plane_is_read_off_whole_a_curve_by_neighbours_and_noise_not_at_all():
    rng = np.random.default_rng(3)
    latent = rng.normal(size=(800, 2))
    plane = regression(latent, latent @ [1.0, -2.0])
    curve = regression(latent, np.where(np.arange(800) % 7, latent[:, 0] ** 2, np.nan))
    noise = regression(latent, rng.normal(size=800))
    assert plane is not None
    assert curve is not None
    assert noise is not None
    assert plane.linear > 0.999
    assert (curve.linear < 0.1, curve.neighbours > 0.9) == (True, True)
    assert curve.num_rows == 685
    assert max(noise.linear, noise.neighbours) < 0.05


def test_what_does_not_vary_or_is_not_there_cannot_be_read_off():
    assert regression(np.zeros((100, 2)), np.ones(100)) is None
    assert regression(np.zeros((100, 2)), np.full(100, np.nan)) is None


def test_a_path_follows_the_property_whatever_its_scale():
    rng = np.random.default_rng(4)
    angle = rng.uniform(0, np.pi, 2000)
    latent = np.stack([np.cos(angle), np.sin(angle)], 1) + rng.normal(0, 0.05, (2000, 2))
    weights = path_weights(10 ** (3 * angle), 7)
    np.testing.assert_allclose(weights.sum(1), 1)
    value, steps = weights @ 10 ** (3 * angle), weights @ latent
    assert (np.diff(value) > 0).all()
    assert (np.diff(steps[:, 0]) < 0).all()
    np.testing.assert_allclose(np.linalg.norm(steps, axis=1), 1.0, atol=0.05)
