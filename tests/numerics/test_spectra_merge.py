"""The merge of the arms against implementations that share nothing with it."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from engine.fits import read_hdus
from engine.sources.desi import IMAGES
from engine.spectra.coadd import merge_arms
from engine.spectra.grid import CAMERA_SLICES, NUM_PIXELS, WAVE_OBS
from engine.storage import Storage

Arms = dict[str, np.ndarray]

REAL_COADDS = (
    "desi/fastspecfit/coadd-4-80613-thru20210324.fits",
    "desi/fastspecfit/coadd-special-dark-27247.fits",
    "desi/specutils/coadd-5-169-thru20210419.fits",
    "desi/specutils/coadd-sv3-dark-26065.fits",
)
RTOL = 3e-6
"""A mean of two float32 in float32: a few units in the last place (6e-8), more where they cancel."""


def by_wavelength(wave: Arms, flux: Arms, ivar: Arms, bad: Arms) -> tuple[np.ndarray, np.ndarray]:
    """Merge pixel by pixel in float64, finding pixels by their wavelength."""
    place = {round(10 * value): index for index, value in enumerate(WAVE_OBS)}
    num = len(next(iter(flux.values())))
    total, weight = np.zeros((num, NUM_PIXELS)), np.zeros((num, NUM_PIXELS))
    for camera, waves in wave.items():
        for pixel, value in enumerate(waves):
            index = place[round(10 * value)]
            for row in range(num):
                w = float(ivar[camera][row, pixel])
                if w > 0 and not bad[camera][row, pixel]:
                    total[row, index] += w * float(flux[camera][row, pixel])
                    weight[row, index] += w
    return np.divide(total, weight, out=np.zeros_like(total), where=weight > 0), weight


def load(path: Path) -> tuple[Arms, Arms, Arms, Arms]:
    contents = read_hdus(Storage(), str(path), path.stat().st_size, IMAGES, {})
    wave, flux, ivar, mask = (
        {c: contents.images[f"{c.upper()}_{q}"] for c in CAMERA_SLICES}
        for q in ("WAVELENGTH", "FLUX", "IVAR", "MASK")
    )
    return wave, flux, ivar, mask


def test_merge_is_the_weighted_mean_pixel_by_pixel() -> None:
    rng = np.random.default_rng(3)
    shapes = {camera: (2, where.stop - where.start) for camera, where in CAMERA_SLICES.items()}
    wave = {camera: WAVE_OBS[where] for camera, where in CAMERA_SLICES.items()}
    flux = {camera: rng.normal(5, 3, shape).astype(np.float32) for camera, shape in shapes.items()}
    ivar = {camera: rng.lognormal(0, 4, shape).astype(np.float32) for camera, shape in shapes.items()}
    mask = {camera: (rng.random(shape) < 0.2).astype(np.int32) << 30 for camera, shape in shapes.items()}
    expected = by_wavelength(wave, flux, ivar, mask)
    merged = merge_arms(flux, ivar, mask)
    np.testing.assert_allclose(merged[0], expected[0], rtol=RTOL, atol=RTOL)
    np.testing.assert_allclose(merged[1], expected[1], rtol=RTOL)


def test_noise_of_the_merge_is_what_ivar_says() -> None:
    """Monte Carlo: chi2 per pixel is 1 within 5 sigma, in the overlaps too."""
    num, rng = 400, np.random.default_rng(4)
    flux, ivar = {}, {}
    for camera, where in CAMERA_SLICES.items():
        sigma = rng.uniform(0.5, 2, where.stop - where.start)
        flux[camera] = (7 + sigma * rng.normal(size=(num, sigma.size))).astype(np.float32)
        ivar[camera] = np.broadcast_to(sigma**-2, flux[camera].shape).astype(np.float32)
    merged, weight = merge_arms(flux, ivar, {})
    for pixels in (slice(0, 2700), slice(2700, 2751), slice(4900, 5026)):
        chi2 = (merged[:, pixels] - 7.0) ** 2 * weight[:, pixels]
        assert chi2.mean() == pytest.approx(1, abs=5 * np.sqrt(2 / chi2.size))


@pytest.mark.data
@pytest.mark.parametrize("name", REAL_COADDS)
def test_real_coadds_read_by_specutils_merge_to_the_same(shared_data: Path, name: str) -> None:
    """Specutils reads the file in its own way; the mean is then taken pixel by pixel."""
    specutils = pytest.importorskip("specutils")
    path = shared_data / name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # specutils warns of units and headers that do not matter here
        cameras = specutils.SpectrumList.read(str(path), format="DESI coadd")
    wave, flux, ivar, bad = {}, {}, {}, {}
    for camera, spectrum in zip("brz", cameras, strict=True):
        wave[camera] = spectrum.spectral_axis.to_value("Angstrom")
        flux[camera], ivar[camera] = spectrum.flux.value, spectrum.uncertainty.array
        bad[camera] = spectrum.mask
    expected = by_wavelength(wave, flux, ivar, bad)
    _, *arms = load(path)
    merged = merge_arms(*arms)
    np.testing.assert_allclose(merged[0], expected[0], rtol=RTOL, atol=RTOL)
    np.testing.assert_allclose(merged[1], expected[1], rtol=RTOL)


@pytest.mark.data
@pytest.mark.parametrize("name", REAL_COADDS)
def test_real_coadds_merge_as_in_desispec(shared_data: Path, name: str) -> None:
    """DESI's own `coadd_cameras`; it gets ivar with the mask applied, which it leaves to its caller."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        coaddition = pytest.importorskip("desispec.coaddition", reason="desispec is not installed")
        spectra = pytest.importorskip("desispec.spectra")
    wave, flux, ivar, mask = load(shared_data / name)
    clean = {camera: np.where(mask[camera] == 0, ivar[camera], 0) for camera in ivar}
    theirs = coaddition.coadd_cameras(spectra.Spectra(["b", "r", "z"], wave, flux, clean))
    merged, weight = merge_arms(flux, ivar, mask)
    np.testing.assert_allclose(theirs.wave["brz"], WAVE_OBS, atol=1e-6)
    np.testing.assert_allclose(weight, theirs.ivar["brz"], rtol=RTOL)
    good = weight > 0
    np.testing.assert_allclose(merged[good], theirs.flux["brz"][good], rtol=RTOL, atol=RTOL)
