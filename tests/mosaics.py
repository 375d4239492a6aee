"""Small NIRCam mosaics in the layouts of STScI and the DJA, written by astropy: what sources are tested on."""

import gzip
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from astropy.io import fits

from engine.images.bands import BANDS
from engine.images.wcs import Grid
from engine.schema import matrix
from engine.sources.nircam import NircamSource
from engine.sources.nircam_config import CatalogueConfig, NircamConfig
from engine.stage import UnitTable

SIZE = 24
"""Pixels of a side of the cutouts that are asked for."""
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


def config(uri: str = "", **more: object) -> NircamConfig:
    catalogue = CatalogueConfig(uri=uri, id="NUMBER", ra="RA", dec="DEC") if uri else None
    return NircamConfig(**{"size": SIZE, "strip_pixels": 400 * 70, "catalogue": catalogue, **more})


def positions(x: np.ndarray, y: np.ndarray, field: Field, **more: object) -> str:
    ra, dec = field.grid.to_sky(x, y)
    return write_catalogue(field.folder / "cat.ecsv", ra, dec, **more)


def read(field: Field, settings: NircamConfig) -> UnitTable:
    """Read all units; check that each accounts for all its objects."""
    source = NircamSource(str(field.folder), config=settings)
    tables = [source.read(unit) for unit in source.plan()]
    for table in tables:
        objects = sum(row is not None for row in table.rejected["row"].to_pylist())
        assert table.rows_in == table.rows.num_rows + objects
        assert table.rows.schema.names == [column.name for column in source.columns]
    rows, rejected = (pa.concat_tables([getattr(t, name) for t in tables]) for name in ("rows", "rejected"))
    return UnitTable(rows, rejected, sum(t.rows_in for t in tables))


def cubes(table: UnitTable, name: str) -> np.ndarray:
    return matrix(table.rows, name).reshape(-1, 6, SIZE, SIZE)


def dja(field: Field, packed: bool = False) -> None:
    """SW on half the pixel of LW, common borders; units of 10 nJy; weights beside; 2 nJy in every LW pixel's area."""
    for path in field.folder.glob("*_i2d.fits"):
        path.unlink()
    ending = ".fits.gz" if packed else ".fits"
    for i, band in enumerate(BANDS):
        fine = i < 3
        shape = (600, 800) if fine else (300, 400)
        g = replace(grid(shape, step=0.02 / 3600 if fine else 0.04 / 3600))
        rng = np.random.default_rng(i)
        field.images[band] = rng.normal(size=shape).astype("f4")
        cards = header(g, BUNIT="10.0*nanoJansky", ZP=28.9, PHOTFNU=1e-8)
        stem = field.folder / f"ceers-v7.2-{band}-clear_drc_"
        fits.PrimaryHDU(field.images[band], cards).writeto(f"{stem}sci{ending}", overwrite=True)
        fits.PrimaryHDU(np.full(shape, 4.0, "f4"), cards).writeto(f"{stem}wht{ending}", overwrite=True)
        fits.PrimaryHDU(np.ones((3, 3))).writeto(f"{stem}exp{ending}", overwrite=True)
    field.grid = grid((300, 400), step=0.04 / 3600)


def psfs(folder: Path, scale: float = 0.03) -> str:
    folder.mkdir(exist_ok=True)
    y, x = np.indices((41, 41)) - 20
    for i, band in enumerate(BANDS):
        image = np.exp(-(x**2 + y**2) / (2 * (1.5 + 0.2 * i) ** 2))
        fits.PrimaryHDU(image, fits.Header({"PIXELSCL": scale})).writeto(
            folder / f"psf_{band}.fits", overwrite=True
        )
    return str(folder)
