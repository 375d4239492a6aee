"""Kernels from simulated NIRCam PSFs turn every band's PSF into that of F444W."""

from pathlib import Path

import numpy as np
import pytest
from scipy.signal import fftconvolve

from engine.errors import ConfigError
from engine.fits import read_hdus
from engine.images.bands import BANDS
from engine.images.psf import prepare_psf
from engine.sources.nircam_config import PsfConfig
from engine.sources.nircam_psf import load_kernels
from engine.storage import Storage


@pytest.mark.data
def test_kernels_match_all_bands_to_f444w(shared_data: Path) -> None:
    config = PsfConfig(uri=str(shared_data / "psf"), extension="DET_SAMP", resample=True)
    kernels = load_kernels(Storage(), config, BANDS, 0.03)
    psfs = {}
    for path in (shared_data / "psf").glob("*.fits"):
        contents = read_hdus(Storage(), str(path), path.stat().st_size, ("DET_SAMP",), {})
        image, header = contents.images["DET_SAMP"], contents.header("DET_SAMP")
        band = next(band for band in BANDS if band in path.name)
        psfs[band] = prepare_psf(image, header["PIXELSCL"], 0.03, 101, path.name, resample=True)
    target = psfs["f444w"]
    y, x = np.indices(target.shape) - 50
    aperture = np.hypot(x, y) <= 10  # 0.30 arcsec, where fluxes are measured
    for band, kernel in kernels.items():
        matched = fftconvolve(psfs[band], kernel, mode="same")
        assert np.abs(matched - target).sum() < 0.03, band
        assert matched[aperture].sum() == pytest.approx(target[aperture].sum(), rel=2e-3), band
        assert np.abs(psfs[band] - target).sum() > 0.1, band


@pytest.mark.data
def test_psfs_of_detector_pixels_do_not_fit_mosaics_unasked(shared_data: Path) -> None:
    config = PsfConfig(uri=str(shared_data / "psf"), extension="DET_SAMP")
    with pytest.raises(
        ConfigError, match=r"0\.0311 arcsec for the PSF; expected 0\.03 arcsec.*psf\.resample"
    ):
        load_kernels(Storage(), config, BANDS, 0.03)
