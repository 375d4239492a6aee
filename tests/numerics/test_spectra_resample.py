"""Resampling: what is conserved, an independent implementation, and noise that ivar describes."""

import warnings

import numpy as np
import pytest

from engine.spectra.grid import WAVE_OBS
from engine.spectra.prepare import SpectrumPrep
from engine.spectra.restframe import deredshift, pixel_edges, resample

EDGES = pixel_edges(WAVE_OBS)


def test_flux_is_conserved() -> None:
    """Sum of density times width is the same over any grid that covers the input."""
    rng = np.random.default_rng(0)
    flux = rng.normal(1, 5, (3, WAVE_OBS.size))
    for edges_out in (np.geomspace(3599.6, 9824.4, 1000), np.linspace(3599.6, 9824.4, 20_000)):
        density, _ = resample(flux, np.ones_like(flux), EDGES, edges_out)
        np.testing.assert_allclose(density @ np.diff(edges_out), flux @ np.diff(EDGES), rtol=1e-10)


def test_energy_is_the_same_in_both_frames() -> None:
    """F_lambda d(lambda) does not change with frame: (1 + z) more per Angstrom, 1 + z fewer Angstrom."""
    config = SpectrumPrep(frame="rest")
    z = np.array([0.4, 0.6])
    line = np.exp(-0.5 * ((WAVE_OBS - 4500 * (1 + z[:, None])) / 30) ** 2)
    rest, _ = deredshift(line, np.ones_like(line), WAVE_OBS, z, config.wave)
    np.testing.assert_allclose(rest @ np.diff(pixel_edges(config.wave)), line.sum(axis=1) * 0.8, rtol=1e-5)


@pytest.mark.parametrize("num_pixels", [500, 1000, 4000])
def test_specutils_resamples_to_the_same(num_pixels: int) -> None:
    """FluxConservingResampler is SpectRes (Carnall 2017, arXiv:1705.05165)."""
    specutils = pytest.importorskip("specutils")
    from astropy import units as u
    from astropy.nddata import InverseVariance
    from specutils.manipulation import FluxConservingResampler

    rng = np.random.default_rng(1)
    flux, ivar = rng.normal(5, 1, WAVE_OBS.size), rng.uniform(0.5, 3, WAVE_OBS.size)
    wave_out = np.geomspace(3650, 9700, num_pixels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spectrum = specutils.Spectrum(
            spectral_axis=WAVE_OBS * u.AA, flux=flux * u.Jy, uncertainty=InverseVariance(ivar)
        )
        theirs = FluxConservingResampler()(spectrum, wave_out * u.AA)
    density, weight = resample(flux[None], ivar[None], EDGES, pixel_edges(wave_out))
    np.testing.assert_allclose(density[0], theirs.flux.value, rtol=1e-9)
    np.testing.assert_allclose(weight[0], theirs.uncertainty.array, rtol=1e-9)


@pytest.mark.parametrize("redshift", [0.0, 0.35, 1.1])
def test_noise_in_the_rest_frame_is_what_ivar_says(redshift: float) -> None:
    num, rng = 200, np.random.default_rng(2)
    sigma = rng.uniform(0.5, 2, WAVE_OBS.size)
    flux = sigma * rng.normal(size=(num, WAVE_OBS.size))
    ivar = np.broadcast_to(sigma**-2, flux.shape).copy()
    ivar[:, rng.random(WAVE_OBS.size) < 0.1] = 0
    rest, weight = deredshift(flux, ivar, WAVE_OBS, np.full(num, redshift), SpectrumPrep(frame="rest").wave)
    used = weight[0] > 0
    chi2 = rest[:, used] ** 2 * weight[:, used]
    assert used.sum() > 300
    assert chi2.mean() == pytest.approx(1, abs=5 * np.sqrt(2 * 2 / chi2.size))  # neighbours are correlated


def test_redshift_there_and_back() -> None:
    """Density is constant within a pixel: half a pixel (1 Angstrom) of the slope (1/200) may be lost."""
    wave = np.geomspace(2700, 7000, 4000)
    smooth = 10 + np.sin(WAVE_OBS / 200)
    z = np.array([0.3])
    rest, weight = deredshift(smooth[None], np.ones((1, smooth.size)), WAVE_OBS, z, wave)
    back, ivar = deredshift(rest, weight, wave, 1 / (1 + z) - 1, WAVE_OBS)
    inside = (ivar[0] > 0) & (WAVE_OBS > 3700) & (WAVE_OBS < 9000)
    np.testing.assert_allclose(back[0, inside], smooth[inside], atol=1.0 / 200)
