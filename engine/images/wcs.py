"""Pixel grids on the sky: tangent planes only, and how the grids of two bands lie on each other.

Pixels are counted from 0 at the centre of the first one, as numpy does; CRPIX counts from 1, as FITS does.
"""

import math
import warnings
from dataclasses import dataclass, replace

import numpy as np
from astropy.io import fits
from astropy.io.fits.verify import VerifyError
from astropy.wcs import WCS, FITSFixedWarning

from engine.errors import SourceError

ALIGNED_PIXELS = 0.02
"""Grids whose pixels lie on each other this well [pixel] everywhere are one grid."""

NATIVE, BINNED, REPROJECTED, ABSENT = 0, 2, -1, -9
"""How a band came onto the common grid: column `resampling`."""

_KEYS = (
    *(f"{name}{axis}" for name in ("NAXIS", "CTYPE", "CUNIT", "CRPIX", "CRVAL", "CDELT", "CROTA") for axis in (1, 2)),
    *(f"{name}{i}_{j}" for name in ("CD", "PC", "PV") for i in (1, 2) for j in (1, 2)),
    "RADESYS", "EQUINOX", "LONPOLE", "LATPOLE",
)  # fmt: skip
"""What a plain celestial WCS of two axes is made of: all else in a JWST header is slow to parse."""

_DISTORTED = ("A_ORDER", "B_ORDER", "CPDIS1", "CPDIS2", "D2IMDIS1", "D2IMDIS2")

_SCALES_ARCSEC = (1e-3, 60.0)
_FRAMES = ("ICRS", "FK5", "")


