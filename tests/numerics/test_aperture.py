"""Aperture photometry against sep, photutils and closed forms."""

import numpy as np
import pytest
import sep
import torch
from photutils.aperture import CircularAperture, aperture_photometry
from scipy.ndimage import correlate1d

from engine.images.bands import BANDS, SHORT_BANDS
from engine.synthetic.contaminate.config import ContaminateConfig
from engine.synthetic.contaminate.optics import nircam_optics
from engine.synthetic.contaminate.simulate import Contaminator
from engine.synthetic.field.noise import drizzle_kernel
from models.scoring.aperture import aperture_weights, magnitude_residual, photometry
from models.scoring.cutouts import Cutouts

SIZE, ROWS = 48, 12


@pytest.fixture
def images() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Science, error and mask, [rows, 2 bands, S, S]."""
    rng = np.random.default_rng(0)
    shape = (ROWS, 2, SIZE, SIZE)
    return rng.normal(1, 3, shape), rng.uniform(0.5, 2, shape), rng.random(shape) < 0.1


def geometry(seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    dx, dy = rng.uniform(-0.5, 0.5, (2, ROWS))
    dx[0], dy[0] = 0.5, -0.5
    return dx, dy, rng.uniform(2, 12, ROWS)


def sum_circle(science, dx: float, dy: float, radius: float, **options) -> tuple[float, float]:
    """Flux and error of sep; x, y and radius as float32 has them, so that a sub-pixel on the edge falls alike."""
    x, y, r = (np.array([np.float32(value)], float) for value in (dx, dy, radius))
    flux, error, _ = sep.sum_circle(science, x + SIZE // 2, y + SIZE // 2, r, subpix=5, **options)
    return flux[0], error[0]


def measured(science, error, usable, dx, dy, radius):
    parts = (torch.tensor(a, dtype=torch.float32) for a in (science, error))
    given = Cutouts(*parts, torch.tensor(usable))
    weights = aperture_weights(SIZE, *(torch.tensor(a, dtype=torch.float32) for a in (dx, dy, radius)))
    return photometry(given, weights), weights


def test_fluxes_and_errors_equal_those_of_sep(images) -> None:
    science, error, _ = images
    dx, dy, radius = geometry()
    found, _ = measured(science, error, np.ones_like(science, bool), dx, dy, radius)
    for row in range(ROWS):
        at = dx[row], dy[row], radius[row]
        for band in range(2):
            wanted, sigma = sum_circle(science[row, band], *at, err=error[row, band])
            assert found.flux[row, band] == pytest.approx(wanted, rel=2e-5, abs=1e-4)
            assert found.error[row, band] == pytest.approx(sigma, rel=1e-5)


def test_masked_fluxes_equal_those_of_sep_and_errors_are_scaled_alike(images) -> None:
    science, error, mask = images
    dx, dy, radius = geometry(2)
    found, _ = measured(np.where(mask, 0, science), np.where(mask, 1, error), ~mask, dx, dy, radius)
    for row in range(ROWS):
        at = dx[row], dy[row], radius[row]
        wanted, sigma = sum_circle(science[row, 1], *at, err=error[row, 1], mask=mask[row, 1])
        assert found.flux[row, 1] == pytest.approx(wanted, rel=2e-5, abs=1e-4)
        # sep scales the variance once by the lost area; a scaled sum has it twice.
        fraction = found.fraction[row, 1].item()
        assert found.error[row, 1] == pytest.approx(sigma / np.sqrt(fraction), rel=1e-4)


def test_photutils_exact_overlap_agrees_to_the_sampling() -> None:
    at = np.arange(SIZE)
    profile = np.exp(-np.hypot(at[:, None] - 24.2, at[None, :] - 23.9) / 4)
    science = np.broadcast_to(profile, (ROWS, 2, SIZE, SIZE)).copy()
    dx, dy, _ = geometry(3)
    radius = np.full(ROWS, 10.0)
    found, _ = measured(science, np.ones_like(science), np.ones_like(science, bool), dx, dy, radius)
    for row in range(ROWS):
        aperture = CircularAperture((24 + dx[row], 24 + dy[row]), r=10)
        wanted = aperture_photometry(profile, aperture)["aperture_sum"][0]
        assert found.flux[row, 0] == pytest.approx(wanted, rel=1e-3)


def test_area_is_that_of_the_circle_and_nothing_lies_outside() -> None:
    dx, dy, radius = geometry()
    _, weights = measured(
        *(np.ones((ROWS, 1, SIZE, SIZE)),) * 2, np.ones((ROWS, 1, SIZE, SIZE), bool), dx, dy, radius
    )
    np.testing.assert_allclose(weights.sum((1, 2)), np.pi * radius**2, rtol=0.02)
    at = np.arange(SIZE) - SIZE // 2
    for row in range(ROWS):
        distance = np.hypot(at[None, :] - dx[row], at[:, None] - dy[row])
        assert (weights[row].numpy()[distance > radius[row] + 0.71] == 0).all()
        assert (weights[row].numpy()[distance < radius[row] - 0.71] == 1).all()


def test_aperture_up_to_the_border_is_whole_and_beyond_it_is_refused() -> None:
    zero = torch.zeros(1)
    weights = aperture_weights(21, zero, zero, torch.tensor([10.5]))
    assert weights.sum() == pytest.approx(np.pi * 10.5**2, rel=5e-3)
    with pytest.raises(ValueError, match=r"reaches 10\.8 pixels from the centre of a cutout of 21"):
        aperture_weights(21, zero + 0.25, zero, torch.tensor([10.5]))
    with pytest.raises(ValueError, match="nan"):
        aperture_weights(21, zero, zero, torch.tensor([torch.nan]))


def test_no_object_has_no_weights() -> None:
    empty = torch.zeros(0)
    assert aperture_weights(20, empty, empty, empty).shape == (0, 20, 20)


def test_aperture_without_a_usable_pixel_has_no_flux(images) -> None:
    science, error, _ = images
    usable = np.ones_like(science, bool)
    usable[3, 1] = False
    found, _ = measured(science, error, usable, *geometry())
    assert found.fraction[3, 1] == 0
    assert torch.isnan(found.flux[3, 1])
    assert torch.isfinite(found.flux).sum() == found.flux.numel() - 1


def test_magnitude_residual_is_the_logarithm_where_the_signal_is_strong() -> None:
    flux, predicted = np.array([1e4, 2e4, 5e3]), np.array([2e4, 1e4, 5e3])
    found = magnitude_residual(flux, predicted, np.ones(3))
    np.testing.assert_allclose(found, -2.5 * np.log10(flux / predicted), atol=1e-6)


def test_magnitude_residual_is_finite_and_odd_at_and_below_zero() -> None:
    error = np.full(4, 2.0)
    flux = np.array([0.0, -3.0, 5.0, -1e3])
    found = magnitude_residual(flux, np.zeros(4), error)
    np.testing.assert_allclose(found, -magnitude_residual(-flux, np.zeros(4), error))
    assert found[0] == 0
    assert (np.diff(found[np.argsort(flux)]) < 0).all()  # fainter is larger


def test_noise_of_drizzled_mosaics_is_larger_than_independent_pixels_say() -> None:
    """By 1.5 in the short and 2.4 in the long wavelengths: what the columns of S/N say, as they take no account of it."""
    num, size, zero = 400, 32, torch.zeros(1)
    optics = nircam_optics()
    nothing = ContaminateConfig(
        min_sources=0, max_sources=0, trail_probability=0, hits_per_channel=0, edge_probability=0
    )
    light = np.zeros((num, len(BANDS), size, size), np.float32)
    error = np.broadcast_to(np.array(optics.rms, np.float32)[:, None, None], light.shape)
    seen = Contaminator(nothing, optics)(light, error, range(num), 0)
    weights = aperture_weights(size, zero, zero, torch.tensor([0.3 / optics.pixel_arcsec]))
    found = photometry(
        Cutouts(torch.tensor(seen.science), torch.tensor(seen.error), torch.tensor(~seen.mask)),
        weights.expand(num, size, size),
    )
    scatter = (found.flux / found.error).std(0).numpy()
    for band, detector in enumerate(optics.detector_arcsec):
        kernel = drizzle_kernel(detector, optics.pixel_arcsec)
        smooth = correlate1d(
            correlate1d(weights[0].numpy(), kernel, 0, mode="constant"), kernel, 1, mode="constant"
        )
        factor = np.sqrt(np.square(smooth).sum() / weights.square().sum().item())
        assert factor == pytest.approx(1.5 if BANDS[band] in SHORT_BANDS else 2.4, abs=0.05)
        assert scatter[band] == pytest.approx(factor, rel=0.15), "400 draws: 4 standard deviations"
