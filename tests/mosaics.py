"""Small NIRCam mosaics in the layouts of STScI and the DJA, written by astropy: what sources are tested on."""

import gzip
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from astropy.io import fits

from engine.images.bands import BANDS
from engine.images.wcs import Grid

STEP = 0.03 / 3600
NJY = 1e15 * np.radians(STEP) ** 2
"""1 MJy/sr in nJy on a pixel of 0.03 arcsec."""


def grid(shape: tuple[int, int] = (300, 400), step: float = STEP, angle: float = 12.0) -> Grid:
    c, s = step * np.cos(np.radians(angle)), step * np.sin(np.radians(angle))
    centre = ((shape[1] + 1) / 2, (shape[0] + 1) / 2)
    return Grid(shape, centre, (214.9, 52.8), (-c, s, s, c))


def header(g: Grid, **cards: object) -> fits.Header:
    return fits.Header(
        {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CUNIT1": "deg", "CUNIT2": "deg", "RADESYS": "ICRS",
         "CRPIX1": g.crpix[0], "CRPIX2": g.crpix[1], "CRVAL1": g.crval[0], "CRVAL2": g.crval[1],
         "CD1_1": g.cd[0], "CD1_2": g.cd[1], "CD2_1": g.cd[2], "CD2_2": g.cd[3], **cards}
    )  # fmt: skip


@dataclass
class Field:
    """Noise of 1, error 1, every pixel another value; 2 MJy/sr is what band i has in its background, times i."""

    folder: Path
    name: str = "nircam1"
    grid: Grid = field(default_factory=grid)
    images: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(7)
        for i, band in enumerate(BANDS):
            self.images[band] = (2.0 * i + rng.normal(size=self.grid.shape)).astype(np.float32)

    def path(self, band: str) -> Path:
        return self.folder / f"hlsp_ceers_jwst_nircam_{self.name}_{band}_dr0.5_i2d.fits"

    def write(self, bands: tuple[str, ...] = BANDS, packed: bool = False, **cards: object) -> "Field":
        """Write i2d files; `cards` change the header of SCI (None removes)."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for band in bands:
            data = self.images[band]
            hdus = [
                fits.ImageHDU(data, header(self.grid, BUNIT="MJy/sr", PIXAR_SR=NJY / 1e15), name="SCI"),
                fits.ImageHDU(np.where(np.isfinite(data), 1, np.nan).astype("f4"), name="ERR"),
                fits.ImageHDU(np.ones((1, *data.shape), np.int32), name="CON"),
                fits.ImageHDU(np.isfinite(data).astype("f4"), name="WHT"),
            ]
            for key, value in cards.items():
                if value is None:
                    hdus[0].header.remove(key)
                else:
                    hdus[0].header[key] = value
            fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(self.path(band), overwrite=True)
            if packed:
                data = self.path(band).read_bytes()
                self.path(band).unlink()
                self.path(band).with_suffix(".fits.gz").write_bytes(gzip.compress(data, 1))
        return self


def write_catalogue(path: Path, ra: np.ndarray, dec: np.ndarray, **more: object) -> str:
    from astropy.table import Table

    Table({"NUMBER": np.arange(len(ra)) + 1000, "RA": ra, "DEC": dec, **more}).write(path, overwrite=True)
    return str(path)
