"""Flux is conserved, whatever grid an image comes from; noise is what it is said to be."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.signal import convolve2d

from engine.errors import ConfigError
from engine.images.noise import background_rms
from engine.images.planes import Plane, make_plane, onto
from engine.images.psf import convolve, matching_kernel, prepare_psf
from engine.images.wcs import Grid, relate

STEP = 1e-5


def gaussian(grid: Grid, sigma_arcsec: float, flux: float, ra: float = 150.0, dec: float = 2.0) -> np.ndarray:
    """Closed form: a round Gaussian of total `flux`, a pixel holding density times area."""
    y, x = np.indices(grid.shape)
    sky_ra, sky_dec = grid.to_sky(x.ravel(), y.ravel())
    dx = (sky_ra - ra) * np.cos(np.radians(dec)) * 3600
    dy = (sky_dec - dec) * 3600
    density = np.exp(-(dx**2 + dy**2) / (2 * sigma_arcsec**2)) / (2 * np.pi * sigma_arcsec**2)
    return (flux * density * grid.pixel_scale**2).reshape(grid.shape)


@pytest.mark.parametrize("ratio", [0.5, 0.8, 1.0, 1.7])
@pytest.mark.parametrize("angle", [3.0, 37.0])
def test_reprojection_conserves_flux_and_position(ratio: float, angle: float) -> None:
    reference = Grid((90, 100), (50.3, 45.1), (150.0, 2.0), (-STEP, 0.0, 0.0, STEP))
    c, s = ratio * STEP * np.cos(np.radians(angle)), ratio * STEP * np.sin(np.radians(angle))
    side = int(170 / ratio)
    band = Grid((side, side), (side / 2, side / 2 + 0.3), (150.0, 2.0), (-c, s, s, c))
    image = gaussian(band, 0.15, 1000.0)
    source = make_plane(image, np.full(image.shape, 2.0), None, 1.0)
    out = onto(source, relate(reference, band, "x"), reference, band, -4, 3, (94, 90))
    assert not out.mask.any()
    assert out.science.sum(dtype=float) == pytest.approx(1000.0, rel=3e-3)
    y, x = np.indices(out.shape)
    centre = [(out.science * axis).sum() / out.science.sum() for axis in (x + out.x0, y + out.y0)]
    assert centre == pytest.approx(np.ravel(reference.to_pixel([150.0], [2.0])), abs=0.03)
    np.testing.assert_allclose(out.error, 2.0 / ratio, rtol=2e-3)  # 1 / ratio**2 pixels, variance 4 each


def test_reprojection_masks_what_is_bad_or_outside() -> None:
    reference = Grid((60, 60), (30.0, 30.0), (150.0, 2.0), (-STEP, 0.0, 0.0, STEP))
    band = Grid((40, 40), (20.3, 20.3), (150.0, 2.0), (-STEP, 0.0, 0.0, STEP))
    science = np.ones(band.shape)
    science[20, 20] = np.nan
    out = onto(
        make_plane(science, science, None, 1.0), relate(reference, band, "x"), reference, band, 0, 0, (60, 60)
    )
    assert out.mask[:8].all()
    assert out.mask[30, 30]
    assert not out.mask[20, 20]
    assert np.all(out.science[out.mask] == 0)


def test_matching_kernel_of_gaussians_is_the_gaussian_between_them() -> None:
    size = 41
    y, x = np.indices((size, size)) - size // 2

    def psf(sigma: float) -> np.ndarray:
        values = np.exp(-(x**2 + y**2) / (2 * sigma**2))
        return values / values.sum()

    kernel = matching_kernel(psf(2.0), psf(3.0))
    np.testing.assert_allclose(kernel, psf(np.sqrt(5.0)), atol=2e-4)
    assert kernel.sum() == pytest.approx(1.0)


def test_convolution_matches_scipy_and_propagates_errors() -> None:
    rng = np.random.default_rng(5)
    shape = (60, 70)
    kernel = rng.random((9, 9))
    kernel /= kernel.sum()
    image, error = rng.normal(size=shape) + 5, rng.uniform(1, 2, shape)
    out = convolve(make_plane(image, error, None, 1.0, y0=7), kernel)
    inner = np.s_[8:-8, 8:-8]
    np.testing.assert_allclose(out.science[inner], convolve2d(image, kernel, "same")[inner], rtol=1e-4)
    expected = np.sqrt(convolve2d(error**2, kernel**2, "same"))
    np.testing.assert_allclose(out.error[inner], expected[inner], rtol=1e-4)
    assert out.y0 == 7


def test_convolved_noise_has_the_error_that_is_said() -> None:
    rng = np.random.default_rng(6)
    kernel = np.zeros((21, 21))
    kernel[10, 10] = 1
    kernel = gaussian_filter(kernel, 1.5)
    out = convolve(make_plane(rng.normal(0, 3.0, (400, 400)), np.full((400, 400), 3.0), None, 1.0), kernel)
    inner = np.s_[20:-20, 20:-20]
    assert out.science[inner].std() == pytest.approx(float(out.error[inner].mean()), rel=0.02)


def test_masked_pixels_do_not_pull_a_convolution_down() -> None:
    science = np.full((50, 50), 4.0)
    science[:, :20] = np.nan
    kernel = np.ones((5, 5)) / 25
    out = convolve(make_plane(science, np.ones((50, 50)), None, 1.0), kernel)
    assert out.mask[:, :20].all()
    assert not out.mask[5:-5, 20:].any()
    np.testing.assert_allclose(out.science[~out.mask], 4.0, rtol=1e-5)


def test_psf_of_another_pixel_scale_is_refused_with_both_scales() -> None:
    with pytest.raises(ConfigError, match=r"0.063 arcsec for the PSF; expected 0.03 arcsec"):
        prepare_psf(np.ones((5, 5)), 0.063, 0.03, 5, "psf.fits")


def test_resampled_psf_keeps_its_width_on_the_sky() -> None:
    y, x = np.indices((81, 81)) - 40
    psf = prepare_psf(np.exp(-(x**2 + y**2) / (2 * 3.0**2)), 0.02, 0.03, 61, "x", resample=True)
    y, x = np.indices((61, 61)) - 30
    assert psf.sum() == pytest.approx(1)
    assert np.sqrt((psf * x**2).sum()) == pytest.approx(2.0, rel=1e-3)
    assert np.unravel_index(psf.argmax(), psf.shape) == (30, 30)


def test_background_rms_ignores_sources_and_masked_pixels() -> None:
    rng = np.random.default_rng(2)
    science = rng.normal(3.0, 2.0, (3, 100, 100)).astype(np.float32)
    y, x = np.indices((100, 100)) - 50
    science[1] += 500 * np.exp(-(x**2 + y**2) / (2 * 4.0**2))
    mask = np.zeros(science.shape, bool)
    mask[2] = True
    science[0, :30], mask[0, :30] = 0, True
    rms = background_rms(science, mask)
    assert rms[:2] == pytest.approx(2.0, rel=0.06)
    assert np.isnan(rms[2])


def test_plane_without_error_has_error_zero() -> None:
    made = make_plane(np.ones((3, 3)), None, None, 2.0)
    assert isinstance(made, Plane)
    assert not made.error.any()