@dataclass(frozen=True)
class Grid:
    """A tangent plane cut into pixels.

    Attributes
    ----------
    shape
        Rows and columns.
    crpix, crval
        Reference pixel, from 1; tangent point, ICRS [deg].
    cd
        CD1_1, CD1_2, CD2_1, CD2_2 [deg / pixel].
    """

    shape: tuple[int, int]
    crpix: tuple[float, float]
    crval: tuple[float, float]
    cd: tuple[float, float, float, float]

    @property
    def pixel_scale(self) -> float:
        """Side of a square of a pixel's area [arcsec]."""
        return 3600 * math.sqrt(abs(self.cd[0] * self.cd[3] - self.cd[1] * self.cd[2]))

    @property
    def area_sr(self) -> float:
        """Area of a pixel at the tangent point [sr]."""
        return math.radians(self.pixel_scale / 3600) ** 2

    def wcs(self) -> WCS:
        """Return the grid as astropy's."""
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        wcs.wcs.cunit = ["deg", "deg"]
        wcs.wcs.crpix, wcs.wcs.crval = self.crpix, self.crval
        wcs.wcs.cd = np.reshape(self.cd, (2, 2))
        wcs.wcs.radesys = "ICRS"
        wcs.array_shape = self.shape
        wcs.wcs.set()
        return wcs

    def to_pixel(self, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixel of positions, NaN where a position is not within 80 deg of the tangent point.

        Parameters
        ----------
        ra, dec
            ICRS [deg], shape [B].

        Returns
        -------
        x, y
            float64 [B], from 0.
        """
        ra, dec = np.asarray(ra, np.float64), np.asarray(dec, np.float64)
        x, y = np.full(ra.shape, np.nan), np.full(ra.shape, np.nan)
        near = self._near(ra, dec)
        if near.any():
            x[near], y[near] = self.wcs().wcs_world2pix(ra[near], dec[near], 0)
        return x, y

    def to_sky(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions of pixels (from 0), ICRS [deg]; `ra` is within 0 to 360."""
        ra, dec = self.wcs().wcs_pix2world(np.asarray(x, np.float64), np.asarray(y, np.float64), 0)
        return ra % 360.0, dec

    def window(self, y0: int, x0: int, shape: tuple[int, int]) -> "Grid":
        """Return the grid of a window that begins at pixel (x0, y0), which may lie outside."""
        return replace(self, shape=shape, crpix=(self.crpix[0] - x0, self.crpix[1] - y0))

    def _near(self, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
        """Tell what is on the side of the sky that a tangent plane shows."""
        a, d = np.radians(ra - self.crval[0]), np.radians(dec)
        d0 = math.radians(self.crval[1])
        with np.errstate(invalid="ignore"):
            cosine = np.sin(d) * math.sin(d0) + np.cos(d) * math.cos(d0) * np.cos(a)
            return (cosine > math.cos(math.radians(80.0))) & (np.abs(dec) <= 90.0)


def grid_of(header: fits.Header, where: str) -> Grid:
    """Read the grid of a two-dimensional image from its header.

    Raises
    ------
    SourceError
        With reason `bad_wcs`: no celestial axes, another projection than TAN, distortions, a frame that is
        not ICRS or FK5 (J2000, taken as ICRS: they agree to 25 mas), a scale that no camera has.
    """
    try:
        wcs = _parse(header)
        types = tuple(str(name) for name in wcs.wcs.ctype)
        matrix = np.asarray(wcs.pixel_scale_matrix)
        plain = not any(key in header for key in _DISTORTED) and wcs.wcs.lonpole == 180.0
        frame = str(wcs.wcs.radesys)
        crpix, crval = (tuple(map(float, values)) for values in (wcs.wcs.crpix, wcs.wcs.crval))
    except (VerifyError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise _bad(where, "WCS cannot be read", f"{type(error).__name__}: {error}") from error
    if types != ("RA---TAN", "DEC--TAN"):
        raise _bad(where, "has no celestial WCS of the form needed", ", ".join(types).strip(", ") or "none")
    if not plain or frame not in _FRAMES:
        raise _bad(where, "WCS has distortions, LONPOLE or a frame that are not handled", frame)
    shape = (int(str(header["NAXIS2"])), int(str(header["NAXIS1"])))
    cd = (float(matrix[0, 0]), float(matrix[0, 1]), float(matrix[1, 0]), float(matrix[1, 1]))
    grid = Grid(shape, (crpix[0], crpix[1]), (crval[0], crval[1]), cd)
    if not np.isfinite([*crpix, *crval, *grid.cd]).all() or not (
        _SCALES_ARCSEC[0] <= grid.pixel_scale <= _SCALES_ARCSEC[1]
    ):
        raise _bad(where, "WCS has no sensible pixel scale", f"{grid.pixel_scale:.4g} arcsec")
    return grid


def _parse(header: fits.Header) -> WCS:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        return WCS(fits.Header([(key, header[key]) for key in _KEYS if key in header]), naxis=2)


def _bad(where: str, what: str, got: str) -> SourceError:
    return SourceError(what, where, got, "RA---TAN, DEC--TAN in ICRS", reason="bad_wcs")


@dataclass(frozen=True, slots=True)
class Relation:
    """How pixels of a band's grid lie in the reference grid.

    `resampling` is NATIVE, BINNED or REPROJECTED. Reference pixel (x, y) is pixel (x + x0, y + y0) of a native
    band, and pixels f x + x0 ... f x + x0 + f - 1 (y alike), f = 2, of a binned one.
    """

    resampling: int
    x0: int = 0
    y0: int = 0

    @property
    def factor(self) -> int:
        """Pixels of the band a pixel of the reference, along one axis."""
        return 2 if self.resampling == BINNED else 1


def relate(reference: Grid, band: Grid, where: str) -> Relation:
    """Find out how a band comes onto the reference grid.

    Raises
    ------
    SourceError
        With reason `bad_wcs` if the two do not overlap on the sky.
    """
    rows, columns = reference.shape
    y, x = (a.ravel() for a in np.meshgrid([0, rows / 2, rows - 1], [0, columns / 2, columns - 1]))
    band_x, band_y = band.to_pixel(*reference.to_sky(x, y))
    for resampling, factor in ((NATIVE, 1), (BINNED, 2)):
        x0, y0 = _offset(band_x, x, factor), _offset(band_y, y, factor)
        if x0 is not None and y0 is not None:
            return _checked(Relation(resampling, x0, y0), reference, band, where)
    return _checked(Relation(REPROJECTED), reference, band, where)


def _offset(band: np.ndarray, reference: np.ndarray, factor: int) -> int | None:
    """Whole pixels between two grids along one axis; None if it is not that."""
    difference = band - (factor * reference + (factor - 1) / 2)
    if not np.isfinite(difference).all():
        return None
    offset = round(float(difference.mean()))
    return offset if np.abs(difference - offset).max() <= ALIGNED_PIXELS else None


def _checked(relation: Relation, reference: Grid, band: Grid, where: str) -> Relation:
    if not _overlap(reference, band):
        what = "does not overlap with the band that gives the common grid"
        got, expected = (f"tangent point {g.crval}, {g.shape} pixels" for g in (band, reference))
        raise SourceError(what, where, got, expected, reason="bad_wcs")
    return relation


def _overlap(one: Grid, other: Grid) -> bool:
    """Tell whether the boxes of two grids, both in pixels of `one`, share a pixel."""
    x, y = one.to_pixel(*other.to_sky(*outline(other.shape)))
    if not np.isfinite(x).all():
        return False
    return bool(x.max() >= 0 and y.max() >= 0 and x.min() < one.shape[1] and y.min() < one.shape[0])


def outline(shape: tuple[int, int], num: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Points around the border of an image, x and y [pixel], `num` along each side and the corners."""
    rows, columns = shape
    along = np.linspace(0, 1, num + 1)
    x = np.concatenate([along, along, np.zeros(num + 1), np.ones(num + 1)]) * columns - 0.5
    y = np.concatenate([np.zeros(num + 1), np.ones(num + 1), along, along]) * rows - 0.5
    return x, y
