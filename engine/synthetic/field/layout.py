"""The files of synthetic mosaics: names, headers, WCS, and writing of them a strip of rows at a time."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from engine.synthetic.field.bands import (
    BANDS,
    EXPOSURE_S,
    FloatArray,
    background_rms_njy,
    njy_per_mjy_sr,
    pixel_area_sr,
)
from engine.synthetic.field.config import FieldConfig
from engine.synthetic.field.mosaic import Grid, Strip, channel_grid
from engine.synthetic.field.population import field_arcsec

FIELD_GAP_ARCSEC = 120.0
"""Empty sky between fields."""
DJA_UNIT_NJY = 10.0
BLOCK_BYTES = 2880


def field_name(config: FieldConfig, index: int) -> str:
    """Name of field `index`, 0 to `num_fields` - 1."""
    return f"{config.field}{index + 1}"


def file_names(config: FieldConfig, index: int, band: int) -> dict[str, str]:
    """Paths below the root by what they hold: `i2d`, or `sci` and `wht`."""
    field, name = field_name(config, index), BANDS[band]
    if config.layout == "stsci":
        return {"i2d": f"{field}/hlsp_synthetic_nircam_{field}_{name}_i2d.fits"}
    return {kind: f"{field}/{field}-{name}-clear_drc_{kind}.fits" for kind in ("sci", "wht")}


def wcs_header(config: FieldConfig, index: int, grid: Grid) -> fits.Header:
    """TAN WCS of a mosaic whose reference pixel is its middle, so that grids of one field share their corners."""
    header = fits.Header()
    width, _ = field_arcsec(config)
    east = index * (width + FIELD_GAP_ARCSEC) / 3600.0 / np.cos(np.radians(config.dec_deg))
    turn, scale = np.radians(config.position_angle_deg), grid.pixel_arcsec / 3600.0
    header["WCSAXES"] = 2
    header["CRPIX1"], header["CRPIX2"] = grid.width / 2 + 0.5, grid.height / 2 + 0.5
    header["CRVAL1"], header["CRVAL2"] = (config.ra_deg + east) % 360.0, config.dec_deg
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
    header["CUNIT1"], header["CUNIT2"] = "deg", "deg"
    header["CD1_1"], header["CD1_2"] = -scale * np.cos(turn), scale * np.sin(turn)
    header["CD2_1"], header["CD2_2"] = scale * np.sin(turn), scale * np.cos(turn)
    header["RADESYS"] = "ICRS"
    return header


def sky_positions(
    config: FieldConfig, index: int, u: FloatArray, v: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Right ascension and declination [deg] of places [arcsec] from the mosaic's lower left corner."""
    grid = channel_grid(config, 0)
    wcs = WCS(wcs_header(config, index, grid))
    ra, dec = wcs.pixel_to_world_values(u / grid.pixel_arcsec - 0.5, v / grid.pixel_arcsec - 0.5)
    return np.asarray(ra), np.asarray(dec)


def stsci_planes(config: FieldConfig, band: int, strip: Strip, grid: Grid) -> dict[str, FloatArray]:
    """SCI and ERR [MJy/sr] and WHT [(MJy/sr)^-2] of a strip, as in i2d files."""
    unit = np.float32(1.0 / njy_per_mjy_sr(grid.pixel_arcsec))
    empty = np.float32(np.nan if config.fill == "nan" else 0.0)
    weight = np.float32((background_rms_njy(grid.pixel_arcsec)[band] * unit) ** -2)
    return {
        "SCI": np.where(strip.covered, strip.science * unit, empty),
        "ERR": np.where(strip.covered, strip.error * unit, empty),
        "WHT": np.where(strip.covered, weight, np.float32(0.0)),
    }


def dja_planes(band: int, strip: Strip, grid: Grid) -> dict[str, FloatArray]:
    """Science [10 nJy] and weight [(10 nJy)^-2] of a strip, as in grizli's files."""
    weight = np.float32((background_rms_njy(grid.pixel_arcsec)[band] / DJA_UNIT_NJY) ** -2)
    return {
        "sci": strip.science / np.float32(DJA_UNIT_NJY),
        "wht": np.where(strip.covered, weight, np.float32(0.0)),
    }


def headers(config: FieldConfig, index: int, band: int, grid: Grid) -> dict[str, list[fits.Header]]:
    """Headers of the HDUs with data of each file, see `file_names`; the primary of i2d files comes first."""
    sky = wcs_header(config, index, grid)
    about = {
        "TELESCOP": "JWST", "INSTRUME": "NIRCAM", "FILTER": BANDS[band].upper(), "PUPIL": "CLEAR",
        "TARGNAME": field_name(config, index), "XPOSURE": float(EXPOSURE_S[band]), "ORIGIN": "synthetic",
    }  # fmt: skip
    if config.layout == "stsci":
        area = {"PIXAR_SR": pixel_area_sr(grid.pixel_arcsec), "PIXAR_A2": grid.pixel_arcsec**2}
        units = {"SCI": {"BUNIT": "MJy/sr", **area}, "ERR": {"BUNIT": "MJy/sr"}, "WHT": {}}
        planes = [_image_header(grid, {"EXTNAME": name, **cards}, sky) for name, cards in units.items()]
        return {"i2d": [_empty_primary(about), *planes]}
    unit = {"sci": {"BUNIT": "10.0*nanoJansky", "PHOTFNU": 1e-9 * DJA_UNIT_NJY}, "wht": {}}
    return {kind: [_image_header(grid, about | cards, sky, True)] for kind, cards in unit.items()}


def _empty_primary(cards: Mapping[str, str | float]) -> fits.Header:
    header = fits.PrimaryHDU().header
    header.update(cards)
    return header


def _image_header(
    grid: Grid, cards: Mapping[str, str | float], sky: fits.Header, is_primary: bool = False
) -> fits.Header:
    """Header of a float32 image; no data needed."""
    first = ("SIMPLE", True) if is_primary else ("XTENSION", "IMAGE")
    header = fits.Header(
        [first, ("BITPIX", -32), ("NAXIS", 2), ("NAXIS1", grid.width), ("NAXIS2", grid.height)]
    )
    if is_primary:
        header["EXTEND"] = True
    else:
        header["PCOUNT"], header["GCOUNT"] = 0, 1
    header.update(cards)
    header.update(sky)
    return header


@dataclass(frozen=True, slots=True)
class _Plane:
    offset: int
    width: int


class MosaicFile:
    """A local FITS file of float32 images whose rows may be written in any order; unwritten ones are 0.

    Parameters
    ----------
    path
        Where to create it.
    headers
        Of the HDUs; those with NAXIS = 2 are the planes, in order.
    """

    def __init__(self, path: Path, headers: list[fits.Header]) -> None:
        self._file = path.open("wb")
        self._planes: list[_Plane] = []
        for header in headers:
            self._file.write(header.tostring().encode("ascii"))
            if header["NAXIS"] == 2:
                width, height = (int(str(header[key])) for key in ("NAXIS1", "NAXIS2"))
                self._planes.append(_Plane(self._file.tell(), width))
                size = 4 * width * height
                self._file.seek(-(-size // BLOCK_BYTES) * BLOCK_BYTES, 1)
        self._file.truncate(self._file.tell())

    def write_rows(self, plane: int, first_row: int, values: FloatArray) -> None:
        """Write rows [R, W] of a plane from `first_row` on."""
        target = self._planes[plane]
        self._file.seek(target.offset + 4 * target.width * first_row)
        self._file.write(values.astype(">f4").tobytes())

    def __enter__(self) -> "MosaicFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
