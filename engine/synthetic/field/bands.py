"""The six wide NIRCam bands of the synthetic field: edges, depth, and electrons by flux."""

import numpy as np

from engine.images.bands import BANDS, PIVOT_UM

FloatArray = np.ndarray

GROUPS: tuple[tuple[str, ...], ...] = (BANDS[:3], BANDS[3:])
"""Bands of one channel: one pixel grid, drawn together."""
REFERENCE = BANDS.index("f200w")
"""Magnitudes are drawn in this band."""
PIVOT_MICRON: FloatArray = np.array([PIVOT_UM[band] for band in BANDS])
EDGES_MICRON: FloatArray = np.array(
    [(1.013, 1.282), (1.331, 1.668), (1.755, 2.227), (2.423, 3.132), (3.135, 3.981), (3.881, 4.982)]
)
"""Half-power wavelengths (STScI, NIRCam Filters); bands are boxes between them."""
DETECTOR_PIXEL_ARCSEC: FloatArray = np.array([0.031] * 3 + [0.063] * 3)

RMS_MJY_SR: FloatArray = np.array([0.0066, 0.0078, 0.0065, 0.0041, 0.0038, 0.0056])
"""Background rms a pixel of CEERS mosaics [MJy/sr] at `RMS_PIXEL_ARCSEC`."""
RMS_PIXEL_ARCSEC = 0.03
EXPOSURE_S: FloatArray = np.array([5670.0, 2835.0, 2835.0, 2835.0, 2835.0, 2835.0])
"""Effective exposure of CEERS (Bagley et al. 2023, ApJL 946, L12)."""
THROUGHPUT: FloatArray = np.array([0.33, 0.42, 0.49, 0.46, 0.52, 0.50])
"""Mean throughput of telescope and instrument between the edges, read off the published curves."""
TELESCOPE_AREA_M2 = 25.4
PLANCK_J_S = 6.62607015e-34
NJY_W_M2_HZ = 1e-35

MAG_ZERO_NJY = 31.4
"""AB magnitude of 1 nJy."""


def njy_per_mjy_sr(pixel_arcsec: float) -> float:
    """Flux in a pixel [nJy] for a surface brightness of 1 MJy/sr."""
    return 1e15 * pixel_area_sr(pixel_arcsec)


def pixel_area_sr(pixel_arcsec: float) -> float:
    """Solid angle of a square pixel [sr]."""
    return float(np.radians(pixel_arcsec / 3600.0)) ** 2


def background_rms_njy(pixel_arcsec: float) -> FloatArray:
    """Background rms a pixel [6] in nJy: that of CEERS; summed light has the same noise on every grid."""
    return RMS_MJY_SR * njy_per_mjy_sr(RMS_PIXEL_ARCSEC) * (pixel_arcsec / RMS_PIXEL_ARCSEC)


def electrons_per_njy() -> FloatArray:
    """Electrons [6] that a source of 1 nJy gives in the exposure: area x throughput x d ln(lambda) / h."""
    width = np.log(EDGES_MICRON[:, 1] / EDGES_MICRON[:, 0])
    return NJY_W_M2_HZ * TELESCOPE_AREA_M2 * THROUGHPUT * width * EXPOSURE_S / PLANCK_J_S


def magnitudes(flux_njy: FloatArray) -> FloatArray:
    """AB magnitudes of fluxes [nJy] of any shape; NaN where there is no flux."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(flux_njy > 0, MAG_ZERO_NJY - 2.5 * np.log10(flux_njy), np.nan)


def fluxes(mag: FloatArray | float) -> FloatArray:
    """Fluxes [nJy] of AB magnitudes."""
    return 10.0 ** (0.4 * (MAG_ZERO_NJY - np.asarray(mag)))


COUNT_SLOPE = 0.24
COUNTS_AT_26 = 45.0
"""Galaxies a square arcminute and magnitude at F200W = 26, and the slope of its logarithm: dN/dm rises to the
limit about as in Windhorst et al. (2023), AJ 165, 13 (2e4 a square degree at 22, 5e5 at 28)."""
